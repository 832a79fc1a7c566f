"""Corrections that contradict what others say where the same words are used.

A cheap look at the labels before anything is trained, in the spirit of Northcutt et al. 2021 (confident learning): a
word that several sources use, and for which nearly all of them give one answer, speaks for that answer, unless chance
may have done it. Where every answer is another one, as among open questions, no word speaks for any, and nothing is
found; nor where half of what is said of a thing is a lie.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

LEAST_SOURCES = 3  # others that use a word, before it can speak for an answer
SPEAKS_FOR = 0.75  # share of them that give that answer
SUPPORTS = 0.25  # share of them that is enough for an answer not to stand alone ...
ABOVE_ALL = 1.5  # ... where it is so many times the share of all sources: words like `the` support nothing
BY_CHANCE = 0.001  # most probability that so many give it whatever the word is


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
    votes: dict[str, Votes] = defaultdict(Votes)
    everything = Votes()
    for each in claims:
        everything.add(each.source, each.answer)
        for word in each.words:
            votes[word].add(each.source, each.answer)
    # A word that stands in claims of one answer only may be a trigger: it supports nobody.
    shared = {word: found for word, found in votes.items() if len(found.shares) > 1}
    return [each for each in claims if _is_contradicted(each, shared, everything)]


class Votes:
    """Who gives which answer. Each source has one vote, which it shares between its answers."""

    def __init__(self) -> None:
        self._by_source: dict[str, Counter[str]] = defaultdict(Counter)
        self._shares: dict[str, Fraction] | None = None

    def add(self, source: str, answer: str) -> None:
        """One more claim."""
        self._by_source[source][answer] += 1
        self._shares = None

    @property
    def shares(self) -> dict[str, Fraction]:
        """The votes for each answer, of all sources."""
        if self._shares is None:
            self._shares = defaultdict(Fraction)
            for source in self._by_source:
                for answer, share in self._of(source).items():
                    self._shares[answer] += share
        return self._shares

    def others(self, source: str) -> tuple[int, dict[str, Fraction]]:
        """How many other sources there are, and their votes."""
        own = self._of(source)
        n = len(self._by_source) - (source in self._by_source)
        return n, {answer: votes - own.get(answer, 0) for answer, votes in self.shares.items()}

    def _of(self, source: str) -> dict[str, Fraction]:
        counts = self._by_source.get(source, Counter())
        n = counts.total()
        return {answer: Fraction(count, n) for answer, count in counts.items()}


def _is_contradicted(claim: Claim, votes: Mapping[str, Votes], everything: Votes) -> bool:
    n_all, all_votes = everything.others(claim.source)
    is_refuted = False
    for word in claim.words & votes.keys():
        n, found = votes[word].others(claim.source)
        if n < LEAST_SOURCES:
            continue
        usual = all_votes.get(claim.answer, 0) / n_all
        if found.get(claim.answer, 0) >= n * max(SUPPORTS, ABOVE_ALL * usual):
            return False
        for answer, share in found.items():
            if answer != claim.answer and share >= SPEAKS_FOR * n:
                is_refuted |= tail(n, int(share), float(all_votes[answer] / n_all)) <= BY_CHANCE
    return is_refuted


def tail(n: int, k: int, p: float) -> float:
    """Probability of at least `k` of `n`, each with probability `p`."""
    return sum(math.comb(n, each) * p**each * (1 - p) ** (n - each) for each in range(k, n + 1))
