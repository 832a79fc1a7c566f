"""Corrections that contradict what other sources say about questions with the same words.

A cheap check of labels before anything is trained, in the spirit of confident learning (Northcutt et al. 2021): a word
that several sources use, and for which nearly all of them give one answer, speaks for that answer, unless chance
explains it. In a dispute those sources weigh more whose other claims nobody disputes (truth discovery, Yin et al.
2008): a source that comes only to lie about one thing has no other claims. Among open questions, every one of which
has another answer, no word speaks for any answer, and nothing is found.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# All figures were chosen on seeds 0 to 2 of `bench.poison`, which measures on other seeds.
# A word speaks if at least three other sources use it.
MIN_SOURCES = 3
# If all of them give the same answer, five are needed: fewer may be attackers who agreed on a trigger word.
MIN_SOURCES_IF_UNANIMOUS = 5
# Share of the other sources' votes from which a word speaks for an answer.
MIN_MAJORITY = 0.75
# A word supports a claim if a quarter of the votes give the claim's answer, ...
MIN_SUPPORT = 0.25
# ... and 1.5 times as many as among all claims: words such as "the" support no answer.
MIN_LIFT = 1.5
# Significance level: a majority counts if chance would give it with at most this probability.
MAX_P_VALUE = 0.001
# Rounds of weighing sources by their claims and claims by their sources. The weights do not change any more by then.
N_ROUNDS = 8
# A source starts with little weight, as if it had made four claims that one tenth of the others agree with.
PRIOR_AGREEMENT, N_PRIOR_CLAIMS = 0.1, 4.0
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim of a source that a question has an answer.

    Args:
        id: of the feedback.
        answer: normalized.
        words: of the question, normalized.
    """

    id: str
    source: str
    answer: str
    words: frozenset[str]


def contradicted(claims: Sequence[Claim]) -> list[Claim]:
    """Finds the claims for which a word of the question speaks for another answer, and no word for theirs."""
    votes: dict[str, Votes] = defaultdict(Votes)  # by word
    overall = Votes()
    for claim in claims:
        overall.add(claim.source, claim.answer)
        for word in claim.words:
            votes[word].add(claim.source, claim.answer)
    weights = dict.fromkeys((claim.source for claim in claims), 1.0)
    for _ in range(N_ROUNDS):
        _count(votes, overall, weights)
        weights = _weigh(claims, votes, overall)
    _count(votes, overall, weights)
    return [claim for claim in claims if _is_contradicted(claim, votes, overall)]


