"""The split by time: the newest events judge, and the weights learned only from events before them.

It is for tasks that predict what comes next, such as the next choice of a user. A hash would let the weights learn what
happened after the event that they are asked about. The point of the split moves on from cycle to cycle (evaluation with
a rolling origin, Tashman 2000): what judged one version is learned by a later one, which is judged by newer events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smallai_assistant.feedback import HELD_OUT_ONE_IN, Example, JudgedTurn
from smallai_assistant.learning.evaluation import by_age

# When an event happened: the time of its feedback and, for feedback of one time, its id.
_Moment = tuple[datetime, str]
_FIRST: _Moment = (datetime.min.replace(tzinfo=UTC), "")


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """The examples of a cycle. All that are asked happened after all that are learned, and after all that the champion
    has learned.

    Attributes:
        replay: examples that the champion learned.
        training: all others before the point of the split.
        target: new examples that happened since.
        earlier: examples that happened since and judged the champion already.
    """

    replay: list[Example]
    training: list[Example]
    target: list[Example]
    earlier: list[Example]


def split_by_time(
    examples: Sequence[Example], judged_turns: Sequence[JudgedTurn], *, learned: frozenset[str], judged: frozenset[str]
) -> TimeSplit:
    """Holds out the newest of the new examples, one in four.

    Args:
        judged_turns: the feedback that the examples were made from.
        learned: the feedback that the champion learned.
        judged: the feedback that the champion was judged by.
    """
    moments = {row.feedback.id: (row.feedback.created_at, row.feedback.id) for row in judged_turns}

    def moment(example: Example) -> _Moment:
        # Its first feedback. A later one, such as stars for what was clicked, says more about the same event.
        return min((moments[row_id] for row_id in example.feedback_ids if row_id in moments), default=_FIRST)

    replay, rest = by_age(examples, learned)
    since = max(map(moment, replay), default=_FIRST)
    judged_before, new = by_age([example for example in rest if moment(example) > since], judged)
    n_asked = -(-len(new) // HELD_OUT_ONE_IN)
    begin = sorted(map(moment, new))[-n_asked] if new else None
    return TimeSplit(
        replay,
        training=[example for example in rest if begin is None or moment(example) < begin],
        target=[example for example in new if begin is not None and moment(example) >= begin],
        earlier=[example for example in judged_before if begin is not None and moment(example) >= begin],
    )
