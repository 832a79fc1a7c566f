"""The task `recommendation`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from smallai_assistant import (
    Adapter,
    AssistantError,
    Details,
    EmbeddingModel,
    Example,
    InvalidInput,
    ItemPart,
    JudgedTurn,
    LearningTask,
    ModelRuntime,
    ModelSpec,
    Notice,
    Request,
    Score,
    TaskContext,
    TextPart,
    Training,
)
from smallai_recommend.signals import CatalogueItem, effect_of, profile_id

if TYPE_CHECKING:
    from smallai_recommend.evaluation import Evaluator
    from smallai_recommend.index import Index
    from smallai_recommend.interactions import Floats
    from smallai_recommend.memory import FeedbackMemory
    from smallai_recommend.query import Query
    from smallai_recommend.ranking import Ranking
    from smallai_recommend.snapshot import Snapshot
    from smallai_recommend.text_index import Lease, TextIndex
    from smallai_recommend.weights import LearnedWeights

log = logging.getLogger(__name__)

_MAX_K = 1_000
_NAMED_IN_TEXT = 3  # items named in the sentence; the list follows it
_MAX_NAMED_WORDS = 5  # words named in a notice
_LOCK_POLL_S = 0.1  # a request that waits for another one notices after this time that it was cancelled


@dataclass(frozen=True, slots=True)
class RecommendOptions:
    """How items are recommended.

    Args:
        k: the maximum number of items, best first, 1 to 1000.
        include_consumed: whether items that the user has had may come again.
        max_dense_items: the largest number of items for exact item-item weights (EASE), 2 to 50000; with more, each
            item has weights to its nearest neighbours only.
    """

    k: int = 10
    include_consumed: bool = False
    max_dense_items: int = 10_000

    def __post_init__(self) -> None:
        if not 1 <= self.k <= _MAX_K:
            raise InvalidInput(f"k is {self.k}", hint=f"give 1 to {_MAX_K}")
        if not 2 <= self.max_dense_items <= 50_000:
            raise InvalidInput(f"max_dense_items is {self.max_dense_items}", hint="give 2 to 50000")


@dataclass(frozen=True, slots=True)
class _Answer:
    """A complete answer. It is made under the lock and given out afterwards: a slow reader must not hold the lock.

    Attributes:
        items: best first.
        notices: what the user should know.
        model: what ranked the items, for the details of the turn.
        is_cold: whether nothing is known about the user.
        lead: the start of the sentence if the query was followed, else empty.
    """

    items: tuple[ItemPart, ...]
    notices: tuple[Notice, ...]
    model: str
    is_cold: bool
    lead: str = ""


class Recommendation(LearningTask):
    """Recommends items of the store to the user: a sentence, then the items, each with the reason.

    The host keeps the feedback. It is never written to the interactions of the store, which hold what was imported.
    """

    name: ClassVar[str] = "recommendation"
    title: ClassVar[str] = "recommends items"
    accepts = (frozenset({"text"}),)
    options_type: ClassVar[type[RecommendOptions]] = RecommendOptions
    primary_metric: ClassVar[str] = "NDCG@10"
    min_examples: ClassVar[int] = 4
    honours_audiences: ClassVar[bool] = True
    # The weights would know what users chose after the choice in question, and rank that first.
    split_by: ClassVar[Literal["key", "time"]] = "time"
    utterances: ClassVar[tuple[str, ...]] = (
        "what should I watch",
        "what shall I read next",
        "what can I listen to now",
        "recommend me a film like Alien",
        "recommend a good novel",
        "recommend something for me",
        "could you recommend a restaurant or a bar",
        "suggest something funny to watch",
        "suggest a few books I may like",
        "suggest an album for this evening",
        "give me some recommendations",
        "give me a movie suggestion",
        "give me a list of things I might enjoy",
        "find me a film to watch with the kids",
        "find me a new podcast",
        "find music that is similar to Miles Davis",
        "something like The Lord of the Rings",
        "more films like this one",
        "show me books similar to The Hobbit",
        "I'm in the mood for a thriller",
        "I feel like watching a comedy",
        "I want to see a good horror film",
        "I'd like to read a science fiction story",
        "I need a good series for the weekend",
        "I'm looking for a game to play with friends",
        "any good movies you can recommend?",
        "any suggestions what to watch?",
        "do you know a good documentary",
        "got something exciting to read?",
        "which movie would I enjoy most",
        "which book fits my taste",
        "which product should I buy",
        "what else would I like, going by what I liked before",
        "I liked Inception, what should I watch now",
        "after Star Trek, which series comes closest",
        "pick a movie for me",
        "choose a song I would love",
        "what is popular to watch at the moment",
        "a western for tonight",
        "a light read for my holiday",
    )

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self._lock = threading.Lock()  # of the index; the fast memory has its own
        # All of these are made on first use: importing numpy and scipy would slow down every start of the program.
        self._memory: FeedbackMemory | None = None
        self._judged_turns: Sequence[JudgedTurn] = ()  # for a memory that is not made yet
        self._index: Index | None = None
        self._text_index: TextIndex | None = None
        self._evaluator: Evaluator | None = None
        self._learned: tuple[str, LearnedWeights] | None = None  # by the adapter's id; loading takes a second

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | ItemPart | Notice | Details]:
        adapter, notices = self.serving()
        answer = self._answer(request, models, adapter)
        if answer is None:
            return
        used = adapter.id if adapter is not None else None
        yield Details({"model": answer.model, "cold_start": answer.is_cold, "adapter": used})
        yield from (*notices, *answer.notices)
        yield TextPart(_sentence(answer))
        yield from answer.items

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        memory = self._fast_memory()
        signals = memory.add(judged_turn)
        # If an answer is being made, feedback does not wait for it: the next answer brings the index up to date.
        if self._lock.acquire(blocking=False):
            try:
                if self._index is not None:
                    self._index.take_feedback()
            finally:
                self._lock.release()
        effect = effect_of(judged_turn, signals, self._find)
        if signals and memory.is_set_aside(signals[0].voter):
            return "It counts for your own list alone: several sources do little but push one item."
        return effect

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self._judged_turns = tuple(judged_turns)
        self._evaluator = None  # a cycle has ended: its evaluator would only take up memory
        if self._memory is not None:
            self._memory.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        # Without the embedding model: the weights do not depend on it, and the map of its vectors names it.
        return {"format": "item-weights 1"}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        from smallai_recommend.examples import examples_of

        return examples_of(judged_turns, self.context, self._find)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        from smallai_recommend.examples import control_examples

        return {"users without feedback": control_examples(judged_turns, self.context)}

    def train(self, training: Training) -> str:
        from smallai_recommend.training import train

        return train(training, self._current_evaluator(training.models))

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        return self._current_evaluator(models).scores(examples, self._learned_of(adapter))

    def close(self) -> None:
        self._index = self._text_index = self._evaluator = None

    def _fast_memory(self) -> FeedbackMemory:
        from smallai_recommend.memory import FeedbackMemory

        if self._memory is None:
            self._memory = FeedbackMemory(self._find, min_people=self.context.min_people)
            self._memory.replace(self._judged_turns)
        return self._memory

    def _find(self, name: str) -> CatalogueItem | None:
        item = self.context.items.find_item(name)
        return None if item is None else CatalogueItem(item.id, item.title)

    def _learned_of(self, adapter: Adapter | None) -> LearnedWeights | None:
        from smallai_recommend.weights import LearnedWeights

        if adapter is None:
            return None
        if self._learned is None or self._learned[0] != adapter.id:
            self._learned = (adapter.id, LearnedWeights.load(adapter.folder))
        return self._learned[1]

    def _current_evaluator(self, models: ModelRuntime) -> Evaluator:
        """Evaluates on what was imported, without the fast memory."""
        from smallai_recommend.evaluation import Evaluator

        options: RecommendOptions = self.context.options
        if self._evaluator is None or self._evaluator.revision != self.context.items.revision():
            texts = self._texts_of(models)
            self._evaluator = Evaluator(self.context, *texts, max_dense_items=options.max_dense_items)
        return self._evaluator

    def _texts_of(self, models: ModelRuntime) -> tuple[TextIndex, Lease]:
        from smallai_recommend.text_index import TextIndex

        if self._text_index is None:
            self._text_index = TextIndex(self.context.data_dir)
        return self._text_index, self._lease(models)

    def _lease(self, models: ModelRuntime) -> Lease:
        spec = ModelSpec(self.context.model_names.embedding, task="feature-extraction")
        return lambda: models.lease(spec, EmbeddingModel)

    def _answer(self, request: Request, models: ModelRuntime, adapter: Adapter | None) -> _Answer | None:
        """The answer; None if the request was cancelled."""
        while not self._lock.acquire(timeout=_LOCK_POLL_S):
            if request.cancel.is_set():
                return None
        try:
            return self._recommend(request, models, adapter)
        finally:
            self._lock.release()

    def _recommend(self, request: Request, models: ModelRuntime, adapter: Adapter | None) -> _Answer | None:
        from smallai_recommend.index import Index
        from smallai_recommend.item_texts import TextReader
        from smallai_recommend.query import doubtful_words, parse_query
        from smallai_recommend.ranking import rank

        options: RecommendOptions = request.options
        if self._index is None:
            self._index = Index(self._fast_memory())
        index, (text_index, lease) = self._index, self._texts_of(models)
        index.refresh(self.context, max_dense_items=options.max_dense_items, learned=self._learned_of(adapter))
        if not index.catalogue.titles:
            notice = Notice("no_items", "The catalogue is empty: `smallai items import FILE` fills it.")
            return _Answer((), (notice,), "none", is_cold=True)

        user = profile_id(request.user_id, request.session_id)
        query = parse_query(request.message.text, index.catalogue.finder)
        query = replace(query, doubtful=doubtful_words(query, lambda: index.catalogue.vocabulary))
        notices: list[Notice] = []
        words: dict[str, Floats] = {}
        if not query.is_bare or index.needs_texts(user):
            # The query first: embedding it tells which model must have read the texts.
            words, failed = _embedded_words(query, text_index, lease)
            notices += [*failed, *index.update_texts(TextReader(text_index, lease, request.cancel))]
        if request.cancel.is_set():
            return None
        embed = words.__getitem__ if words else None
        snapshot = index.snapshot()
        ranking = rank(snapshot, user, query, include_consumed=options.include_consumed, embed=embed)
        items = self._items(snapshot, ranking, options.k, items_revision=index.revision[0])
        notices = [*dict.fromkeys(notices), *_notices(snapshot, ranking, request.user_id, n_found=len(items))]
        return _Answer(
            items=items,
            notices=tuple(notices),
            model=_model_name(snapshot, ranking, text_index),
            is_cold=ranking.user.is_cold,
            lead=_lead(snapshot, ranking),
        )

    def _items(self, snapshot: Snapshot, ranking: Ranking, k: int, *, items_revision: int) -> tuple[ItemPart, ...]:
        """The best k items that are still in the store."""
        from smallai_recommend.explain import reasons

        ids, titles = snapshot.stats.item_ids, snapshot.catalogue.titles
        order: Sequence[int] = ranking.order.tolist()
        # Reading texts may have taken seconds, in which somebody removed items.
        if self.context.items.revision()[0] != items_revision:
            there = {item.id for item in self.context.items.items()}
            order = [item for item in order if ids[item] in there]
        return tuple(
            ItemPart(ids[item], titles[item], float(ranking.scores[item]), reasons(snapshot, ranking, item))
            for item in order[:k]
        )


def _embedded_words(query: Query, text_index: TextIndex, lease: Lease) -> tuple[dict[str, Floats], list[Notice]]:
    """The vectors of the query's words, and a notice if there is no model for them."""
    try:
        return {words: text_index.embed(words, lease) for words in (query.text, query.avoid) if words}, []
    except AssistantError as error:
        return {}, [Notice("text_unavailable", f"Titles and texts could not be compared: {error}.")]


