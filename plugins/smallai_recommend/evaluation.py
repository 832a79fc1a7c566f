"""Judges weights: how well they rank what users chose next, by what was imported and without the fast memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from math import log2

from smallai_assistant import AssistantError, Example, Score, TaskContext
from smallai_recommend.examples import Next, history_of, watched
from smallai_recommend.index import Index
from smallai_recommend.interactions import Choice, Floats, InteractionStats, choice_of
from smallai_recommend.query import Wish
from smallai_recommend.ranking import rank
from smallai_recommend.text_index import Lease, TextIndex
from smallai_recommend.weights import LearnedWeights

log = logging.getLogger(__name__)

K = 10
# The host retires feedback whose examples score 1.0 from the fast memory. But weights hold no user's history: a click
# that was retired would be recommended again. So the best score is a hair less.
TOP = 1.0 - 1e-6
_MAX_WISHES = 2_000


class Judge:
    """Ranks the whole catalogue for histories.

    Attributes:
        revision: of the store that it knows.
        index: what was imported, less the last choices that are kept from training.
        choices: the same, oldest first.
        n_stored: how many interactions the store has.
        has_texts: whether every text of the catalogue has a vector.
    """

    def __init__(self, context: TaskContext, text_index: TextIndex, lease: Lease, *, max_dense_items: int) -> None:
        self.revision = context.items.revision()
        interactions = context.items.interactions()
        kept_out = set(watched(interactions).values())
        self.n_stored = len(interactions)
        self.choices: list[Choice] = [
            choice_of(each) for place, each in enumerate(interactions) if place not in kept_out
        ]
        self.max_dense_items = max_dense_items
        self._items = context.items.items()
        self._text_index, self._lease = text_index, lease
        self._vectors: dict[str, Floats] = {}
        self.has_texts = True
        self.index = self._index_over(InteractionStats.of(self.choices))
        self.has_texts = self.index.has_all_texts and self.index.texts is not None
        if not self.has_texts:  # half of them would make two evaluations differ
            self.index.texts = None
            log.info("not all texts are read: new items and wishes are left out of the evaluation")
        self._index_of_learned: tuple[LearnedWeights, Index] | None = None

    def scores(self, examples: Sequence[Example], learned: LearnedWeights | None) -> list[Score]:
        """NDCG@10 of each: 1 / log2(1 + place) for the item that was chosen, 0 beyond place 10.

        All items of the catalogue are ranked that the user had not had.
        """
        index = self._index_with(learned)
        found = []
        for example in examples:
            asked: Next = example.payload
            history = history_of(asked.before(), index.stats.find)
            wish = Wish(asked.wish) if self.vector_of(asked.wish) is not None else None
            ranking = rank(
                index, None, wish, history=history, embed=self._vectors.__getitem__ if wish is not None else None
            )
            order = ranking.order[:K].tolist()
            wanted = index.stats.find(asked.choice.item)
            place = order.index(wanted) + 1 if wanted in order else 0
            best = index.titles[order[0]] if order else ""
            found.append(Score(min(TOP, 1.0 / log2(1 + place)) if place else 0.0, best))
        return found

    def vector_of(self, wish: str) -> Floats | None:
        """The sentence vector of a wish; None where it cannot be had."""
        if not wish or not self.has_texts:
            return None
        if wish not in self._vectors:
            if len(self._vectors) >= _MAX_WISHES:
                return None
            try:
                self._vectors[wish] = self._text_index.embed(wish, self._lease)
            except AssistantError as error:
                log.info("a wish could not be read: %s", error)
                return None
        return self._vectors[wish]

    def _index_with(self, learned: LearnedWeights | None) -> Index:
        """An index that knows no more than these weights and counts, or than what was imported."""
        if learned is None:
            return self.index
        if self._index_of_learned is None or self._index_of_learned[0] is not learned:
            index = self._index_over(learned.stats())
            index.use(learned)
            self._index_of_learned = (learned, index)
        return self._index_of_learned[1]

    def _index_over(self, stats: InteractionStats) -> Index:
        index = Index()
        index.load(self._items, stats, max_dense_items=self.max_dense_items)
        if self.has_texts:
            index.read_texts(self._text_index, self._lease, threading.Event())
        return index
