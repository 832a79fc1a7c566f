"""What recommendations are made from: catalogue, evidence, item-item weights and text vectors, kept up to date."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from smallai_assistant import AssistantError, Interaction, Item, Notice
from smallai_recommend.cold_start import Bools, Neighbours, Texts, nearest
from smallai_recommend.ease import Settings, TogetherModel
from smallai_recommend.interactions import Choice, Floats, InteractionStats, Ints, choice_of
from smallai_recommend.memory import FeedbackMemory
from smallai_recommend.query import Titles
from smallai_recommend.text_index import Lease, TextIndex
from smallai_recommend.weights import LearnedWeights, TextMap

if TYPE_CHECKING:
    from smallai_assistant import TaskContext

log = logging.getLogger(__name__)

EMBED_BUDGET_S = 20.0  # the first request after a large import waits no longer for the texts
SHORT_HISTORY = 10  # items of a user; from here on texts say nothing more about the taste
_REFIT_SHARE, _REFIT_LEAST = 0.1, 200  # weights are made anew after so many more interactions
_FIRST_LOOK, _WORTH_LOGGING = 10, 0.1  # voters on an item; share of the catalogue that it moved by their feedback


class Index:
    """One snapshot of the store and of the feedback, brought up to date in place.

    Not thread-safe: the task holds a lock.

    Args:
        memory: what feedback said; None where there is none.

    Attributes:
        revision: of the store it shows.
        titles: of the items in the catalogue, by item index.
        is_item: whether the item is in the catalogue, by item index.
        texts: None where no text could be read.
        memory: what feedback said.
    """

    def __init__(self, memory: FeedbackMemory | None = None) -> None:
        self.revision: tuple[int, int] = (-1, -1)
        self.stats = InteractionStats()
        self.titles: dict[int, str] = {}
        self.is_item: Bools = np.zeros(0, dtype=np.bool_)
        self.texts: Texts | None = None
        self.memory = memory or FeedbackMemory(lambda _: None)
        self._max_dense_items = 0
        self._learned: LearnedWeights | None = None
        self._has_weights: Bools | None = None
        self._model: TogetherModel | None = None
        self._items: list[Item] = []
        self._catalogue: set[str] = set()
        self._finder: Titles | None = None
        self._has_all_texts = False
        self._texts_maker = ""
        self._neighbours: tuple[Texts, int, Neighbours] | None = None
        self._n_stored = 0
        self._generation, self._n_steps = 0, 0
        self._waiting: set[str] = set()  # items that feedback names and the catalogue does not
        self._pushed: set[str] = set()  # what the log has said of
        self._against: tuple[int, int, Floats] | None = None

    @property
    def n_items(self) -> int:
        """Items known, those included that only interactions name."""
        return self.stats.n_items

    @property
    def model(self) -> TogetherModel:
        """The item-item weights: the learned ones until much has come since, else made when they are first needed."""
        if self._model is None:
            learned = self._learned
            if learned is not None and not _is_much(self.stats.n_interactions, learned.n_interactions):
                self._model = learned.model_for(self.stats)
            else:
                self._model = TogetherModel(self.stats, max_dense_items=self._max_dense_items, settings=self.settings)
        return self._model

    @property
    def settings(self) -> Settings:
        """How the parts are mixed: as it was learned, or as it is by default."""
        return self._learned.settings if self._learned is not None else Settings()

    @property
    def has_all_texts(self) -> bool:
        """Whether every text of the catalogue has its vector."""
        return self._has_all_texts

    @property
    def texts_maker(self) -> str:
        """What made the text vectors; empty before there are any."""
        return self._texts_maker

    @property
    def text_map(self) -> TextMap | None:
        """What was learned about texts, where it is for the vectors there are."""
        found = self._learned.text_map if self._learned is not None else None
        return found if found is not None and found.maker == self._texts_maker else None

    @property
    def is_warm(self) -> Bools:
        """Which items have interactions or learned weights, by item index."""
        warm = self.stats.popularity > 0
        if self._learned is None:
            return np.asarray(warm)
        if self._has_weights is None or len(self._has_weights) != self.n_items:
            self._has_weights = self._learned.knows(self.stats)
        return np.asarray(warm | self._has_weights)

    @property
    def against(self) -> Floats:
        """How many are against each item, by item index; a person counts 1 at most."""
        n_against = self.memory.n_against
        if self._against is None or self._against[:2] != (n_against, self.n_items):
            amounts = np.zeros(self.n_items, dtype=np.float32)
            for item_id, amount in self.memory.against().items():
                place = self.stats.find(item_id)
                if place is not None:
                    amounts[place] = amount
            self._against = (n_against, self.n_items, amounts)
        return self._against[2]

    @property
    def finder(self) -> Titles:
        """Finds the catalogue's titles in a text."""
        if self._finder is None:
            self._finder = Titles(self.titles, self.stats.popularity.tolist())
        return self._finder

    def needs_texts(self, user: str | None) -> bool:
        """Whether the user has a short history, or an item of the catalogue none: then texts speak for them."""
        history = self.stats.users.get(user) if user is not None else None
        is_short = history is not None and len(set(history.items)) < SHORT_HISTORY
        return is_short or bool((self.is_item & ~self.is_warm).any())

    def refresh(
        self, context: TaskContext, *, max_dense_items: int = 10_000, learned: LearnedWeights | None = None
    ) -> None:
        """Brings everything but the texts up to date with the store and the feedback.

        Args:
            max_dense_items: see `TogetherModel`.
            learned: what a learning cycle made.
        """
        self.use(learned)
        if max_dense_items != self._max_dense_items:
            self._max_dense_items, self._model = max_dense_items, None
        revision = context.items.revision()
        if revision != self.revision:
            self._read_store(context, revision)
        if not self.take_feedback():
            self.begin_anew([choice_of(interaction) for interaction in context.items.interactions()])

    def take_feedback(self) -> bool:
        """Takes in what feedback said since the last time.

        Returns:
            False where everything has to be taken in anew.
        """
        steps, generation = self.memory.steps(self._n_steps)
        if generation != self._generation:
            return False
        for step in steps:
            choice = step.choice
            if not self._is_known(choice.item):
                self._waiting.add(choice.item)
            elif choice.item in self._waiting:  # an import named it meanwhile
                return False
            elif not step.is_new:
                self.stats.users[choice.user].strengthen(self.stats.index_of(choice.item), choice.amount)
            elif self.append(choice):
                self._look_at(choice.item)
            else:
                return False
            self._n_steps += 1  # only now: what was refused is asked for again, and then all is taken in anew
        return True

    def load(self, items: Sequence[Item], stats: InteractionStats, *, max_dense_items: int) -> None:
        """Shows these instead of a store."""
        self._items, self._catalogue = list(items), {item.id for item in items}
        self._max_dense_items = max_dense_items
        self.stats = stats
        self._place_items()

    def use(self, learned: LearnedWeights | None) -> None:
        """Ranks with these weights from now on; None for those of the evidence."""
        if learned is not self._learned:
            self._learned, self._model = learned, None
            self._neighbours = self._has_weights = None

    def append(self, interaction: Interaction | Choice) -> bool:
        """Takes in one more interaction without making the weights anew, until there are many of them.

        Returns:
            False, with nothing changed, where it lies before what its user did last.
        """
        if not self.stats.append(interaction):
            return False
        if self.n_items > len(self.is_item):
            self._place_items()
        if self._model is not None and _is_much(self.stats.n_interactions, self._model.n_interactions):
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
        items = sorted(self._items, key=lambda item: bool(warm[self.stats.index_of(item.id)]))
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
        places = np.array([self.stats.index_of(item.id) for item in items], dtype=np.intp)
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
            text_map = self.text_map
            whole = text_map(texts.whole) if text_map is not None and text_map.for_cold else texts.whole
            found = nearest(whole, np.flatnonzero(texts.has & ~warm), np.flatnonzero(texts.has & warm))
            self._neighbours = (texts, n_warm, found)
        return self._neighbours[2]

    def _read_store(self, context: TaskContext, revision: tuple[int, int]) -> None:
        if revision[0] != self.revision[0]:
            self._items = context.items.items()
            self._catalogue = {item.id for item in self._items}
            self._has_all_texts = False
        is_anew = not self._waiting.isdisjoint(self._catalogue)
        if revision[1] != self.revision[1]:
            newer = context.items.interactions(after=self._n_stored)
            is_anew |= not self._n_stored or not newer or not all(self.append(each) for each in newer)
            self._n_stored += len(newer)
        if is_anew:
            self.begin_anew([choice_of(interaction) for interaction in context.items.interactions()])
        else:
            self._place_items()
        self.revision = revision

    def begin_anew(self, stored: list[Choice]) -> None:
        """Takes in all interactions and all feedback, by time."""
        before = self.stats
        self._n_stored = len(stored)
        given, self._n_steps, self._generation = self.memory.choices()
        in_store = {each.item for each in stored}
        self._waiting = {each.item for each in given if each.item not in self._catalogue and each.item not in in_store}
        known = [each for each in given if each.item not in self._waiting]
        self.stats = InteractionStats.of(sorted([*stored, *known], key=lambda each: each.at) if known else stored)
        self._model = self.texts = self._against = self._neighbours = None
        self._has_weights = None  # the places of the items are others now
        self._has_all_texts = False
        self._place_items()
        pushed = self.memory.pushed()
        for item_id, voters in pushed.items():
            if before.find(item_id) is not None and item_id not in self._pushed:
                log.warning(
                    "%d sources do little but push the item %r and are set aside: it stood at place %d of the popular "
                    "ones, and stands at %d without them",
                    len(voters), item_id, _place_of(before, item_id), _place_of(self.stats, item_id),
                )  # fmt: skip
        self._pushed = set(pushed)

    def _is_known(self, item_id: str) -> bool:
        """Feedback on items that nobody knows must not fill the matrices."""
        return item_id in self._catalogue or self.stats.find(item_id) is not None

    def _look_at(self, item_id: str) -> None:
        """Logs how far an item moved by feedback, at each doubling of those who gave it."""
        n_voters = self.memory.n_voters(item_id)
        doublings, rest = divmod(n_voters, _FIRST_LOOK)
        if rest or not doublings or doublings & (doublings - 1):
            return
        without = float(self.stats.popularity[self.stats.index_of(item_id)]) - self.memory.told_of(item_id)
        now, then = _place_of(self.stats, item_id), 1 + int((self.stats.popularity > without + 1e-6).sum())
        if then - now >= _WORTH_LOGGING * self.n_items:
            log.warning(
                "the feedback of %d sources moved the item %r from place %d of the popular ones to %d",
                n_voters, item_id, then, now,
            )  # fmt: skip

    def _place_items(self) -> None:
        places = [self.stats.index_of(item.id) for item in self._items]
        self.titles = {place: item.title or item.id for place, item in zip(places, self._items, strict=True)}
        self.is_item = np.zeros(self.n_items, dtype=np.bool_)
        self.is_item[places] = True
        self._finder = None
        if self.texts is not None and len(self.texts.has) < self.n_items:
            known = np.arange(len(self.texts.has))
            arrays = (self.texts.whole, self.texts.about, self.texts.has)
            self.texts = Texts(*(_spread(array, known, self.n_items) for array in arrays))


def _is_much(n_now: int, n_then: int) -> bool:
    """Whether so much has come since that weights are made anew."""
    return n_now - n_then > max(_REFIT_LEAST, _REFIT_SHARE * n_then)


def _place_of(stats: InteractionStats, item_id: str) -> int:
    """Where an item stands among all by popularity, 1 for the most popular."""
    item = stats.find(item_id)
    return stats.n_items if item is None else 1 + int((stats.popularity > stats.popularity[item]).sum())


def _whole(item: Item) -> str:
    return f"{item.title}. {item.text}" if item.text else item.title


def _spread(rows: npt.NDArray[Any], places: Ints, n: int) -> npt.NDArray[Any]:
    spread = np.zeros((n, *rows.shape[1:]), dtype=rows.dtype)
    spread[places] = rows
    return spread
