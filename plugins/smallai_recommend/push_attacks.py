"""Detects push attacks: voters who do little but push one item that few others want.

The rule is the one by which the host screens feedback before a learning cycle, counted incrementally: one more signal
costs a few dictionary operations.
"""

from __future__ import annotations

from collections import Counter, defaultdict

# All four must hold. The shares are those of the host's screening.
SOURCES = 5  # minimum number of voters devoted to the item
SHARE_OF_VOTER = 0.8  # minimum share of a devoted voter's choices that name the item
SHARE_OF_ITEM = 0.6  # minimum share of the item's choices that devoted voters made
AGAIN = 2  # minimum number of choices of a devoted voter; one is enough if the answer did not show the item


class PushDetector:
    """Counts choices by voter and item. The result does not depend on the order of counting."""

    def __init__(self) -> None:
        self._rows: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by voter: items
        self._n_rows: Counter[str] = Counter()  # by voter
        self._on_item: Counter[str] = Counter()
        self._not_shown: set[tuple[str, str]] = set()  # voters and items that they named unprompted
        self._devoted_to: dict[str, str] = {}  # by voter; at most one item, because the share is over a half
        self._devotees: defaultdict[str, dict[str, int]] = defaultdict(dict)  # by item: voters and their rows
        self._n_devoted: Counter[str] = Counter()  # by item: the rows of its devoted voters

    def count(self, voter: str, item: str, *, was_shown: bool) -> bool:
        """Counts one more choice of an item.

        Returns:
            Whether choices that were counted before have to be weighted differently now.
        """
        affected = {item, self._devoted_to.get(voter, item)}
        before = {name: self.is_pushed(name) for name in affected}
        was_set_aside = self.is_set_aside(voter)
        self._rows[voter][item] += 1
        self._n_rows[voter] += 1
        self._on_item[item] += 1
        if not was_shown:
            self._not_shown.add((voter, item))
        self._update(voter, item)
        is_other = any(before[name] != self.is_pushed(name) for name in affected)
        # A voter's very first choice has no earlier ones that could be weighted differently.
        return is_other or (was_set_aside != self.is_set_aside(voter) and self._n_rows[voter] > 1)

    def is_pushed(self, item: str) -> bool:
        """Whether the item is under a push attack."""
        n_devoted, n = self._n_devoted[item], self._on_item[item]
        return len(self._devotees.get(item, ())) >= SOURCES and n_devoted >= SHARE_OF_ITEM * n

    def is_set_aside(self, voter: str) -> bool:
        """Whether the voter takes part in a push attack."""
        item = self._devoted_to.get(voter)
        return item is not None and self.is_pushed(item)

    def pushed(self) -> dict[str, list[str]]:
        """The items under a push attack, and the voters who take part in it."""
        return {item: list(voters) for item, voters in self._devotees.items() if self.is_pushed(item)}

    def _update(self, voter: str, item: str) -> None:
        """Decides again to which item the voter is devoted: only the one just chosen or the old one is possible."""
        old = self._devoted_to.pop(voter, None)
        if old is not None:
            self._n_devoted[old] -= self._devotees[old].pop(voter)
        for candidate in {item} if old is None else {item, old}:
            n = self._rows[voter][candidate]
            is_odd = n >= AGAIN or (voter, candidate) in self._not_shown
            if is_odd and n >= SHARE_OF_VOTER * self._n_rows[voter]:
                self._devoted_to[voter] = candidate
                self._devotees[candidate][voter] = n
                self._n_devoted[candidate] += n
