"""Counts the feedback that no learning cycle has seen, for everyone and for each person and group."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from smallai_assistant.feedback import JudgedTurn
from smallai_assistant.learning.agreement import shared_feedback
from smallai_assistant.learning.cycle_history import CycleRecord
from smallai_assistant.learning.feedback_service import LearningStores
from smallai_assistant.validation import EVERYONE


@dataclass(frozen=True, slots=True)
class _Rows:
    """The feedback of a task that may train.

    Attributes:
        revisions: the state of the feedback when it was read.
        judged_turns: all of it, oldest first.
        of_audience: the number in the table and the time of each row, by audience.
    """

    revisions: tuple[int, ...]
    judged_turns: Sequence[JudgedTurn]
    of_audience: dict[str, list[tuple[int, float]]]


class NewFeedback:
    """Counts new feedback. All of a task's feedback is read once after every change, for all audiences together.

    Args:
        min_people: what so many people say alike may be learned for everyone.
    """

    def __init__(self, stores: LearningStores, *, min_people: int) -> None:
        self._stores = stores
        self._min_people = min_people
        self._rows: dict[str, _Rows] = {}
        # Task -> the state of its feedback and of its cycles, and the times of what is new for everyone.
        self._shared: dict[str, tuple[tuple[int, ...], list[float]]] = {}

    def count(self, name: str, last: CycleRecord | None, *, audience: str = EVERYONE, until: float = math.inf) -> int:
        """The rows given until then that a version for the audience may learn, and that no cycle for it has seen."""
        return sum(at <= until for at in self._times(name, last, audience))

    def audiences(self, name: str, n_rows: int) -> list[str]:
        """The persons and groups who have given so many rows, those with the most first."""
        rows = self._read(name).of_audience
        found = [audience for audience, given in rows.items() if len(given) >= n_rows and audience != EVERYONE]
        return sorted(found, key=lambda audience: -len(rows[audience]))

    def _times(self, name: str, last: CycleRecord | None, audience: str) -> list[float]:
        seen = 0 if last is None else last.learned_up_to
        if audience != EVERYONE:
            return [at for number, at in self._read(name).of_audience.get(audience, ()) if number > seen]
        state = (*self._stores.feedback.revisions(name), -1 if last is None else last.learned_up_to)
        known = self._shared.get(name)
        if known is None or known[0] != state:
            known = self._shared[name] = (state, self._times_for_everyone(name, last))
        return known[1]

    def _times_for_everyone(self, name: str, last: CycleRecord | None) -> list[float]:
        judged_turns = self._read(name).judged_turns
        if last is not None:
            new = self._stores.cycles.ids_after(name, last.learned_up_to)
            seen = [judged_turn for judged_turn in judged_turns if judged_turn.feedback.id not in new]
        else:  # an earlier version of the program kept no record of its cycles, but the versions that they made
            versions = self._stores.adapters.versions(name, EVERYONE)
            since = versions[-1].created_at if versions else None
            seen = [row for row in judged_turns if since is not None and row.feedback.created_at <= since]
        # A row may become shared long after it was given, when enough people have said the same.
        before, now = (shared_feedback(rows, min_people=self._min_people) for rows in (seen, judged_turns))
        known = {judged_turn.feedback.id for judged_turn in before.judged_turns}
        return [
            judged_turn.feedback.created_at.timestamp()
            for judged_turn in now.judged_turns
            if judged_turn.feedback.may_train and judged_turn.feedback.id not in known
        ]

    def _read(self, name: str) -> _Rows:
        revisions = self._stores.feedback.revisions(name)
        known = self._rows.get(name)
        if known is not None and known.revisions == revisions:
            return known
        judged_turns = self._stores.feedback.judged_turns(name)
        numbers = self._stores.cycles.numbers(name)
        of_audience: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for row in judged_turns:
            if row.feedback.may_train and row.feedback.id in numbers:
                of_audience[row.audience].append((numbers[row.feedback.id], row.feedback.created_at.timestamp()))
        self._rows[name] = known = _Rows(revisions, judged_turns, dict(of_audience))
        return known
