"""Screening: decides which feedback may train, and how much each row counts.

A handful of poisoned rows is enough to spoil a model that is tuned on ratings. Nothing is deleted here: rows that are
set aside are reported with the reason, and a person may trust their source.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from smallai_assistant.feedback import JudgedTurn
from smallai_assistant.learning.quarantine import (
    Labels,
    Quarantine,
    at_odds,
    bursts,
    contradicted_corrections,
    contradicted_labels,
    pushed_targets,
    without,
)
from smallai_assistant.learning.rows import Row, Target, rows_of
from smallai_assistant.learning.text import jaccard

# Jaccard similarity of the words of two questions, from which they are the same question: one word of ten may differ.
MIN_SAME_QUESTION = 0.9
# Every new question is compared with the latest ones of the same source and statement. The limit keeps the cost linear
# for a source that says the same thousands of times; what is older than that counts as new.
MAX_COMPARED = 200
# A source's rows together weigh at most twice the median source, but never less than 50 rows. A person who teaches
# alone or among a few others does not reach the cap; somebody with a thousand rows beside ten people does.
MIN_CAP, CAP_IN_MEDIANS = 50, 2.0

Check = Callable[[Sequence[Row]], list[Quarantine]]


@dataclass(frozen=True, slots=True)
class ScreenedFeedback:
    """The result of screening.

    Attributes:
        judged_turns: the feedback that may train, with its turns, oldest first.
        weights: how much each row counts, by feedback id, in (0, 1]: all rows of a source share its cap.
        quarantined: the rows that were set aside.
        n_collapsed: number of rows left out because the same source says the same in a newer row.
    """

    judged_turns: tuple[JudgedTurn, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    quarantined: tuple[Quarantine, ...] = ()
    n_collapsed: int = 0

    def by_source(self) -> dict[str, int]:
        """Number of rows that may train, by source."""
        return dict(Counter(judged_turn.feedback.source for judged_turn in self.judged_turns))


@dataclass(slots=True)
class Screening:
    """The rows on their way through the stages.

    Attributes:
        rows: the rows that the stages so far let pass, oldest first.
        trusted: sources that no check sets aside.
    """

    rows: list[Row]
    trusted: frozenset[str] = frozenset()
    quarantined: list[Quarantine] = field(default_factory=list)
    n_collapsed: int = 0

    def set_aside(self, *checks: Check) -> None:
        """Removes what the checks find. All of them see the same rows: no check hides rows from the next one."""
        found = [entry for check in checks for entry in check(self.rows) if entry.source not in self.trusted]
        self.quarantined += found
        self.rows = without(self.rows, found)

    def keep_last_words(self) -> None:
        """Keeps what each source said last about a turn."""
        self.rows = last_words(self.rows)

    def collapse_duplicates(self) -> None:
        """Keeps the newest of the rows in which a source says the same about the same question."""
        kept = distinct(self.rows)
        self.n_collapsed += len(self.rows) - len(kept)
        self.rows = kept


def screen(
    judged_turns: Sequence[JudgedTurn],
    *,
    trusted: Collection[str] = (),
    labelled: Callable[[Sequence[JudgedTurn]], Labels] | None = None,
) -> ScreenedFeedback:
    """Screens the feedback of one task.

    Args:
        judged_turns: oldest first.
        trusted: sources that are not set aside, whatever they do.
        labelled: returns the labels and vectors of judged turns, by feedback id; None if words say it all.
    """
    screening = Screening(rows_of(with_consent(judged_turns)), frozenset(trusted))
    # Volume first, on all rows: of a flood of ratings on the same turns only the last words would be left to see.
    screening.set_aside(bursts, pushed_targets)
    screening.keep_last_words()
    screening.set_aside(at_odds)
    screening.collapse_duplicates()
    # Votes last: a source that repeats itself must not vote more often, and who is set aside must not vote at all.
    screening.set_aside(contradicted_corrections, partial(contradicted_labels, labelled=labelled))
    return ScreenedFeedback(
        judged_turns=tuple(row.judged_turn for row in screening.rows),
        weights=capped_weights(screening.rows),
        quarantined=tuple(screening.quarantined),
        n_collapsed=screening.n_collapsed,
    )


def with_consent(judged_turns: Sequence[JudgedTurn]) -> list[JudgedTurn]:
    """The feedback whose givers agree that it trains."""
    return [judged_turn for judged_turn in judged_turns if judged_turn.feedback.may_train]


class _Slot(NamedTuple):
    """Where a source's newer word replaces its older one."""

    source: str
    turn_id: str
    item: str
    kind: str


def last_words(rows: Sequence[Row]) -> list[Row]:
    """Keeps each source's last rating, last correction and last signal of each kind, for every turn and item.

    A thumb up and then a thumb down mean down. A correction also replaces an earlier thumb up.
    """
    last: dict[_Slot, Row] = {}
    for row in rows:
        feedback = row.feedback
        rating = _Slot(feedback.source, feedback.turn_id, feedback.item or "", "rating")
        if row.correction is not None:
            slot = rating._replace(kind="correction")
            earlier = last.get(rating)
            if earlier is not None and earlier.feedback.is_good:
                del last[rating]
        else:
            slot = rating._replace(kind=feedback.signal or ("rating" if feedback.is_good is not None else "comment"))
        last.pop(slot, None)  # so that the new row stands at its own place in the order, not at the old one's
        last[slot] = row
    return list(last.values())


class _Statement(NamedTuple):
    """What a source says about a question: a target, or a rating of an answer."""

    source: str
    said: Target | tuple[bool | None, str]


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Leaves out rows in which a source repeats itself about nearly the same question; the newest row stays.

    Only questions of words are compared. The same question about two pictures is two questions.
    """
    kept: list[Row] = []
    seen: defaultdict[_Statement, list[frozenset[str]]] = defaultdict(list)
    for row in reversed(rows):
        feedback = row.feedback
        is_judgement = feedback.correction is not None or feedback.is_good is not None
        if row.is_words_only and is_judgement and feedback.signal is None:
            statement = _Statement(row.source, row.target or (feedback.is_good, row.answer))
            words = frozenset(row.question.split())
            if any(jaccard(words, other) >= MIN_SAME_QUESTION for other in seen[statement][-MAX_COMPARED:]):
                continue
            seen[statement].append(words)
        kept.append(row)
    return kept[::-1]


def capped_weights(rows: Sequence[Row]) -> dict[str, float]:
    """The weight of each row, by feedback id: rows of a source over its cap share the cap."""
    counts = Counter(row.source for row in rows)
    if len(counts) < 2:  # who teaches alone outvotes nobody
        return {row.id: 1.0 for row in rows}
    # The low median is the count of a real source, also if there are only two.
    cap = max(MIN_CAP, CAP_IN_MEDIANS * statistics.median_low(counts.values()))
    return {row.id: min(1.0, cap / counts[row.source]) for row in rows}
