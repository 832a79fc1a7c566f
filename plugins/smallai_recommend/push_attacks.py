"""Who does little but push one item that few others want; their feedback then counts for themselves alone.

The rule is that of the host's guard, which screens learning cycles, in a form that one more signal costs nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict

SOURCES = 5  # so many of one mind ...
SHARE_OF_VOTER = 0.8  # ... each with so much of what it says on one item ...
SHARE_OF_ITEM = 0.6  # ... and together so much of what is said for that item
AGAIN = 2  # once may be chance, unless the answer did not even hold the item


class Pushers:
    """Counts, by voter and item, what is said for items."""

    def __init__(self) -> None:
        self._rows: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by voter: items
        self._n_rows: Counter[str] = Counter()
        self._on_item: Counter[str] = Counter()
        self._out_of_the_blue: set[tuple[str, str]] = set()
        self._devoted_to: dict[str, str] = {}
        self._devotees: defaultdict[str, dict[str, int]] = defaultdict(dict)  # by item: voters and their rows
        self._n_devoted: Counter[str] = Counter()

    def count(self, voter: str, item: str, *, was_shown: bool) -> bool:
        """Counts one more signal for an item.

        Returns:
            Whether what was counted before has to be judged anew.
        """
        watched = {item, self._devoted_to.get(voter, item)}
        before = {each: self.is_pushed(each) for each in watched}
        was_set_aside = self.is_set_aside(voter)
        self._rows[voter][item] += 1
        self._n_rows[voter] += 1
        self._on_item[item] += 1
        if not was_shown:
            self._out_of_the_blue.add((voter, item))
        self._watch(voter, item)
        is_other = any(before[each] != self.is_pushed(each) for each in watched)
        return is_other or (was_set_aside != self.is_set_aside(voter) and self._n_rows[voter] > 1)

    def is_pushed(self, item: str) -> bool:
        """Whether several voters do little but push it."""
        n_devoted, n = self._n_devoted[item], self._on_item[item]
        return len(self._devotees.get(item, ())) >= SOURCES and n_devoted >= SHARE_OF_ITEM * n

    def is_set_aside(self, voter: str) -> bool:
        """Whether this is one of them."""
        item = self._devoted_to.get(voter)
        return item is not None and self.is_pushed(item)

    def pushed(self) -> dict[str, list[str]]:
        """The items that are pushed, and by whom."""
        return {item: list(voters) for item, voters in self._devotees.items() if self.is_pushed(item)}

    def _watch(self, voter: str, item: str) -> None:
        old = self._devoted_to.pop(voter, None)
        if old is not None:
            self._n_devoted[old] -= self._devotees[old].pop(voter)
        for each in {item, old} - {None}:
            assert each is not None
            n = self._rows[voter][each]
            is_odd = n >= AGAIN or (voter, each) in self._out_of_the_blue
            if is_odd and n >= SHARE_OF_VOTER * self._n_rows[voter]:
                self._devoted_to[voter] = each
                self._devotees[each][voter] = n
                self._n_devoted[each] += n
