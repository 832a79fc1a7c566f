"""Evaluates weights: how well they rank what users chose next, without the fast memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from math import log2

from smallai_assistant import AssistantError, Example, Item, Score, TaskContext
from smallai_recommend.examples import NextChoice, control_choices, history_of
from smallai_recommend.index import Index
from smallai_recommend.interactions import Choice, Floats, InteractionStats, choice_of
from smallai_recommend.item_texts import ReadTexts, TextReader
from smallai_recommend.query import Query
from smallai_recommend.ranking import rank
from smallai_recommend.text_index import Lease, TextIndex
from smallai_recommend.weights import LearnedWeights

log = logging.getLogger(__name__)

K = 10
# The host removes feedback from the fast memory if its examples score 1.0. But weights hold no histories: without the
# click in the fast memory, the item would be recommended again. So the best score is slightly less.
TOP = 1.0 - 1e-6
_MAX_QUERIES = 2_000  # distinct texts that are embedded; bounds the time of an evaluation


class Evaluator:
    """Ranks the whole catalogue for the histories of examples.

    Args:
        context: gives the store.
        text_index: the vectors that are known.
        lease: lends the embedding model.
        max_dense_items: see `EaseModel`.

    Attributes:
        revision: of the store that it shows.
        index: the imported interactions without the last choices of the control users.
        choices: the choices in `index`, oldest first.
        n_stored: number of interactions in the store.
        has_texts: whether every text of the catalogue has a vector.
    """

    def __init__(self, context: TaskContext, text_index: TextIndex, lease: Lease, *, max_dense_items: int) -> None:
        self.revision = context.items.revision()
        interactions = context.items.interactions()
        kept_out = set(control_choices(interactions).values())
        self.n_stored = len(interactions)
        self.choices: list[Choice] = [
            choice_of(interaction) for place, interaction in enumerate(interactions) if place not in kept_out
        ]
        self.max_dense_items = max_dense_items
        self._items: Sequence[Item] = context.items.items()
        self._text_index, self._lease = text_index, lease
        self._query_vectors: dict[str, Floats] = {}
        self.has_texts = True
        self.index = self._index_over(InteractionStats.of(self.choices))
        self.has_texts = self.index.read_texts.is_complete and self.index.read_texts.vectors is not None
        if not self.has_texts:
            # With a part of the texts, two evaluations would differ by how far the reading got.
            self.index.read_texts = ReadTexts()
            log.info("not all texts are read: new items and queries are left out of the evaluation")
        self._index_of_learned: tuple[LearnedWeights, Index] | None = None

    def scores(self, examples: Sequence[Example], learned: LearnedWeights | None) -> list[Score]:
        """NDCG@10 of each example: 1 / log2(1 + place) of the item that was chosen, 0 beyond place 10.

        All items of the catalogue that the user had not had are ranked.

        Args:
            examples: with a `NextChoice` as payload.
            learned: the weights to evaluate; None for those of the imported interactions.
        """
        snapshot = self._index_with(learned).snapshot()
        found = []
        for example in examples:
            asked: NextChoice = example.payload
            history = history_of(asked.before(), snapshot.stats.find)
            query = Query(asked.wanted) if self.vector_of(asked.wanted) is not None else None
            embed = self._query_vectors.__getitem__ if query is not None else None
            ranking = rank(snapshot, None, query, history=history, embed=embed)
            order = ranking.order[:K].tolist()
            wanted = snapshot.stats.find(asked.choice.item)
            place = order.index(wanted) + 1 if wanted in order else 0
            best = snapshot.catalogue.titles[order[0]] if order else ""
            found.append(Score(min(TOP, 1.0 / log2(1 + place)) if place else 0.0, best))
        return found

    def vector_of(self, text: str) -> Floats | None:
        """The sentence vector of what a query asks for, shape (n_dimensions,); None if it is not available."""
        if not text or not self.has_texts:
            return None
        if text not in self._query_vectors:
            if len(self._query_vectors) >= _MAX_QUERIES:
                return None
            try:
                self._query_vectors[text] = self._text_index.embed(text, self._lease)
            except AssistantError as error:
                log.info("a query could not be read: %s", error)
                return None
        return self._query_vectors[text]

    def _index_with(self, learned: LearnedWeights | None) -> Index:
        """An index that knows these weights and their counts only; without weights, the imported interactions."""
        if learned is None:
            return self.index
        # One is kept: an evaluation asks for the same weights several times, once for each slice of the examples.
        if self._index_of_learned is None or self._index_of_learned[0] is not learned:
            index = self._index_over(learned.stats())
            index.use(learned)
            self._index_of_learned = (learned, index)
        return self._index_of_learned[1]

    def _index_over(self, stats: InteractionStats) -> Index:
        index = Index()
        index.load(self._items, stats, max_dense_items=self.max_dense_items)
        if self.has_texts:
            index.update_texts(TextReader(self._text_index, self._lease, threading.Event()))
        return index
