"""What users did: histories, popularity and what was chosen after what. One more interaction costs microseconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smallai_assistant import Interaction

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]

# Chosen with the other constants of the model: see `MODEL` in model.py.
LAGS = 20  # how far apart in a history two choices may be to count as one after the other
LAG_SCALE = 5.0
BACKWARD = 0.5  # the order within a history is half noise: a later choice is some evidence for an earlier one
TREND_S = 30 * 86_400.0  # an interaction counts 1/e for the trend after 30 days

SHRINKAGE = 30.0  # counts; pulls what was seen seldom towards nothing
COMMONNESS = 0.3  # how much an item that follows everything is held back: 0 not at all, 1 in proportion

_LAG_WEIGHTS = np.exp(-np.arange(LAGS) / LAG_SCALE).astype(np.float32)

_POPULARITY, _TREND, _TREND_AT, _FROM, _TO = range(5)


class Choice(NamedTuple):
    """A user chose an item.

    Attributes:
        amount: how much it says about the user, over 0 to 2; see `strength`.
        at: seconds since 1970.
        share: how much of that it counts for others, 0 to 1.
        told: the amount that counts for others, where it is another one.
    """

    user: str
    item: str
    amount: float
    at: float
    share: float = 1.0
    told: float | None = None


@dataclass(slots=True)
class UserHistory:
    """One user's choices, oldest first; an item may stand there twice.

    Attributes:
        strengths: how much each choice says about the user.
        counts: how much each choice says to others: the n-th choice of one item 1/n² of its strength, so that nobody
            makes an item popular by choosing it again and again.
        times: when each was, in seconds since 1970.
    """

    items: list[int] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _n_chosen: Counter[int] = field(default_factory=Counter)

    @property
    def last_at(self) -> float:
        """When the last choice was, in seconds since 1970; 0 before there is one."""
        return self.times[-1] if self.times else 0.0

    def add(self, item: int, choice: Choice) -> float:
        """Appends a choice of an item by its index, and returns what it counts for others."""
        self._n_chosen[item] += 1
        self.items.append(item)
        self.strengths.append(choice.amount)
        told = choice.amount if choice.told is None else choice.told
        self.counts.append(told * min(choice.share, 1 / self._n_chosen[item] ** 2))
        self.times.append(choice.at)
        return self.counts[-1]

    def strengthen(self, item: int, amount: float) -> None:
        """Lets the last choice of an item say more about the user; for others it counts as before."""
        for place in range(len(self.items) - 1, -1, -1):
            if self.items[place] == item:
                self.strengths[place] = amount
                return

    def latest(self) -> tuple[Ints, Floats]:
        """The distinct items by when they were last chosen, oldest first, and the strengths of those choices."""
        last = {item: place for place, item in enumerate(self.items)}  # a later place overwrites
        places = sorted(last.values())
        return (
            np.array([self.items[place] for place in places], dtype=np.intp),
            np.array([self.strengths[place] for place in places], dtype=np.float32),
        )

    def first(self) -> tuple[Ints, Floats, npt.NDArray[np.float64]]:
        """The distinct items by when they were first chosen, oldest first, what those choices count, and when."""
        first = {item: len(self.items) - place for place, item in enumerate(reversed(self.items), 1)}
        places = sorted(first.values())
        return (
            np.array([self.items[place] for place in places], dtype=np.intp),
            np.array([self.counts[place] for place in places], dtype=np.float32),
            np.array([self.times[place] for place in places], dtype=np.float64),
        )


def strength(weight: float) -> float:
    """How much an interaction of this weight counts: 1 for 1, never over 2, so that none drowns the others."""
    return 2.0 * weight / (1.0 + weight)


def choice_of(interaction: Interaction) -> Choice:
    """An interaction of the store as a choice."""
    return Choice(interaction.user, interaction.item, strength(interaction.weight), interaction.at)


class InteractionStats:
    """Counts over all interactions, in an index of items that also holds those no longer in the catalogue.

    Attributes:
        item_ids: by index.
        users: histories by user id.
        n_interactions: how many were taken in.
    """

    def __init__(self) -> None:
        self.item_ids: list[str] = []
        self.users: dict[str, UserHistory] = {}
        self.n_interactions = 0
        self._index: dict[str, int] = {}
        self._sums = np.zeros((5, 64))  # one row each: popularity, trend, when the trend was so, transitions from, to
        self._base: Any = None  # scipy csr matrix: the transitions that `of` counted
        self._added: list[dict[int, float]] = []  # those that came after, by item

    @classmethod
    def of(cls, interactions: Iterable[Interaction | Choice]) -> InteractionStats:
        """Takes in all interactions at once, oldest first; the same as appending each.

        Ties in time keep the order they are given in.
        """
        stats = cls()
        for interaction in interactions:
            stats._record(interaction)
        stats._count_transitions()
        return stats

    @classmethod
    def of_counts(cls, item_ids: Sequence[str], sums: npt.NDArray[np.float64], transitions: Any) -> InteractionStats:
        """Makes it of what was counted before; it knows no users.

        Args:
            sums: shape (5, n_items), as `sums` gives them.
            transitions: scipy csr matrix, shape (n_items, n_items), see `counts_from`.
        """
        stats = cls()
        for item_id in item_ids:
            stats.index_of(item_id)
        stats._sums[:, : len(item_ids)] = sums
        stats._base = transitions
        return stats

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """By item: popularity, trend, when the trend was so, transitions from it, transitions to it."""
        return self._sums[:, : self.n_items].copy()

    @property
    def popularity(self) -> npt.NDArray[np.float64]:
        """Sum of the users' counts by item, shape (n_items,)."""
        return self._sums[_POPULARITY, : self.n_items]

    def trend(self, now: float) -> npt.NDArray[np.float64]:
        """The same with each interaction faded by its age at `now` (seconds since 1970), shape (n_items,)."""
        trend, at = self._sums[_TREND, : self.n_items], self._sums[_TREND_AT, : self.n_items]
        return np.asarray(trend * np.exp(-np.clip(now - at, 0.0, None) / TREND_S))

    @property
    def newest_at(self) -> float:
        """When the latest interaction was, in seconds since 1970; 0 without any."""
        return float(self._sums[_TREND_AT].max())

    def index_of(self, item_id: str) -> int:
        """The item's index; an unknown item gets the next one."""
        index = self._index.get(item_id)
        if index is None:
            index = self._index[item_id] = len(self.item_ids)
            self.item_ids.append(item_id)
            self._added.append({})
            if index >= self._sums.shape[1]:
                self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)], axis=1)
        return index

    def find(self, item_id: str) -> int | None:
        """The index of an item; None where it is unknown."""
        return self._index.get(item_id)

    def append(self, interaction: Interaction | Choice) -> bool:
        """Takes in one more interaction.

        Returns:
            Whether it could be: False, and nothing is changed, where it lies before what its user did last; then
            all have to be taken in anew.
        """
        known = self.users.get(interaction.user)
        if known is not None and interaction.at < known.last_at:
            return False
        history, item = self._record(interaction)
        before = history.items[-2 : -LAGS - 2 : -1]
        for weight, other, other_count in zip(
            _LAG_WEIGHTS.tolist(), before, history.counts[-2 : -LAGS - 2 : -1], strict=False
        ):
            if other != item:
                count = weight * other_count * history.counts[-1]
                self._add_transition(other, item, count)
                self._add_transition(item, other, BACKWARD * count)
        return True

    def transitions_from(self, items: Sequence[int] | Ints) -> Floats:
        """How likely each item is chosen soon after each of `items`: shape (len(items), n_items).

        Not probabilities: counts over all that followed, shrunk, and less for what follows everything.
        """
        counts = self.counts_from(items)
        counts /= (self._sums[_FROM, np.asarray(items, dtype=np.intp)] + SHRINKAGE)[:, None]
        counts /= (self._sums[_TO, : self.n_items] + SHRINKAGE)[None, :] ** COMMONNESS
        return counts

    def counts_from(self, items: Sequence[int] | Ints) -> Floats:
        """The bare counts of what was chosen soon after each of `items`: shape (len(items), n_items)."""
        counts = np.zeros((len(items), self.n_items), dtype=np.float32)
        if self._base is not None:
            n = self._base.shape[0]
            known = [place for place, item in enumerate(items) if item < n]
            if known:
                counts[known, :n] = self._base[np.asarray(items)[known]].toarray()
        for place, item in enumerate(items):
            row = self._added[int(item)]
            if row:
                counts[place, list(row)] += np.fromiter(row.values(), dtype=np.float32, count=len(row))
        return counts

    def _record(self, interaction: Interaction | Choice) -> tuple[UserHistory, int]:
        chosen = interaction if isinstance(interaction, Choice) else choice_of(interaction)
        history = self.users.setdefault(chosen.user, UserHistory())
        item = self.index_of(chosen.item)
        amount = history.add(item, chosen)
        self.n_interactions += 1
        sums = self._sums[:, item]
        newest = max(sums[_TREND_AT], interaction.at)
        sums[_TREND] *= math.exp((sums[_TREND_AT] - newest) / TREND_S)
        sums[_TREND] += amount * math.exp((interaction.at - newest) / TREND_S)
        sums[_TREND_AT] = newest
        sums[_POPULARITY] += amount
        return history, item

    def _add_transition(self, start: int, end: int, count: float) -> None:
        row = self._added[start]
        row[end] = row.get(end, 0.0) + count
        self._sums[_FROM, start] += count
        self._sums[_TO, end] += count

    def _count_transitions(self) -> None:
        from scipy import sparse

        histories = self.users.values()
        items = np.fromiter((item for each in histories for item in each.items), dtype=np.intp)
        amounts = np.fromiter((amount for each in histories for amount in each.counts), dtype=np.float32)
        user = np.repeat(np.arange(len(self.users)), [len(history.items) for history in histories])
        n = self.n_items
        base = sparse.csr_matrix((n, n), dtype=np.float32)
        for lag in range(1, min(LAGS, len(items) - 1) + 1):
            pair = (user[lag:] == user[:-lag]) & (items[lag:] != items[:-lag])
            counts = _LAG_WEIGHTS[lag - 1] * (amounts[lag:] * amounts[:-lag])[pair]
            base += sparse.csr_matrix((counts, (items[:-lag][pair], items[lag:][pair])), shape=(n, n))
        self._base = (base + BACKWARD * base.T).tocsr()
        self._sums[_FROM, :n] = self._base.sum(axis=1).ravel()
        self._sums[_TO, :n] = self._base.sum(axis=0).ravel()
