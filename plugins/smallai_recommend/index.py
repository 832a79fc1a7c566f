"""What recommendations are made from: catalogue, evidence, item-item weights and text vectors, kept up to date."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from smallai_assistant import AssistantError, Interaction, Item, Notice
from smallai_recommend.evidence import Evidence, Floats, Ints
from smallai_recommend.model import TogetherModel
from smallai_recommend.text_index import Lease, TextIndex
from smallai_recommend.wish import Titles

if TYPE_CHECKING:
    from smallai_assistant import TaskContext

Bools = npt.NDArray[np.bool_]

EMBED_BUDGET_S = 20.0  # the first request after a large import waits no longer for the texts
COLD_NEIGHBOURS = 30
COLD_SHARPNESS = 0.2  # a neighbour whose cosine is lower by this counts 1/e
SHORT_HISTORY = 10  # items of a user; from here on texts say nothing more about the taste
_REFIT_SHARE, _REFIT_LEAST = 0.1, 200  # weights are made anew after so many more interactions
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Texts:
    """Vectors of the catalogue's texts by item index, float32, shape (n_items, n_dimensions), zeros where none.

    Attributes:
        whole: of title and text.
        about: of the text alone, of the title where there is no text. Titles mislead: "Kids" is not for kids.
        has: which items have both.
    """

    whole: Floats
    about: Floats
    has: Bools


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Items without interactions and those with them that read most like each.

    Attributes:
        cold: shape (n_cold,).
        near: shape (n_cold, n_near), nearest first.
        weights: float32, same shape, rows sum to 1.
    """

    cold: Ints
    near: Ints
    weights: Floats


