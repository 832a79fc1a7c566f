"""What users were against by the interactions of the store, such as films that they gave one star."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from smallai_assistant import Interaction
from smallai_recommend.interactions import Floats, InteractionStats, strength

# Opinions are added up as integers: a sum of floats depends on the order of its terms.
_OPINION_UNITS = 100


class StoredDislikes:
    """The stored interactions that speak against their item. A user's last word on an item decides."""

    def __init__(self) -> None:
        self._of_user: defaultdict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
        self._units: defaultdict[str, int] = defaultdict(int)
        self._revision = 0
        self._against: tuple[int, int, Floats] | None = None

    @classmethod
    def of(cls, rows: Iterable[Interaction]) -> StoredDislikes:
        """Takes all interactions of a store, oldest first."""
        found = cls()
        for row in rows:
            found.take(row)
        return found

    def take(self, row: Interaction) -> None:
        """Takes in an interaction that is not older than those of the same user so far."""
        mine = self._of_user.get(row.user)
        if mine is not None and row.item in mine:
            self._units[row.item] -= _units(mine.pop(row.item)[1])
            self._revision += 1
        if row.weight < 0:
            amount = strength(row.weight)
            self._of_user[row.user][row.item] = (row.at, amount)
            self._units[row.item] += _units(amount)
            self._revision += 1

    def of_user(self, user: str) -> list[tuple[float, str, float]]:
        """Times, item ids and negative amounts of what a user is against."""
        return [(at, item, amount) for item, (at, amount) in self._of_user.get(user, {}).items()]

    def against(self, stats: InteractionStats) -> Floats:
        """How many users are against each item, float32, shape (n_items,); each user counts at most 1."""
        state = (self._revision, stats.n_items)
        if self._against is None or self._against[:2] != state:
            amounts = np.zeros(stats.n_items, dtype=np.float32)
            for item_id, units in self._units.items():
                place = stats.find(item_id)
                if place is not None:
                    amounts[place] = units / _OPINION_UNITS
            self._against = (*state, amounts)
        return self._against[2]

    def reset(self) -> None:
        """Forgets what depends on item indices."""
        self._against = None


def _units(amount: float) -> int:
    return round(_OPINION_UNITS * min(1.0, -amount))
