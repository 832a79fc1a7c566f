"""Corrections that contradict what others say where the same words are used.

A cheap look at the labels before anything is trained, in the spirit of Northcutt et al. 2021 (confident learning): a
word that many sources use, and for which nearly all of them give one answer, speaks for that answer. Where every answer
is another one, as among open questions, no word speaks for any, and nothing is found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEAST_SOURCES = 3  # others that use a word, before it can speak for an answer
SPEAKS_FOR = 0.75  # share of them that give that answer
SUPPORTS = 0.25  # share of them that is enough for an answer not to stand alone


@dataclass(frozen=True, slots=True)
class Claim:
    """That a question of these words has this answer.

    Args:
        words: of the question.
        answer: normalized.
    """

    id: str
    source: str
    answer: str
    words: frozenset[str]


def contradicted(claims: Sequence[Claim]) -> list[Claim]:
    """The claims whose words speak for another answer, and none for theirs."""
    # word -> source -> answer -> how often
    used: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    answers: dict[str, set[str]] = defaultdict(set)
    for each in claims:
        for word in each.words:
            used[word][each.source][each.answer] += 1
            answers[word].add(each.answer)
    totals = {word: _shares(by_source.values()) for word, by_source in used.items() if len(answers[word]) > 1}
    return [each for each in claims if _is_contradicted(each, used, totals)]


def _is_contradicted(
    claim: Claim, used: Mapping[str, Mapping[str, Mapping[str, int]]], totals: Mapping[str, Mapping[str, float]]
) -> bool:
    is_refuted = False
    for word in claim.words & totals.keys():  # a word that stands in claims of one answer only may be a trigger
        n_others = len(used[word]) - 1
        if n_others < LEAST_SOURCES:
            continue
        own = _shares([used[word][claim.source]])
        others = {answer: (share - own.get(answer, 0.0)) / n_others for answer, share in totals[word].items()}
        if others.get(claim.answer, 0.0) >= SUPPORTS:
            return False
        is_refuted |= any(share >= SPEAKS_FOR for answer, share in others.items() if answer != claim.answer)
    return is_refuted


def _shares(by_source: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Each source has one vote, shared between the answers it gave."""
    found: dict[str, float] = defaultdict(float)
    for counts in by_source:
        n = sum(counts.values())
        for answer, count in counts.items():
            found[answer] += count / n
    return dict(found)
