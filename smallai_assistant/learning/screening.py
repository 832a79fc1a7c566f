"""Which feedback may teach: consent, the last word of each source, duplicates, and what looks like an attack.

A handful of poisoned rows is enough to spoil a model tuned on ratings. Nothing is deleted here: what is set aside is
shown with the reason, and a person may decide otherwise.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smallai_assistant.feedback import Feedback, JudgedTurn
from smallai_assistant.learning.nearest_neighbour_labels import MIN_VOTES, Labelled, contradicting
from smallai_assistant.learning.text import normalized
from smallai_assistant.learning.truth_discovery import Claim, contradicted
from smallai_assistant.types import AudioPart, ImagePart, Turn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BURST_ROWS, BURST_S = 100, 60.0  # ratings and clicks of one source; MovieLens' fastest rater gave 30 in a minute
MIN_COMPARED = 4  # subjects that others judged too, before a source is called at odds with them
MIN_OPINIONS = 3  # sources a subject needs for that
MAX_AT_ODDS = 0.75  # who errs in two of five cases errs in four of seven by chance
SAME_OPINION = 0.5  # Jaccard similarity of the words of two corrections that say the same in other words
CAP_LEAST, CAP_OF_MEDIAN = 50, 2.0
PUSH_SOURCES, PUSH_SHARE_OF_SOURCE, PUSH_SHARE_OF_TARGET = 5, 0.8, 0.6
PUSH_WORDS = 3  # a shorter correction is a label, which many may give to many things
NEAR = 0.9  # Jaccard similarity of the words of two questions that are one
MAX_COMPARED = 200  # latest questions of one source that got one answer
LIKED_STARS = 3.0


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Rows that are set aside, and why."""

    source: str
    reason: str
    feedback_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScreenedFeedback:
    """What may teach.

    Attributes:
        weights: by feedback id, in (0, 1]: a source with very many rows counts no more than its cap.
        n_collapsed: rows that said again what another of the same source says.
    """

    judged_turns: tuple[JudgedTurn, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    quarantined: tuple[Quarantine, ...] = ()
    n_collapsed: int = 0

    def by_source(self) -> dict[str, int]:
        """How many lessons each source gives."""
        return dict(Counter(judged_turn.feedback.source for judged_turn in self.judged_turns))


# The label that a feedback gives, and the vector of what it gives it to; see LearningTask.labelled.
Labels = Mapping[str, "tuple[str, npt.NDArray[np.float32]]"]


def screen(
    judged_turns: Sequence[JudgedTurn],
    *,
    trusted: Collection[str] = (),
    labelled: Callable[[Sequence[JudgedTurn]], Labels] | None = None,
) -> ScreenedFeedback:
    """Screens the lessons of one task, oldest first.

    Args:
        trusted: sources that are not set aside, whatever they do.
        labelled: what those lessons label, by feedback id; None where words say it all.
    """
    agreed = [judged_turn for judged_turn in judged_turns if judged_turn.feedback.may_train]
    quarantined = [burst for burst in (*_bursts(agreed), *_pushed(agreed)) if burst.source not in trusted]
    latest = _last_words(_without(agreed, quarantined))
    at_odds = [at_odd for at_odd in _at_odds(latest) if at_odd.source not in trusted]
    quarantined += at_odds
    latest = _without(latest, at_odds)
    distinct = _distinct(latest)
    n_collapsed = len(latest) - len(distinct)
    contradicted = [*_contradicted(distinct), *_looking_otherwise(distinct, labelled)]
    contradicted = [each for each in contradicted if each.source not in trusted]
    quarantined += contradicted
    distinct = _without(distinct, contradicted)
    return ScreenedFeedback(
        judged_turns=tuple(distinct),
        weights=_weights(distinct),
        quarantined=tuple(quarantined),
        n_collapsed=n_collapsed,
    )


def target_of(feedback: Feedback) -> str:
    """What a row pushes: the item, or the correction's words; empty where it is neither."""
    if feedback.item is not None:
        return f"item {feedback.item}"
    return f"answer {normalized(feedback.correction)}" if feedback.correction is not None else ""


def subject_of(turn: Turn) -> str:
    """What a turn is about: the words of the question and the pictures and recordings that came with it."""
    media = []
    for part in turn.request.parts:
        if isinstance(part, (ImagePart, AudioPart)):
            # The store names files by their hash, so that the same picture has the same path.
            media.append(str(part.path) if part.path is not None else hashlib.sha256(part.data or b"").hexdigest())
    return " ".join([normalized(turn.request.text), *media]).strip() or turn.id


def _bursts(judged_turns: Sequence[JudgedTurn]) -> list[Quarantine]:
    """Ratings and clicks that came faster than a person gives them; what the source gave at other times stays."""
    given: dict[str, list[Feedback]] = defaultdict(list)
    for judged_turn in judged_turns:
        if judged_turn.feedback.correction is None:
            given[judged_turn.feedback.source].append(judged_turn.feedback)
    found = []
    for source, rows in given.items():
        rows.sort(key=lambda each: each.created_at)
        fast: list[str] = []
        end = 0
        for start in range(len(rows) - BURST_ROWS):
            last = start + BURST_ROWS
            if (rows[last].created_at - rows[start].created_at).total_seconds() <= BURST_S:
                fast += [row.id for row in rows[max(start, end) : last + 1]]
                end = last + 1
        if fast:
            found.append(
                Quarantine(source, f"more than {BURST_ROWS} ratings within {BURST_S:.0f} seconds", tuple(fast))
            )
    return found


def _pushed(judged_turns: Sequence[JudgedTurn]) -> list[Quarantine]:
    """Sources that do little but push one target that few others want."""
    by_source: dict[str, list[JudgedTurn]] = defaultdict(list)
    on_target: Counter[str] = Counter()
    for judged_turn in judged_turns:
        by_source[judged_turn.feedback.source].append(judged_turn)
        if target := _pushes(judged_turn.feedback):
            on_target[target] += 1
    pushers: dict[str, list[str]] = defaultdict(list)
    for source, rows in by_source.items():
        counts = Counter(target for row in rows if (target := _pushes(row.feedback)))
        for target, n in counts.most_common(1):
            subjects = {subject_of(row.turn) for row in rows if _pushes(row.feedback) == target}
            # The right answer to one question may be said by everybody; to several it is a slogan.
            is_slogan = target.startswith("item ") or len(subjects) >= 2
            if n >= 2 and is_slogan and n >= PUSH_SHARE_OF_SOURCE * len(rows):
                pushers[target].append(source)
    found = []
    for target, sources in pushers.items():
        n_theirs = sum(_pushes(each.feedback) == target for source in sources for each in by_source[source])
        if len(sources) >= PUSH_SOURCES and n_theirs >= PUSH_SHARE_OF_TARGET * on_target[target]:
            # An item has a name; the words of an answer must not outlive their erasure in a report.
            what = repr(target[:80]) if target.startswith("item ") else "one answer"
            for source in sources:
                ids = tuple(each.feedback.id for each in by_source[source])
                found.append(Quarantine(source, f"{len(sources)} sources do little but push {what}", ids))
    return found


def _pushes(feedback: Feedback) -> str:
    """The target that a row is for; empty where it is against it, or for none."""
    if feedback.correction is not None:
        return target_of(feedback) if len(normalized(feedback.correction).split()) >= PUSH_WORDS else ""
    is_against = feedback.is_good is False or feedback.signal == "skip"
    is_against |= feedback.signal == "stars" and feedback.value is not None and feedback.value < LIKED_STARS
    return "" if is_against else target_of(feedback)


def _last_words(judged_turns: Sequence[JudgedTurn]) -> list[JudgedTurn]:
    """Of each source the last rating, the last correction and the last signal of a kind; up then down means down."""
    last: dict[tuple[str, ...], JudgedTurn] = {}
    for judged_turn in judged_turns:
        given = judged_turn.feedback
        about = (given.source, given.turn_id, given.item or "")
        if given.correction is not None:
            kind = "correction"
            earlier = last.get((*about, "rating"))
            if earlier is not None and earlier.feedback.is_good:  # who corrects an answer no longer calls it good
                del last[*about, "rating"]
        else:
            kind = given.signal or ("rating" if given.is_good is not None else "comment")
        last.pop((*about, kind), None)  # the place of the later one counts
        last[*about, kind] = judged_turn
    return list(last.values())


def _at_odds(judged_turns: Sequence[JudgedTurn]) -> list[Quarantine]:
    """Sources that contradict what most others say of the same turn or question."""
    opinions: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for each in judged_turns:
        given = each.feedback
        if given.correction is not None:
            opinions["correction", subject_of(each.turn)][given.source] = normalized(given.correction)
        elif given.is_good is not None and given.signal is None:
            opinions["rating", *_rated(each)][given.source] = str(given.is_good)
    compared: Counter[str] = Counter()
    against: Counter[str] = Counter()
    for said in opinions.values():
        if len(said) < MIN_OPINIONS:
            continue
        counts = Counter(said.values())
        most, n_most = counts.most_common(1)[0]
        for source, opinion in said.items():
            compared[source] += 1
            against[source] += n_most > counts[opinion] and not _is_same(opinion, most)
    found = []
    for source, n in compared.items():
        if _is_nearly_all(against[source], n):
            ids = _all_of(source, judged_turns)
            found.append(Quarantine(source, f"contradicts most others in {against[source]} of {n} cases", ids))
    return found


def _rated(judged_turn: JudgedTurn) -> tuple[str, str]:
    """What a rating is about: an answer to a question. Two answers to one question are two things."""
    turn = judged_turn.turn
    return subject_of(turn), normalized(turn.text) or turn.id


def _is_same(first: str, second: str) -> bool:
    return first == second or _jaccard(frozenset(first.split()), frozenset(second.split())) >= SAME_OPINION


def _distinct(judged_turns: Sequence[JudgedTurn]) -> list[JudgedTurn]:
    """Leaves out what the same source said before of nearly the same question; the newest stays."""
    kept: list[JudgedTurn] = []
    seen: dict[tuple[str, ...], list[frozenset[str]]] = defaultdict(list)
    for judged_turn in reversed(judged_turns):
        given, question = judged_turn.feedback, normalized(judged_turn.turn.request.text)
        is_words_only = question and subject_of(judged_turn.turn) == question
        if is_words_only and given.signal is None and (given.correction is not None or given.is_good is not None):
            said = target_of(given) or f"{given.is_good} {_rated(judged_turn)[1]}"
            words = frozenset(question.split())
            if any(_jaccard(words, other) >= NEAR for other in seen[given.source, said][-MAX_COMPARED:]):
                continue
            seen[given.source, said].append(words)
        kept.append(judged_turn)
    return kept[::-1]


def _contradicted(judged_turns: Sequence[JudgedTurn]) -> list[Quarantine]:
    """Corrections that contradict what most others say of similar questions.

    Their sources' other rows stay, unless nearly all their corrections are of that kind.
    """
    claims = []
    for judged_turn in judged_turns:
        given, question = judged_turn.feedback, normalized(judged_turn.turn.request.text)
        if given.correction is not None and subject_of(judged_turn.turn) == question:
            claims.append(Claim(given.id, given.source, normalized(given.correction), frozenset(question.split())))
    n_of = Counter(claim.source for claim in claims)
    by_source: dict[str, list[str]] = defaultdict(list)
    while found := contradicted(claims):  # what is found no longer speaks for what is left
        for claim in found:
            by_source[claim.source].append(claim.id)
        liars = {source for source, ids in by_source.items() if _is_nearly_all(len(ids), n_of[source])}
        gone = {each.id for each in found}
        claims = [claim for claim in claims if claim.source not in liars and claim.id not in gone]
    reason = "contradicts what most others say of similar questions"
    out = []
    for source, ids in by_source.items():
        if _is_nearly_all(len(ids), n_of[source]):
            said = f"{reason} in {len(ids)} of {n_of[source]} cases"
            out.append(Quarantine(source, said, _all_of(source, judged_turns)))
        else:
            out.append(Quarantine(source, reason, tuple(ids)))
    return out


def _is_nearly_all(n_against: int, n: int) -> bool:
    return n >= MIN_COMPARED and n_against > MAX_AT_ODDS * n


def _all_of(source: str, judged_turns: Sequence[JudgedTurn]) -> tuple[str, ...]:
    return tuple(judged_turn.feedback.id for judged_turn in judged_turns if judged_turn.feedback.source == source)


def _looking_otherwise(
    judged_turns: Sequence[JudgedTurn], labelled: Callable[[Sequence[JudgedTurn]], Labels] | None
) -> list[Quarantine]:
    """The labels that look-alikes contradict, of sources of which most are; one source has nobody to contradict it."""
    if labelled is None or len({judged_turn.feedback.source for judged_turn in judged_turns}) <= MIN_VOTES:
        return []
    found = labelled(judged_turns)
    claims = [
        Labelled(given.id, given.source, normalized(found[given.id][0]), found[given.id][1])
        for given in (judged_turn.feedback for judged_turn in judged_turns)
        if given.id in found
    ]
    return [
        Quarantine(
            source,
            f"{len(rows)} labels contradict what most others call what looks alike",
            tuple(row.id for row in rows),
        )
        for source, rows in contradicting(claims).items()
    ]


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(1, len(first | second))


def _weights(judged_turns: Sequence[JudgedTurn]) -> dict[str, float]:
    """A source with many more rows than the others is capped at twice the median, but never below 50 rows."""
    counts = Counter(judged_turn.feedback.source for judged_turn in judged_turns)
    if len(counts) < 2:
        return {judged_turn.feedback.id: 1.0 for judged_turn in judged_turns}
    cap = max(CAP_LEAST, CAP_OF_MEDIAN * statistics.median_low(counts.values()))
    return {
        judged_turn.feedback.id: min(1.0, cap / counts[judged_turn.feedback.source]) for judged_turn in judged_turns
    }


def _without(judged_turns: Iterable[JudgedTurn], quarantined: Iterable[Quarantine]) -> list[JudgedTurn]:
    gone = {each for quarantine in quarantined for each in quarantine.feedback_ids}
    return [judged_turn for judged_turn in judged_turns if judged_turn.feedback.id not in gone]
