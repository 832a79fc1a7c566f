"""Logs which items feedback moves far up, and which items are under a push attack."""

from __future__ import annotations

import logging

from smallai_recommend.interactions import InteractionStats
from smallai_recommend.memory import FeedbackMemory

log = logging.getLogger("smallai_recommend")

_FIRST_LOOK = 10  # voters on an item before its movement is looked at
_MIN_MOVE = 0.1  # share of the catalogue that an item has to move up to be logged


class MovementLog:
    """Warns the operator; each push attack is reported once.

    Args:
        memory: knows the voters.
    """

    def __init__(self, memory: FeedbackMemory) -> None:
        self._memory = memory
        self._reported: set[str] = set()

    def look_at(self, stats: InteractionStats, item_id: str) -> None:
        """Logs how far feedback moved an item, each time that its number of voters has doubled."""
        n_voters = self._memory.n_voters(item_id)
        doublings, rest = divmod(n_voters, _FIRST_LOOK)
        if rest or not doublings or doublings & (doublings - 1):  # neither 10, 20, 40, 80 ...
            return
        popularity = stats.popularity
        without = float(popularity[stats.index_of(item_id)]) - self._memory.public_amount_of(item_id)
        # The margin keeps rounding errors of the sums from counting as a lead over items with the same popularity.
        now, then = place_of(stats, item_id), 1 + int((popularity > without + 1e-6).sum())
        if then - now >= _MIN_MOVE * stats.n_items:
            log.warning(
                "the feedback of %d sources moved the item %r from place %d of the popular ones to %d",
                n_voters, item_id, then, now,
            )  # fmt: skip

    def report_attacks(self, before: InteractionStats, after: InteractionStats) -> None:
        """Logs new push attacks.

        Args:
            before: the statistics with the attackers' choices.
            after: the statistics without them.
        """
        pushed = self._memory.pushed()
        for item_id, voters in pushed.items():
            if before.find(item_id) is not None and item_id not in self._reported:
                log.warning(
                    "%d sources do little but push the item %r and are set aside: it stood at place %d of the popular "
                    "ones, and stands at %d without them",
                    len(voters), item_id, place_of(before, item_id), place_of(after, item_id),
                )  # fmt: skip
        self._reported = set(pushed)


def place_of(stats: InteractionStats, item_id: str) -> int:
    """The place of an item by popularity, 1 for the most popular; the last place if the item is unknown."""
    item = stats.find(item_id)
    return stats.n_items if item is None else 1 + int((stats.popularity > stats.popularity[item]).sum())