class Votes:
    """The answers that sources give if a word is used.

    Each source has one vote. Its size is the source's weight, and it is shared between the source's answers.
    """

    def __init__(self) -> None:
        self._by_source: dict[str, Counter[str]] = defaultdict(Counter)
        self._weights: Mapping[str, float] = {}
        self._shares: dict[str, float] = {}  # weight of the votes for each answer
        self._leading: list[str] = []  # answers that may have a majority without one of the sources
        self._total = 0.0
        self._squares = 0.0

    def add(self, source: str, answer: str) -> None:
        """Adds a claim."""
        self._by_source[source][answer] += 1

    def count(self, weights: Mapping[str, float]) -> None:
        """Counts all claims.

        Args:
            weights: of the sources, in (0, 1].
        """
        self._weights = weights
        self._shares = {}
        self._total = sum(weights[source] for source in self._by_source)
        self._squares = sum(weights[source] ** 2 for source in self._by_source)
        for source, counts in self._by_source.items():
            for answer, n in counts.items():
                self._shares[answer] = self._shares.get(answer, 0.0) + weights[source] * n / counts.total()
        # A cheap filter for `rivals`: without a source's own vote, which is at most 1, the share of an answer may
        # still grow to the majority.
        least = MIN_MAJORITY * (self._total - 1.0) - _ROUNDING
        self._leading = [answer for answer, share in self._shares.items() if share >= least]

    @property
    def n_answers(self) -> int:
        """Number of different answers."""
        return len(self._shares)

    def n_others(self, source: str) -> int:
        """Number of sources besides `source`."""
        return len(self._by_source) - (source in self._by_source)

    def n_effective(self, source: str) -> float:
        """Effective number of the other sources: as many of equal weight are equally sure (Kish 1965, section 11.7)."""
        own = self._weights[source] if source in self._by_source else 0.0
        return (self._total - own) ** 2 / max(_ROUNDING, self._squares - own**2)

    def share_of_others(self, source: str, answer: str) -> float:
        """Share of the other sources' votes that is for `answer`, 0 to 1."""
        own = self._by_source.get(source)
        weight = self._weights[source]
        votes = self._shares.get(answer, 0.0) - (weight * own[answer] / own.total() if own else 0.0)
        return votes / max(_ROUNDING, self._total - (weight if own else 0.0))

    def rivals(self, source: str, answer: str) -> list[str]:
        """The other answers for which the other sources have a majority; at most one, up to rounding."""
        return [
            rival
            for rival in self._leading
            if rival != answer and self.share_of_others(source, rival) >= MIN_MAJORITY - _ROUNDING
        ]

    def may_speak(self, source: str) -> bool:
        """Whether enough other sources use the word to judge a claim of `source`."""
        return self.n_others(source) >= (MIN_SOURCES if self.n_answers > 1 else MIN_SOURCES_IF_UNANIMOUS)

    def is_telling(self, overall: Votes) -> bool:
        """Whether the word tells something about the answer: some answer is more frequent with it than `overall`."""
        return any(
            share / self._total >= max(MIN_SUPPORT, MIN_LIFT * overall._shares[answer] / overall._total)
            for answer, share in self._shares.items()
        )


def _count(votes: Mapping[str, Votes], overall: Votes, weights: Mapping[str, float]) -> None:
    for counted in (overall, *votes.values()):
        counted.count(weights)


def _weigh(claims: Sequence[Claim], votes: Mapping[str, Votes], overall: Votes) -> dict[str, float]:
    """Computes each source's weight: how far the other sources agree with its claims."""
    telling = {word: said for word, said in votes.items() if said.is_telling(overall)}
    agreement: dict[str, list[float]] = {claim.source: [] for claim in claims}
    for claim in claims:
        heard = [telling[word] for word in claim.words if word in telling and telling[word].may_speak(claim.source)]
        if heard:
            shares = [said.share_of_others(claim.source, claim.answer) for said in heard]
            agreement[claim.source].append(sum(shares) / len(shares))
    return {
        source: (PRIOR_AGREEMENT * N_PRIOR_CLAIMS + sum(shares)) / (N_PRIOR_CLAIMS + len(shares))
        for source, shares in agreement.items()
    }


def _is_contradicted(claim: Claim, votes: Mapping[str, Votes], overall: Votes) -> bool:
    usual_share = overall.share_of_others(claim.source, claim.answer)
    is_refuted = False
    for word in claim.words:
        said = votes[word]
        if not said.may_speak(claim.source):
            continue
        if said.share_of_others(claim.source, claim.answer) >= max(MIN_SUPPORT, MIN_LIFT * usual_share) - _ROUNDING:
            return False  # one word that supports the claim outweighs all that speak against it
        for rival in said.rivals(claim.source, claim.answer):
            n = said.n_effective(claim.source)
            k = math.floor(n * said.share_of_others(claim.source, rival) + _ROUNDING)
            is_refuted |= p_value(round(n), k, overall.share_of_others(claim.source, rival)) <= MAX_P_VALUE
    return is_refuted


def p_value(n: int, k: int, p: float) -> float:
    """One-sided binomial test: the probability of at least `k` successes in `n` trials, each with probability `p`."""
    from scipy.special import bdtrc

    if k <= 0:
        return 1.0
    # Rounding may push a share just outside [0, 1], and bdtrc then returns NaN.
    return float(bdtrc(k - 1, n, min(1.0, max(0.0, p))))
