"""What a version may learn: its audience's feedback; for everyone also what several people gave alike.

What one person taught for that person alone never reaches shared weights: they answer others too, and weights cannot
tell who asks. What several people taught alike is no longer one person's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from smallai_assistant.feedback import JudgedTurn, answers_with_labels
from smallai_assistant.learning.rows import Row, rows_of
from smallai_assistant.learning.text import normalized
from smallai_assistant.types import AudioPart
from smallai_assistant.validation import EVERYONE, is_one_person


@dataclass(frozen=True, slots=True)
class Agreement:
    """What several people said alike, each for that person alone.

    Attributes:
        people: their audiences, sorted.
        feedback_ids: the rows in which they said it, oldest first.
    """

    people: tuple[str, ...]
    feedback_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SharedFeedback:
    """The feedback that a version may learn.

    Attributes:
        judged_turns: in their order.
        agreements: by which personal rows are among them.
        n_personal: number of rows that stay with a person or a group; 0 for a version of theirs.
    """

    judged_turns: tuple[JudgedTurn, ...]
    agreements: tuple[Agreement, ...]
    n_personal: int


def shared_feedback(judged_turns: Sequence[JudgedTurn], *, min_people: int) -> SharedFeedback:
    """Selects the feedback that may become shared weights.

    Args:
        judged_turns: oldest first.
        min_people: so many people must have said the same.
    """
    said: defaultdict[Hashable, list[Row]] = defaultdict(list)
    for row in rows_of([judged_turn for judged_turn in judged_turns if is_one_person(judged_turn.audience)]):
        said[_statement(row)].append(row)
    agreements = []
    for rows in said.values():
        people = {row.judged_turn.audience for row in rows}
        if len(people) >= min_people:
            agreements.append(Agreement(tuple(sorted(people)), tuple(row.id for row in rows)))
    agreed = {row_id for agreement in agreements for row_id in agreement.feedback_ids}
    kept = tuple(row for row in judged_turns if row.audience == EVERYONE or row.feedback.id in agreed)
    return SharedFeedback(kept, tuple(agreements), len(judged_turns) - len(kept))


def feedback_for(audience: str, judged_turns: Sequence[JudgedTurn], *, min_people: int) -> SharedFeedback:
    """Selects the feedback that a version for an audience may learn: see `shared_feedback`, or the audience's own."""
    if audience == EVERYONE:
        return shared_feedback(judged_turns, min_people=min_people)
    return SharedFeedback(tuple(row for row in judged_turns if row.audience == audience), (), 0)


def _statement(row: Row) -> Hashable:
    """What a row says, so that two rows that say the same have equal statements."""
    given, turn = row.feedback, row.judged_turn.turn
    if given.signal is not None:
        return ("signal", given.item or "", given.signal, given.value)
    if given.correction is None:
        return ("rating", row.subject, row.answer, given.is_good)
    right = normalized(given.correction)
    if answers_with_labels(turn):  # people show different pictures of one thing
        return ("label", right)
    if any(isinstance(part, AudioPart) for part in turn.request.parts):  # and say the same words in their own voices
        return ("words", right)
    return ("answer", row.subject, right)
