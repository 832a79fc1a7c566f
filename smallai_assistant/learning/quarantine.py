"""The checks that set rows aside: each finds one kind of attack and says why.

A check gets the rows that the stages before it left, and returns the rows to set aside. It accuses a source only of
what a careless but honest person would not do by chance: a wrong accusation costs a person's whole feedback.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from smallai_assistant.feedback import JudgedTurn
from smallai_assistant.learning.nearest_neighbour_labels import MIN_VOTERS, Labelled, contradicting
from smallai_assistant.learning.rows import Row, Target, by_source
from smallai_assistant.learning.text import jaccard, normalized
from smallai_assistant.learning.truth_discovery import Claim, contradicted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Ratings and clicks of one source within a minute. The fastest rater of MovieLens 100k gave 30 in a minute; three times
# as many are out of a person's reach.
MAX_IN_BURST, BURST_S = 100, 60.0
# A source is at odds with the others if it errs in more than 75 % of at least four comparable cases, each judged by at
# least three sources. A careless person, wrong in two cases of five, errs in four of seven by chance: that must pass.
MIN_COMPARED, MIN_OPINIONS, MAX_AT_ODDS = 4, 3, 0.75
# Jaccard similarity of the words of two corrections, from which they say the same in different words.
MIN_SAME_OPINION = 0.5
# A target is pushed if at least five sources spend 80 % of their rows on it and give 60 % of all its rows. On MovieLens
# 100k, where popular films have many fans, these figures accuse nobody.
MIN_PUSHERS, MIN_SHARE_OF_SOURCE, MIN_SHARE_OF_TARGET = 5, 0.8, 0.6
# A shorter correction is a label such as "house cat", which many people may give to many pictures.
MIN_SLOGAN_WORDS = 3
# Stars below this are against an item; three of five is the middle of the scale.
MIN_LIKED_STARS = 3.0

# The label that a feedback gives, and the vector of the thing that it labels; see LearningTask.labelled.
Labels = Mapping[str, "tuple[str, npt.NDArray[np.float32]]"]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Rows of one source that are set aside, and the reason in words."""

    source: str
    reason: str
    feedback_ids: tuple[str, ...]


class _Topic(NamedTuple):
    """What opinions are compared on. Two answers to one question are two topics of ratings."""

    kind: str
    subject: str
    answer: str = ""


def bursts(rows: Sequence[Row]) -> list[Quarantine]:
    """Finds ratings and clicks that came faster than a person gives them; the source's other rows stay.

    Corrections are exempt: an import of labelled data may bring thousands at once.
    """
    found = []
    for source, given in by_source([row for row in rows if row.correction is None]).items():
        given.sort(key=lambda row: row.feedback.created_at)
        fast: list[str] = []
        end = 0
        for start in range(len(given) - MAX_IN_BURST):
            last = start + MAX_IN_BURST
            if (given[last].feedback.created_at - given[start].feedback.created_at).total_seconds() <= BURST_S:
                # Windows overlap: the rows before `end` are in the list already.
                fast += [row.id for row in given[max(start, end) : last + 1]]
                end = last + 1
        if fast:
            reason = f"more than {MAX_IN_BURST} ratings within {BURST_S:.0f} seconds"
            found.append(Quarantine(source, reason, tuple(fast)))
    return found


def pushed_targets(rows: Sequence[Row]) -> list[Quarantine]:
    """Finds groups of sources that do little but push one target, if few others want it."""
    sources = by_source(rows)
    pushed = {row.id: target for row in rows if (target := _pushed(row)) is not None}
    n_for = Counter(pushed.values())
    pushers: defaultdict[Target, list[str]] = defaultdict(list)
    for source, given in sources.items():
        if (target := _main_target(given, pushed)) is not None:
            pushers[target].append(source)
    found = []
    for target, names in pushers.items():
        n_theirs = sum(pushed.get(row.id) == target for name in names for row in sources[name])
        if len(names) >= MIN_PUSHERS and n_theirs >= MIN_SHARE_OF_TARGET * n_for[target]:
            # The reason is stored in reports. An item's name may stand there, a person's words may not: they would
            # outlive their erasure.
            what = repr(f"item {target.value}"[:80]) if target.kind == "item" else "one answer"
            reason = f"{len(names)} sources do little but push {what}"
            found += [Quarantine(name, reason, _ids(sources[name])) for name in names]
    return found


