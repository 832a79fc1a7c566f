"""Corrections that contradict what others say where the same words are used.

A cheap look at the labels before anything is trained, in the spirit of Northcutt et al. 2021 (confident learning): a
word that several sources use, and for which nearly all of them give one answer, speaks for that answer, unless chance
may have done it. Where a thing is in dispute, those weigh more whose other claims nobody disputes (truth discovery, as
in Yin et al. 2008): who comes only to lie about one thing has nothing else to show. Where every answer is another one,
as among open questions, no word speaks for any, and nothing is found.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIN_SOURCES = 3  # others that use a word, before it can speak for an answer
SPEAKS_FOR = 0.75  # share of them that give that answer
SUPPORTS = 0.25  # share of them that is enough for an answer not to stand alone ...
ABOVE_ALL = 1.5  # ... where it is so many times the share of all sources: words like `the` support nothing
MIN_ALONE = 5  # ... and where all who use the word give it, so many others: fewer may have agreed on a trigger
BY_CHANCE = 0.001  # most probability that so many give it whatever the word is
N_ROUNDS = 8  # of weighing sources by their claims and claims by their sources; by then it has settled
PRIOR, PRIOR_ROWS = 0.1, 4.0  # who has shown nothing counts little; chosen on seeds 0 to 2 of `bench.poison`
_ROUNDING = 1e-9


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
    for claim in claims:
        everything.add(claim.source, claim.answer)
        for word in claim.words:
            votes[word].add(claim.source, claim.answer)
    weights = dict.fromkeys((claim.source for claim in claims), 1.0)
    for _ in range(N_ROUNDS):
        _count(votes, everything, weights)
        weights = _weigh(claims, votes, everything)
    _count(votes, everything, weights)
    return [claim for claim in claims if _is_contradicted(claim, votes, everything)]


class Votes:
    """Who gives which answer. Each source has one vote, of its weight, which it shares between its answers."""

    def __init__(self) -> None:
        self._by_source: dict[str, Counter[str]] = defaultdict(Counter)
        self._weights: Mapping[str, float] = {}
        self._shares: dict[str, float] = {}
        self._leading: list[str] = []
        self._total = 0.0
        self._squares = 0.0

    def add(self, source: str, answer: str) -> None:
        """One more claim."""
        self._by_source[source][answer] += 1

    def count(self, weights: Mapping[str, float]) -> None:
        """Counts all that was added."""
        self._weights = weights
        self._shares = {}
        self._total = sum(weights[source] for source in self._by_source)
        self._squares = sum(weights[source] ** 2 for source in self._by_source)
        for source, counts in self._by_source.items():
            for answer, n in counts.items():
                self._shares[answer] = self._shares.get(answer, 0.0) + weights[source] * n / counts.total()
        # Without a source's own vote, which is at most 1, a share may still grow to the limit.
        least = SPEAKS_FOR * (self._total - 1.0) - _ROUNDING
        self._leading = [answer for answer, share in self._shares.items() if share >= least]

    @property
    def n_answers(self) -> int:
        """How many answers there are."""
        return len(self._shares)

    def n_others(self, source: str) -> int:
        """How many other sources there are."""
        return len(self._by_source) - (source in self._by_source)

    def n_effective(self, source: str) -> float:
        """So many sources of equal weight would be as sure as the others are (Kish 1965, section 11.7)."""
        own = self._weights[source] if source in self._by_source else 0.0
        return (self._total - own) ** 2 / max(_ROUNDING, self._squares - own**2)

    def others(self, source: str, answer: str) -> float:
        """The share of the others' votes for that answer."""
        own = self._by_source.get(source)
        weight = self._weights[source]
        votes = self._shares.get(answer, 0.0) - (weight * own[answer] / own.total() if own else 0.0)
        return votes / max(_ROUNDING, self._total - (weight if own else 0.0))

    def rivals(self, source: str, answer: str) -> list[str]:
        """The other answer that nearly all of them give, if there is one."""
        return [
            each for each in self._leading if each != answer and self.others(source, each) >= SPEAKS_FOR - _ROUNDING
        ]

    def may_speak(self, source: str) -> bool:
        """Whether enough others use the word."""
        return self.n_others(source) >= (MIN_SOURCES if self.n_answers > 1 else MIN_ALONE)

    def says_more(self, usual: Votes) -> bool:
        """Whether it tells anything of the answer: some answer is much more usual with the word than without."""
        return any(
            share / self._total >= max(SUPPORTS, ABOVE_ALL * usual._shares[answer] / usual._total)
            for answer, share in self._shares.items()
        )


def _count(votes: Mapping[str, Votes], everything: Votes, weights: Mapping[str, float]) -> None:
    for each in (everything, *votes.values()):
        each.count(weights)


def _weigh(claims: Sequence[Claim], votes: Mapping[str, Votes], everything: Votes) -> dict[str, float]:
    """What each source's vote is worth: how far others agree with what it claims."""
    telling = {word: found for word, found in votes.items() if found.says_more(everything)}
    agreement: dict[str, list[float]] = {claim.source: [] for claim in claims}
    for claim in claims:
        heard = [telling[word] for word in claim.words if word in telling and telling[word].may_speak(claim.source)]
        if heard:
            agreement[claim.source].append(sum(word.others(claim.source, claim.answer) for word in heard) / len(heard))
    return {
        source: (PRIOR * PRIOR_ROWS + sum(found)) / (PRIOR_ROWS + len(found)) for source, found in agreement.items()
    }


def _is_contradicted(claim: Claim, votes: Mapping[str, Votes], everything: Votes) -> bool:
    usual = everything.others(claim.source, claim.answer)
    is_refuted = False
    for word in claim.words:
        said = votes[word]
        if not said.may_speak(claim.source):
            continue
        if said.others(claim.source, claim.answer) >= max(SUPPORTS, ABOVE_ALL * usual) - _ROUNDING:
            return False
        for rival in said.rivals(claim.source, claim.answer):
            n = said.n_effective(claim.source)
            k = math.floor(n * said.others(claim.source, rival) + _ROUNDING)
            is_refuted |= tail(round(n), k, everything.others(claim.source, rival)) <= BY_CHANCE
    return is_refuted


def tail(n: int, k: int, p: float) -> float:
    """Probability of at least `k` of `n`, each with probability `p`."""
    return sum(math.comb(n, each) * p**each * (1 - p) ** (n - each) for each in range(k, n + 1))
