"""Statistics of what users had: histories, popularity and transitions. Appending one choice takes microseconds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smallai_assistant import Interaction

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

# These constants were chosen on MovieLens 100K together with those of ease.py; the comment there says how.
LAGS = 20  # two choices count as a transition if they are at most this far apart in a history
LAG_SCALE = 5.0
BACKWARD = 0.5  # the order within a history is half noise, so each transition also counts half in reverse
TREND_S = 30 * 86_400.0  # an interaction counts 1/e for the trend after 30 days

SHRINKAGE = 30.0  # counts; pulls the transitions of rarely seen items towards zero
COMMONNESS = 0.3  # discount for items that follow everything: 0 gives none, 1 is in proportion to their count

_LAG_WEIGHTS = np.exp(-np.arange(LAGS) / LAG_SCALE).astype(np.float32)

_POPULARITY, _TREND, _TREND_AT, _FROM, _TO = range(5)

# Orders choices of the same time: the time that the feedback claims, then its id. Imports come before feedback.
Tie = tuple[float, str]
IMPORTED: Tie = (-math.inf, "")


class Choice(NamedTuple):
    """A user chose an item, or had it and was against it.

    Attributes:
        user: the user's id.
        item: the item's id.
        amount: how much the choice says about the user, at most 2, negative if the user was against it; see `strength`.
        at: seconds since 1970.
        share: the share of it that counts for other users, 0 to 1.
        public_amount: the amount that counts for other users; None if it is `amount`.
        tie: orders choices of the same time.
    """

    user: str
    item: str
    amount: float
    at: float
    share: float = 1.0
    public_amount: float | None = None
    tie: Tie = IMPORTED


@dataclass(slots=True)
class UserHistory:
    """One user's choices, oldest first. An item occurs as often as it was chosen.

    Attributes:
        items: item indices.
        strengths: how much each choice says about the user, negative if the user was against the item.
        counts: how much each choice counts for other users. The n-th choice of an item counts 1/n², so a user cannot
            make an item popular by choosing it repeatedly.
        times: seconds since 1970.
    """

    items: list[int] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _ties: list[Tie] = field(default_factory=list)
    _n_chosen: Counter[int] = field(default_factory=Counter)

    def add(self, item: int, choice: Choice) -> float:
        """Appends a choice of an item, given by its index, and returns what the choice counts for other users."""
        self._n_chosen[item] += 1
        self.items.append(item)
        self.strengths.append(choice.amount)
        amount = choice.amount if choice.public_amount is None else choice.public_amount
        # The smaller bound holds: one on this user's repetitions, one on those of the source behind several users.
        self.counts.append(amount * min(choice.share, 1 / self._n_chosen[item] ** 2))
        self.times.append(choice.at)
        self._ties.append(choice.tie)
        return self.counts[-1]

    def is_before_last(self, choice: Choice) -> bool:
        """Whether a choice belongs before the newest one of this history."""
        return bool(self.times) and (choice.at, choice.tie) < (self.times[-1], self._ties[-1])

    def last_time(self, item: int) -> float:
        """When an item was last chosen, given by its index; minus infinity if it was not."""
        if item not in self._n_chosen:
            return -math.inf
        return self.times[len(self.items) - 1 - self.items[::-1].index(item)]

    def strengthen(self, choice: Choice) -> bool:
        """Updates how much a known choice says about the user. What it counts for other users stays.

        Returns:
            Whether the history holds the choice.
        """
        place = bisect_left(self.times, choice.at)
        while place < len(self.times) and self.times[place] == choice.at:
            # By the tie, not by the item: the user may have chosen the same item again since.
            if self._ties[place] == choice.tie:
                self.strengths[place] = choice.amount
                return True
            place += 1
        return False

    def latest(self) -> tuple[Ints, Floats]:
        """The distinct items in the order of their last choice, oldest first, and the strengths of those choices."""
        last = {item: place for place, item in enumerate(self.items)}  # a later place overwrites an earlier one
        places = sorted(last.values())
        return (
            np.array([self.items[place] for place in places], dtype=np.intp),
            np.array([self.strengths[place] for place in places], dtype=np.float32),
        )

    def first(self) -> tuple[Ints, Floats, npt.NDArray[np.float64]]:
        """The distinct items in the order of their first choice, oldest first, with the counts and times of those."""
        first = {item: len(self.items) - place for place, item in enumerate(reversed(self.items), 1)}
        places = sorted(first.values())
        return (
            np.array([self.items[place] for place in places], dtype=np.intp),
            np.array([self.counts[place] for place in places], dtype=np.float32),
            np.array([self.times[place] for place in places], dtype=np.float64),
        )


def strength(weight: float) -> float:
    """The amount of an interaction: 1 for weight 1, always below 2, so that none outweighs all others.

    Of a negative weight it is the same amount against the item.
    """
    return 2.0 * weight / (1.0 + abs(weight))


def choice_of(interaction: Interaction) -> Choice:
    """An interaction of the store as a choice. If its weight is negative, the user had the item and was against it."""
    amount = strength(interaction.weight)
    # For other users it is at least a whole choice, whatever the user thought of the item; opinions.py says why.
    return Choice(interaction.user, interaction.item, amount, interaction.at, public_amount=max(1.0, amount))


def in_order(choices: Iterable[Choice]) -> list[Choice]:
    """Choices by time. Choices of the same time are ordered by their tie, imports keep the order they are given in."""
    return sorted(choices, key=lambda choice: (choice.at, choice.tie))


class InteractionStats:
    """Counts over all choices, by item index. Items that left the catalogue keep their index.

    Attributes:
        item_ids: the ids by index.
        users: the histories by user id.
        n_interactions: number of choices counted.
    """

    def __init__(self) -> None:
        self.item_ids: list[str] = []
        self.users: dict[str, UserHistory] = {}
        self.n_interactions = 0
        self._index: dict[str, int] = {}
        # One row each: popularity, trend, the time that the trend refers to, transitions from and to the item.
        self._sums = np.zeros((5, 64))
        self._base: Any = None  # scipy csr matrix: the transitions that `of` counted in bulk
        self._added: list[dict[int, float]] = []  # the transitions appended since, by item: adding to csr is slow

    @classmethod
    def of(cls, interactions: Iterable[Interaction | Choice]) -> InteractionStats:
        """Counts all choices at once, with the same result as appending them one by one.

        Args:
            interactions: oldest first; equal times keep the order they are given in.
        """
        stats = cls()
        for interaction in interactions:
            stats._record(_as_choice(interaction))
        stats._count_transitions()
        return stats

    @classmethod
    def of_counts(cls, item_ids: Sequence[str], sums: npt.NDArray[np.float64], transitions: Any) -> InteractionStats:
        """Restores statistics from stored counts. The result has no user histories.

        Args:
            item_ids: the ids by index.
            sums: float64, shape (5, n_items), as the property `sums` returns them.
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
        """Number of items that have an index."""
        return len(self.item_ids)

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """A copy of the counts, shape (5, n_items): popularity, trend, its time, transitions from and to the item."""
        return self._sums[:, : self.n_items].copy()

    @property
    def popularity(self) -> npt.NDArray[np.float64]:
        """Sum of the users' counts by item, shape (n_items,)."""
        return self._sums[_POPULARITY, : self.n_items]

    def trend(self, now: float) -> npt.NDArray[np.float64]:
        """Popularity in which each choice fades with its age, shape (n_items,).

        Args:
            now: seconds since 1970.
        """
        trend, at = self._sums[_TREND, : self.n_items], self._sums[_TREND_AT, : self.n_items]
        return np.asarray(trend * np.exp(-np.clip(now - at, 0.0, None) / TREND_S))

    @property
    def newest_at(self) -> float:
        """Time of the latest choice in seconds since 1970; 0 if there are none."""
        return float(self._sums[_TREND_AT].max())

    def index_of(self, item_id: str) -> int:
        """The item's index; an unknown item gets the next free one."""
        index = self._index.get(item_id)
        if index is None:
            index = self._index[item_id] = len(self.item_ids)
            self.item_ids.append(item_id)
            self._added.append({})
            if index >= self._sums.shape[1]:
                # Doubling keeps the cost of many new items linear.
                self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)], axis=1)
        return index

    def find(self, item_id: str) -> int | None:
        """The index of an item; None if the item is unknown."""
        return self._index.get(item_id)

    def append(self, interaction: Interaction | Choice) -> bool:
        """Counts one more choice.

        Returns:
            False, with nothing changed, if the choice belongs before the user's newest one. The caller then has to
            count everything again.
        """
        choice = _as_choice(interaction)
        known = self.users.get(choice.user)
        if known is not None and known.is_before_last(choice):
            return False
        history, item = self._record(choice)
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
        """How likely each item is chosen soon after each of `items`: float32, shape (len(items), n_items).

        The values are counts, not probabilities. They are shrunk by how much followed at all, and discounted for
        items that follow everything.
        """
        counts = self.counts_from(items)
        counts /= (self._sums[_FROM, np.asarray(items, dtype=np.intp)] + SHRINKAGE)[:, None]
        counts /= (self._sums[_TO, : self.n_items] + SHRINKAGE)[None, :] ** COMMONNESS
        return counts

    def counts_from(self, items: Sequence[int] | Ints) -> Floats:
        """The plain counts of what was chosen soon after each of `items`: float32, shape (len(items), n_items)."""
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

    def _record(self, choice: Choice) -> tuple[UserHistory, int]:
        history = self.users.setdefault(choice.user, UserHistory())
        item = self.index_of(choice.item)
        amount = history.add(item, choice)
        self.n_interactions += 1
        if not amount:
            return history, item  # not even its time may be seen by others: `newest_at` is what trends refer to
        sums = self._sums[:, item]
        # The trend refers to the item's newest choice, so that nothing has to be updated as time passes.
        newest = max(sums[_TREND_AT], choice.at)
        sums[_TREND] *= math.exp((sums[_TREND_AT] - newest) / TREND_S)
        sums[_TREND] += amount * math.exp((choice.at - newest) / TREND_S)
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
        items = np.fromiter((item for history in histories for item in history.items), dtype=np.intp)
        amounts = np.fromiter((amount for history in histories for amount in history.counts), dtype=np.float32)
        user = np.repeat(np.arange(len(self.users)), [len(history.items) for history in histories])
        n = self.n_items
        base = sparse.csr_matrix((n, n), dtype=np.float32)
        # All histories in one array, shifted by each lag: a loop over 100,000 choices would take seconds.
        for lag in range(1, min(LAGS, len(items) - 1) + 1):
            pair = (user[lag:] == user[:-lag]) & (items[lag:] != items[:-lag])
            counts = _LAG_WEIGHTS[lag - 1] * (amounts[lag:] * amounts[:-lag])[pair]
            base += sparse.csr_matrix((counts, (items[:-lag][pair], items[lag:][pair])), shape=(n, n))
        self._base = (base + BACKWARD * base.T).tocsr()
        self._sums[_FROM, :n] = self._base.sum(axis=1).ravel()
        self._sums[_TO, :n] = self._base.sum(axis=0).ravel()


def _as_choice(interaction: Interaction | Choice) -> Choice:
    return interaction if isinstance(interaction, Choice) else choice_of(interaction)