def at_odds(rows: Sequence[Row]) -> list[Quarantine]:
    """Finds sources that contradict what most others say of the same turn or question."""
    opinions: defaultdict[_Topic, dict[str, str]] = defaultdict(dict)  # by topic, then by source
    for row in rows:
        if row.correction is not None:
            opinions[_Topic("correction", row.subject)][row.source] = row.correction
        elif row.feedback.is_good is not None and row.feedback.signal is None:
            opinions[_Topic("rating", row.subject, row.answer)][row.source] = str(row.feedback.is_good)
    n_compared: Counter[str] = Counter()
    n_against: Counter[str] = Counter()
    for said in opinions.values():
        if len(said) < MIN_OPINIONS:
            continue
        counts = Counter(said.values())
        ((usual, n_usual),) = counts.most_common(1)
        for source, opinion in said.items():
            n_compared[source] += 1
            n_against[source] += n_usual > counts[opinion] and not _is_same_opinion(opinion, usual)
    sources = by_source(rows)
    return [
        Quarantine(source, f"contradicts most others in {n_against[source]} of {n} cases", _ids(sources[source]))
        for source, n in n_compared.items()
        if _is_nearly_all(n_against[source], n)
    ]


def contradicted_corrections(rows: Sequence[Row]) -> list[Quarantine]:
    """Finds corrections that contradict what most others say of similar questions; see `truth_discovery`.

    The other rows of their source stay, unless nearly all its corrections are contradicted.
    """
    claims = [
        Claim(row.id, row.source, row.correction, frozenset(row.question.split()))
        for row in rows
        if row.correction is not None and row.subject == row.question
    ]
    n_of = Counter(claim.source for claim in claims)
    ids: defaultdict[str, list[str]] = defaultdict(list)  # of contradicted claims, by source
    # Rows already flagged are excluded, and the vote is repeated until no new row is flagged: attackers who support
    # each other would otherwise protect each other.
    while flagged := contradicted(claims):
        for claim in flagged:
            ids[claim.source].append(claim.id)
        liars = {source for source, flagged_ids in ids.items() if _is_nearly_all(len(flagged_ids), n_of[source])}
        gone = {claim.id for claim in flagged}
        claims = [claim for claim in claims if claim.source not in liars and claim.id not in gone]
    reason = "contradicts what most others say of similar questions"
    sources = by_source(rows)
    found = []
    for source, flagged_ids in ids.items():
        if _is_nearly_all(len(flagged_ids), n_of[source]):
            said = f"{reason} in {len(flagged_ids)} of {n_of[source]} cases"
            found.append(Quarantine(source, said, _ids(sources[source])))
        else:
            found.append(Quarantine(source, reason, tuple(flagged_ids)))
    return found


def contradicted_labels(
    rows: Sequence[Row], labelled: Callable[[Sequence[JudgedTurn]], Labels] | None
) -> list[Quarantine]:
    """Finds labels that contradict what other sources call similar things; see `nearest_neighbour_labels`.

    Args:
        labelled: returns the labels and vectors of judged turns, by feedback id; None if the task has no labels.
    """
    # Vectors cost a look at every picture. With as few sources as this nobody has enough others to contradict them.
    if labelled is None or len({row.source for row in rows}) <= MIN_VOTERS:
        return []
    labels = labelled([row.judged_turn for row in rows])
    claims = []
    for row in rows:
        if row.id in labels:
            label, vector = labels[row.id]
            claims.append(Labelled(row.id, row.source, normalized(label), vector))
    return [
        Quarantine(
            source,
            f"{len(flagged)} labels contradict what most others call what looks alike",
            tuple(claim.id for claim in flagged),
        )
        for source, flagged in contradicting(claims).items()
    ]


def without(rows: Sequence[Row], quarantined: Iterable[Quarantine]) -> list[Row]:
    """The rows that are not set aside."""
    gone = {feedback_id for entry in quarantined for feedback_id in entry.feedback_ids}
    return [row for row in rows if row.id not in gone]


def _pushed(row: Row) -> Target | None:
    """The target that a row promotes; None if the row is against it or names none."""
    if row.correction is not None:
        return row.target if len(row.correction.split()) >= MIN_SLOGAN_WORDS else None
    feedback = row.feedback
    is_against = feedback.is_good is False or feedback.signal == "skip"
    is_against |= feedback.signal == "stars" and feedback.value is not None and feedback.value < MIN_LIKED_STARS
    return None if is_against else row.target


def _main_target(given: Sequence[Row], pushed: Mapping[str, Target]) -> Target | None:
    """The target that nearly all rows of one source promote, if there is one."""
    counts = Counter(pushed[row.id] for row in given if row.id in pushed)
    if not counts:
        return None
    ((target, n),) = counts.most_common(1)
    # Everybody may give the right answer to one question. The same answer to several questions is a slogan.
    subjects = {row.subject for row in given if pushed.get(row.id) == target}
    is_slogan = target.kind == "item" or len(subjects) >= 2
    return target if n >= 2 and is_slogan and n >= MIN_SHARE_OF_SOURCE * len(given) else None


def _is_same_opinion(first: str, second: str) -> bool:
    return first == second or jaccard(frozenset(first.split()), frozenset(second.split())) >= MIN_SAME_OPINION


def _is_nearly_all(n_against: int, n: int) -> bool:
    return n >= MIN_COMPARED and n_against > MAX_AT_ODDS * n


def _ids(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row.id for row in rows)
