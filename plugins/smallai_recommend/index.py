"""Everything that recommendations are made from, kept up to date with the store and the fast memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from smallai_assistant import Interaction, Item, Notice
from smallai_recommend.catalogue import Catalogue
from smallai_recommend.cold_start import ColdNeighbours, nearest_warm
from smallai_recommend.dislikes import StoredDislikes
from smallai_recommend.feedback_reader import FeedbackReader
from smallai_recommend.interactions import Bools, InteractionStats, choice_of, in_order
from smallai_recommend.item_texts import ReadTexts, TextReader, TextVectors
from smallai_recommend.memory import FeedbackMemory
from smallai_recommend.movement_log import MovementLog
from smallai_recommend.served_weights import ServedWeights
from smallai_recommend.snapshot import SHORT_HISTORY, Snapshot
from smallai_recommend.weights import LearnedWeights, TextMap

if TYPE_CHECKING:
    from smallai_assistant import TaskContext


class Index:
    """Follows the store and the fast memory; queries read its `snapshot`.

    Not thread-safe: the task holds a lock while it updates the index and while a query reads.

    Args:
        memory: what feedback says; None for an index without feedback.

    Attributes:
        revision: of the store: of its items, of its interactions, and of removals of interactions.
        stats: the statistics of all choices; it gives the item indices.
        catalogue: the items of the store.
        read_texts: the text vectors, as far as they have been read.
        weights: the weights in service.
        feedback: follows the fast memory.
        dislikes: what the interactions of the store say against items.
    """

    def __init__(self, memory: FeedbackMemory | None = None) -> None:
        memory = memory or FeedbackMemory(lambda _: None)
        self.revision: tuple[int, int, int] = (-1, -1, -1)
        self.stats = InteractionStats()
        self.catalogue = Catalogue.of((), self.stats)
        self.read_texts = ReadTexts()
        self.weights = ServedWeights()
        self.feedback = FeedbackReader(memory)
        self.dislikes = StoredDislikes()
        self._movements = MovementLog(memory)
        self._imported: set[str] = set()  # item ids that imported interactions name
        self._n_stored = 0  # interactions of the store that were read
        self._cold: tuple[TextVectors, int, ColdNeighbours] | None = None

    def snapshot(self) -> Snapshot:
        """What a query reads; valid until the index changes."""
        is_warm, vectors = self.weights.is_warm(self.stats), self.read_texts.vectors
        text_map = self.weights.text_map(self.read_texts.maker)
        return Snapshot(
            catalogue=self.catalogue,
            stats=self.stats,
            weights=self.weights,
            memory=self.feedback.memory,
            dislikes=self.dislikes,
            is_warm=is_warm,
            against=self.feedback.against(self.stats) + self.dislikes.against(self.stats),
            texts=vectors,
            text_map=text_map,
            neighbours=None if vectors is None else self._neighbours(vectors, text_map, is_warm),
        )

    def needs_texts(self, user: str | None) -> bool:
        """Whether texts count for this user's ranking: the user's history is short, or an item has no history."""
        history = self.stats.users.get(user) if user is not None else None
        is_short = history is not None and len(set(history.items)) < SHORT_HISTORY
        return is_short or bool((self.catalogue.is_item & ~self.weights.is_warm(self.stats)).any())

    def refresh(
        self, context: TaskContext, *, max_dense_items: int = 10_000, learned: LearnedWeights | None = None
    ) -> None:
        """Brings everything except the texts up to date with the store and the fast memory.

        Args:
            context: gives the store.
            max_dense_items: see `EaseModel`.
            learned: the result of the learning cycle that serves.
        """
        self.use(learned)
        self.weights.limit(max_dense_items)
        revision = context.items.revision()
        if revision == self.revision:
            is_current = self.take_feedback()
        else:
            is_current = self._read_store(context, revision) and self.take_feedback()
            is_current = is_current and self.feedback.is_current(self._knows)
        if not is_current:
            self.rebuild(context.items.interactions())
        # Last: if reading fails, the next request reads again.
        self.revision = revision

    def load(self, items: Sequence[Item], stats: InteractionStats, *, max_dense_items: int) -> None:
        """Uses these items and statistics instead of a store."""
        self.weights.limit(max_dense_items)
        self.stats, self._imported = stats, set(stats.item_ids)
        self._place(items)

    def use(self, learned: LearnedWeights | None) -> None:
        """Ranks with these weights from now on; None for weights of the statistics."""
        if self.weights.use(learned):
            self._cold = None

    def take_feedback(self) -> bool:
        """Applies what the fast memory learned since the last time.

        Returns:
            False if everything has to be counted again, see `rebuild`.
        """

        def look_at(item_id: str) -> None:
            self._movements.look_at(self.stats, item_id)

        is_applied = self.feedback.apply(self.stats, self._knows, look_at)
        self.weights.drop_outdated(self.stats)
        return is_applied

    def rebuild(self, stored: Sequence[Interaction]) -> None:
        """Counts everything that was imported and all feedback from scratch.

        Args:
            stored: all interactions of the store, oldest first.
        """
        before = self.stats
        self._n_stored, self._imported = len(stored), {row.item for row in stored}
        self.dislikes = StoredDislikes.of(stored)
        choices = [choice_of(row) for row in stored]
        known = self.feedback.choices(self._knows)
        self.stats = InteractionStats.of(in_order([*choices, *known]) if known else choices)
        # The items have other indices now: everything that is ordered by them is void.
        self.weights.reset()
        self.feedback.reset()
        self.read_texts, self._cold = ReadTexts(), None
        self._place(self.catalogue.items)
        self._movements.report_attacks(before, self.stats)

    def update_texts(self, reader: TextReader) -> list[Notice]:
        """Reads the texts that are missing, new items first, and returns notices about what is still missing.

        Raises:
            AssistantError: with the code "cancelled", if the request was cancelled.
        """
        warm = self.weights.is_warm(self.stats)
        # New items have nothing but their texts.
        items = sorted(self.catalogue.items, key=lambda item: bool(warm[self.stats.index_of(item.id)]))
        self.read_texts, notices = reader.read(self.read_texts, items, self.stats)
        return notices

    def _neighbours(self, vectors: TextVectors, text_map: TextMap | None, is_warm: Bools) -> ColdNeighbours:
        n_warm = int(is_warm.sum())
        # Items only ever become warm, so their number tells whether the neighbours are still right.
        if self._cold is None or self._cold[0] is not vectors or self._cold[1] != n_warm:
            whole = text_map(vectors.whole) if text_map is not None and text_map.for_cold else vectors.whole
            cold, warm = np.flatnonzero(vectors.has & ~is_warm), np.flatnonzero(vectors.has & is_warm)
            self._cold = (vectors, n_warm, nearest_warm(whole, cold, warm))
        return self._cold[2]

    def _read_store(self, context: TaskContext, revision: tuple[int, int, int]) -> bool:
        """Reads what is new in the store. Returns False if everything has to be counted again."""
        items: Sequence[Item] = self.catalogue.items
        if revision[0] != self.revision[0]:
            items = context.items.items()
            self.read_texts = replace(self.read_texts, is_complete=False)
        is_appended = revision[2] == self.revision[2]
        if is_appended and revision[1] != self.revision[1]:
            newer = context.items.interactions(after=self._n_stored)
            # The first import is counted in bulk. Without newer ones, some were removed.
            is_appended = bool(self._n_stored and newer) and all(self._append(row) for row in newer)
            self._n_stored += len(newer)
            self._imported.update(row.item for row in newer)
        self._place(items)
        return is_appended

    def _append(self, row: Interaction) -> bool:
        """Counts one more interaction of the store; False if everything has to be counted again."""
        is_appended = self.stats.append(row)
        if is_appended:
            self.dislikes.take(row)
        return is_appended

    def _knows(self, item_id: str) -> bool:
        return item_id in self.catalogue.ids or item_id in self._imported

    def _place(self, items: Sequence[Item]) -> None:
        """Makes the snapshot of the catalogue, and room for new items."""
        self.catalogue = Catalogue.of(items, self.stats)
        vectors = self.read_texts.vectors
        if vectors is not None:
            self.read_texts = replace(self.read_texts, vectors=vectors.grown_to(self.stats.n_items))
