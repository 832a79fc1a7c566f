"""Brings what the fast memory knows into the statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from smallai_recommend.interactions import Choice, Floats, InteractionStats
from smallai_recommend.memory import Cursor, FeedbackMemory

Knows = Callable[[str], bool]  # whether an item id is in the catalogue or was imported


class FeedbackReader:
    """Follows a fast memory step by step.

    Choices of items that nobody knows wait: made-up ids must not fill the matrices.

    Args:
        memory: what to follow.
    """

    def __init__(self, memory: FeedbackMemory) -> None:
        self.memory = memory
        self._cursor = Cursor(0, 0)
        self._waiting: set[str] = set()  # items of choices that are not counted
        self._counted: set[str] = set()  # items of choices that are counted
        self._against: tuple[int, int, Floats] | None = None

    def choices(self, knows: Knows) -> list[Choice]:
        """All choices of known items, in order. `apply` continues from here."""
        choices, self._cursor = self.memory.choices()
        items = {choice.item for choice in choices}
        self._counted = {item for item in items if knows(item)}
        self._waiting = items - self._counted
        return [choice for choice in choices if choice.item in self._counted]

    def apply(self, stats: InteractionStats, knows: Knows, on_choice: Callable[[str], None]) -> bool:
        """Applies what is new to the statistics.

        Args:
            stats: are changed.
            knows: whether an item is known.
            on_choice: is called with the item of each new choice.

        Returns:
            False if that is not possible; then everything has to be counted again.
        """
        steps = self.memory.steps_since(self._cursor)
        if steps is None:
            return False
        for step in steps:
            choice = step.choice
            if not knows(choice.item):
                self._waiting.add(choice.item)
            elif choice.item in self._waiting:  # it became known; earlier choices of it are not counted yet
                return False
            elif not step.is_new:
                if not stats.users[choice.user].strengthen(choice):
                    return False
            elif stats.append(choice):
                self._counted.add(choice.item)
                on_choice(choice.item)
            else:
                return False
            # Only now: a step that was refused is read again when everything is counted.
            self._cursor = Cursor(self._cursor.generation, self._cursor.n_steps + 1)
        return True

    def is_current(self, knows: Knows) -> bool:
        """Whether only known items are counted, and only unknown ones wait; a change of the store may end that."""
        return all(map(knows, self._counted)) and not any(map(knows, self._waiting))

    def against(self, stats: InteractionStats) -> Floats:
        """How many voters are against each item, float32, shape (n_items,); each voter counts at most 1."""
        revision, n_items = self.memory.opinions_revision, stats.n_items
        if self._against is None or self._against[:2] != (revision, n_items):
            amounts = np.zeros(n_items, dtype=np.float32)
            for item_id, amount in self.memory.against().items():
                place = stats.find(item_id)
                if place is not None:
                    amounts[place] = amount
            self._against = (revision, n_items, amounts)
        return self._against[2]

    def reset(self) -> None:
        """Forgets what depends on item indices."""
        self._against = None