def _notices(snapshot: Snapshot, ranking: Ranking, user: str | None, *, n_found: int) -> Iterator[Notice]:
    if ranking.user.is_cold:
        who = "Nobody said who is asking" if user is None else "Nothing is known yet about what this user likes"
        yield Notice("cold_start", f"{who}: these are ranked by what is popular and by what the message says.")
    elif not snapshot.model.is_ease:
        yield Notice("many_items", "There are many items, so each was compared with its nearest neighbours only.")
    if not ranking.was_understood:
        yield Notice("wish_not_understood", f"Nothing in the catalogue is near to “{ranking.query.text}”.")
    elif ranking.query.doubtful:
        words = ", ".join(f"“{word}”" for word in ranking.query.doubtful[:_MAX_NAMED_WORDS])
        text = f"Not sure to have understood {words}: the request may mean something else. English is understood best."
        yield Notice("words_not_understood", text)
    if not n_found:
        yield Notice("nothing_left", "This user has had every item; include_consumed=true gives them again.")


def _model_name(snapshot: Snapshot, ranking: Ranking, text_index: TextIndex) -> str:
    if ranking.user.is_cold:
        names = ["popularity"]
    else:
        names = ["ease" if snapshot.model.is_ease else "item neighbours", "transitions"]
    return " + ".join([*names, text_index.model_name] if snapshot.texts is not None else names)


def _lead(snapshot: Snapshot, ranking: Ranking) -> str:
    """The start of the sentence if the query was followed, else empty."""
    if ranking.fit is not None and ranking.query.text and not ranking.query.doubtful:
        return f"For “{ranking.query.text}”"
    if ranking.alike is not None:
        titles = [snapshot.catalogue.titles[item] for item in ranking.query.like]
        return f"If you like {_listed(titles)}," if titles else ""
    return ""


def _listed(titles: Sequence[str]) -> str:
    return f"{', '.join(titles[:-1])} and {titles[-1]}" if len(titles) > 1 else "".join(titles)


def _sentence(answer: _Answer) -> str:
    """The sentence before the items."""
    titles = [item.title for item in answer.items]
    if not titles:
        return "I have nothing to recommend."
    named, n_more = titles[:_NAMED_IN_TEXT], len(titles) - _NAMED_IN_TEXT
    listed = f"{', '.join(named)} and {n_more} more" if n_more > 0 else _listed(named)
    if answer.lead:
        return f"{answer.lead} try {listed}."
    return f"{'Popular now' if answer.is_cold else 'You might like'}: {listed}."