class Index:
    """One snapshot of the store, brought up to date in place. Not thread-safe: the task holds a lock.

    Attributes:
        revision: of the store it shows.
        titles: of the items in the catalogue, by item index.
        is_item: whether the item is in the catalogue, by item index.
        texts: None where no text could be read.
    """

    def __init__(self) -> None:
        self.revision: tuple[int, int] = (-1, -1)
        self.evidence = Evidence()
        self.titles: dict[int, str] = {}
        self.is_item: Bools = np.zeros(0, dtype=np.bool_)
        self.texts: Texts | None = None
        self._max_dense_items = 0
        self._model: TogetherModel | None = None
        self._items: list[Item] = []
        self._finder: Titles | None = None
        self._has_all_texts = False
        self._texts_maker = ""
        self._neighbours: tuple[Texts, int, Neighbours] | None = None

    @property
    def n_items(self) -> int:
        """Items known, those included that only interactions name."""
        return self.evidence.n_items

    @property
    def model(self) -> TogetherModel:
        """The item-item weights, made when they are first needed."""
        if self._model is None:
            self._model = TogetherModel(self.evidence, max_dense_items=self._max_dense_items)
        return self._model

    @property
    def is_warm(self) -> Bools:
        """Which items have interactions, by item index."""
        return self.evidence.popularity > 0

    @property
    def finder(self) -> Titles:
        """Finds the catalogue's titles in a text."""
        if self._finder is None:
            self._finder = Titles(self.titles, self.evidence.popularity.tolist())
        return self._finder

    def needs_texts(self, user: str | None) -> bool:
        """Whether the user has a short history, or an item of the catalogue none: then texts speak for them."""
        history = self.evidence.users.get(user) if user is not None else None
        is_short = history is not None and len(set(history.items)) < SHORT_HISTORY
        return is_short or bool((self.is_item & ~self.is_warm).any())

    def refresh(self, context: TaskContext, *, max_dense_items: int = 10_000) -> None:
        """Brings everything but the texts up to date with the store.

        Args:
            max_dense_items: see `TogetherModel`.
        """
        if max_dense_items != self._max_dense_items:
            self._max_dense_items, self._model = max_dense_items, None
        revision = context.items.revision()
        if revision == self.revision:
            return
        if revision[1] != self.revision[1]:
            newer = context.items.interactions(after=self.evidence.n_interactions)
            n_before = self.evidence.n_interactions
            if not n_before or not newer or not all(self.append(each) for each in newer):
                self.evidence = Evidence.of(context.items.interactions() if n_before else newer)
                self._model = self.texts = None  # the places of the items are others now
                self._has_all_texts = False
                self.revision = (-1, -1)
        if revision[0] != self.revision[0]:
            self._items = context.items.items()
            self._has_all_texts = False
        self._place_items()
        self.revision = revision

    def append(self, interaction: Interaction) -> bool:
        """Takes in one more interaction without making the weights anew, until there are many of them.

        Returns:
            False, with nothing changed, where it lies before what its user did last.
        """
        if not self.evidence.append(interaction):
            return False
        if self.n_items > len(self.is_item):
            self._place_items()
        if self._model is not None:
            n_more = self.evidence.n_interactions - self._model.n_interactions
            if n_more > max(_REFIT_LEAST, _REFIT_SHARE * self._model.n_interactions):
                self._model = None
        return True

    def read_texts(self, text_index: TextIndex, lease: Lease, stop: threading.Event) -> list[Notice]:
        """Brings the text vectors up to date, new items first, as far as `EMBED_BUDGET_S` allows.

        Returns:
            What is missing and why.
        """
        if self._texts_maker != text_index.maker:
            self.texts, self._has_all_texts = None, False
        if self._has_all_texts:
            return []
        notices: list[Notice] = []
        warm = self.is_warm
        items = sorted(self._items, key=lambda item: bool(warm[self.evidence.index_of(item.id)]))
        whole, about = [_whole(item) for item in items], [item.text or item.title for item in items]
        wanted = [text for both in zip(whole, about, strict=True) for text in both]
        try:
            n_missing = text_index.update(wanted, lease, budget_s=EMBED_BUDGET_S, stop=stop)
            self._has_all_texts = not n_missing
            if n_missing:
                notices.append(
                    Notice("text_partial", f"{n_missing:,} of {len(wanted):,} texts have yet to be read; ask again.")
                )
        except AssistantError as error:
            if error.code == "cancelled":
                raise
            notices.append(Notice("text_unavailable", f"Titles and texts could not be compared: {error}."))
        places = np.array([self.evidence.index_of(item.id) for item in items], dtype=np.intp)
        self._texts_maker = text_index.maker
        vectors, has_whole = text_index.matrix(whole)
        vectors_about, has_about = text_index.matrix(about)
        if has_whole.any():
            has = _spread(has_whole & has_about, places, self.n_items)
            self.texts = Texts(
                _spread(vectors, places, self.n_items), _spread(vectors_about, places, self.n_items), has
            )
        return notices

    def neighbours(self) -> Neighbours | None:
        """For each item without interactions those with them that read most like it; None where nothing is known."""
        texts, warm = self.texts, self.is_warm
        if texts is None:
            return None
        n_warm = int(warm.sum())
        if self._neighbours is None or self._neighbours[0] is not texts or self._neighbours[1] != n_warm:
            found = _nearest(texts.whole, np.flatnonzero(texts.has & ~warm), np.flatnonzero(texts.has & warm))
            self._neighbours = (texts, n_warm, found)
        return self._neighbours[2]

    def _place_items(self) -> None:
        places = [self.evidence.index_of(item.id) for item in self._items]
        self.titles = {place: item.title or item.id for place, item in zip(places, self._items, strict=True)}
        self.is_item = np.zeros(self.n_items, dtype=np.bool_)
        self.is_item[places] = True
        self._finder = None
        if self.texts is not None and len(self.texts.has) < self.n_items:
            known = np.arange(len(self.texts.has))
            arrays = (self.texts.whole, self.texts.about, self.texts.has)
            self.texts = Texts(*(_spread(array, known, self.n_items) for array in arrays))


def _whole(item: Item) -> str:
    return f"{item.title}. {item.text}" if item.text else item.title


def _spread(rows: npt.NDArray[Any], places: Ints, n: int) -> npt.NDArray[Any]:
    spread = np.zeros((n, *rows.shape[1:]), dtype=rows.dtype)
    spread[places] = rows
    return spread


def _nearest(vectors: Floats, cold: Ints, known: Ints) -> Neighbours:
    n_kept = min(COLD_NEIGHBOURS, len(known))
    near = np.zeros((len(cold), n_kept), dtype=np.intp)
    weights = np.zeros((len(cold), n_kept), dtype=np.float32)
    if n_kept:
        for start in range(0, len(cold), _BLOCK):
            rows = slice(start, start + _BLOCK)
            cosines = vectors[cold[rows]] @ vectors[known].T
            columns = np.argpartition(-cosines, n_kept - 1, axis=1)[:, :n_kept]
            columns = np.take_along_axis(columns, np.argsort(-np.take_along_axis(cosines, columns, 1), axis=1), 1)
            cosines = np.take_along_axis(cosines, columns, 1)
            decay = np.exp((cosines - cosines[:, :1]) / COLD_SHARPNESS)
            near[rows], weights[rows] = known[columns], decay / decay.sum(axis=1, keepdims=True)
    return Neighbours(cold, near, weights)
