"""The task `recommendation`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

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
from smallai_recommend.signals import Found, asker, effect_of

if TYPE_CHECKING:
    from smallai_recommend.evaluation import Judge
    from smallai_recommend.index import Index
    from smallai_recommend.interactions import Floats
    from smallai_recommend.memory import FeedbackMemory
    from smallai_recommend.query import Wish
    from smallai_recommend.ranking import Ranking
    from smallai_recommend.text_index import Lease, TextIndex
    from smallai_recommend.weights import LearnedWeights

log = logging.getLogger(__name__)

_MAX_K = 1_000
_NAMED_IN_TEXT = 3
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class RecommendOptions:
    """How items are recommended.

    Args:
        k: most items to give, best first, 1 to 1000.
        include_consumed: whether items the user has had may come again.
        max_dense_items: most items for which the exact item-item weights (EASE) are made, 2 to 50000; beyond, each
            item has its nearest neighbours only.
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
    """What is said: made under the lock, given out after it."""

    items: tuple[ItemPart, ...]
    notices: tuple[Notice, ...]
    model: str
    is_cold: bool
    lead: str = ""


class Recommendation(LearningTask):
    """Recommends items of the store to the user; a sentence, then the items, each with the reason.

    Feedback is kept by the host alone: the interactions of the store are those that were imported.
    """

    name: ClassVar[str] = "recommendation"
    title: ClassVar[str] = "recommends items"
    accepts = (frozenset({"text"}),)
    options_type: ClassVar[type[RecommendOptions]] = RecommendOptions
    primary_metric: ClassVar[str] = "NDCG@10"
    min_examples: ClassVar[int] = 4
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
        self._lock = threading.Lock()
        self._memory: FeedbackMemory | None = None
        self._judged_turns: Sequence[JudgedTurn] = ()
        self._index: Index | None = None
        self._text_index: TextIndex | None = None
        self._judge: Judge | None = None
        self._learned: tuple[str, LearnedWeights] | None = None

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
        memory = self._remembered()
        signals = memory.add(judged_turn)
        if self._lock.acquire(blocking=False):  # else the answer that is being made ends first, and the next takes it
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
        self._judge = None  # a cycle has ended, or its figures are stale
        if self._memory is not None:
            self._memory.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        # Not the embedding model: the weights do not depend on it, and the map of its vectors names it.
        return {"format": "item-weights 1"}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        from smallai_recommend.examples import examples_of

        return examples_of(judged_turns, self.context, self._find)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        from smallai_recommend.examples import watched_examples

        return {"users without feedback": watched_examples(judged_turns, self.context)}

    def train(self, training: Training) -> str:
        from smallai_recommend.training import train

        return train(training, self._judge_now(training.models))

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        return self._judge_now(models).scores(examples, self._learned_of(adapter))

    def close(self) -> None:
        self._index = self._text_index = self._judge = None

    def _remembered(self) -> FeedbackMemory:
        """The fast memory; made when it is first needed."""
        from smallai_recommend.memory import FeedbackMemory

        if self._memory is None:
            self._memory = FeedbackMemory(self._find)
            self._memory.replace(self._judged_turns)
        return self._memory

    def _find(self, name: str) -> Found | None:
        item = self.context.items.find_item(name)
        return None if item is None else Found(item.id, item.title)

    def _learned_of(self, adapter: Adapter | None) -> LearnedWeights | None:
        from smallai_recommend.weights import LearnedWeights

        if adapter is None:
            return None
        if self._learned is None or self._learned[0] != adapter.id:
            self._learned = (adapter.id, LearnedWeights.load(adapter.folder))
        return self._learned[1]

    def _judge_now(self, models: ModelRuntime) -> Judge:
        """Ranks by what was imported alone, without the fast memory."""
        from smallai_recommend.evaluation import Judge

        options: RecommendOptions = self.context.options
        if self._judge is None or self._judge.revision != self.context.items.revision():
            texts = self._texts_of(models)
            self._judge = Judge(self.context, *texts, max_dense_items=options.max_dense_items)
        return self._judge

    def _texts_of(self, models: ModelRuntime) -> tuple[TextIndex, Lease]:
        from smallai_recommend.text_index import TextIndex

        if self._text_index is None:
            self._text_index = TextIndex(self.context.data_dir)
        return self._text_index, self._lease(models)

    def _lease(self, models: ModelRuntime) -> Lease:
        spec = ModelSpec(self.context.model_names.embedding, task="feature-extraction")
        return lambda: models.lease(spec, EmbeddingModel)

    def _answer(self, request: Request, models: ModelRuntime, adapter: Adapter | None) -> _Answer | None:
        """The answer; None where the caller no longer wants it."""
        while not self._lock.acquire(timeout=_LOCK_POLL_S):
            if request.cancel.is_set():
                return None
        try:
            return self._recommend(request, models, adapter)
        finally:
            self._lock.release()

    def _recommend(self, request: Request, models: ModelRuntime, adapter: Adapter | None) -> _Answer | None:
        from smallai_recommend.index import Index
        from smallai_recommend.query import read_wish
        from smallai_recommend.ranking import rank

        options: RecommendOptions = request.options
        if self._index is None:
            self._index = Index(self._remembered())
        index, (text_index, lease) = self._index, self._texts_of(models)
        index.refresh(self.context, max_dense_items=options.max_dense_items, learned=self._learned_of(adapter))
        if not index.titles:
            notice = Notice("no_items", "The catalogue is empty: `smallai items import FILE` fills it.")
            return _Answer((), (notice,), "none", is_cold=True)

        user = asker(request.user_id, request.session_id)
        wish = read_wish(request.message.text, index.finder)
        notices: list[Notice] = []
        words: dict[str, Floats] = {}
        if wish.wants_something or index.needs_texts(user):
            words, failed = _read_words(wish, text_index, lease)  # first: it tells which model must have read the texts
            notices += [*failed, *index.read_texts(text_index, lease, request.cancel)]
        if request.cancel.is_set():
            return None
        embed = words.__getitem__ if words else None
        ranking = rank(index, user, wish, include_consumed=options.include_consumed, embed=embed)
        items = self._items(index, ranking, options.k)
        notices = [*dict.fromkeys(notices), *_notices(index, ranking, request.user_id, n_found=len(items))]
        model = _model_name(index, ranking, text_index)
        return _Answer(items, tuple(notices), model, ranking.taste.is_cold, _lead(index, ranking))

    def _items(self, index: Index, ranking: Ranking, k: int) -> tuple[ItemPart, ...]:
        """The best k that are still in the store."""
        from smallai_recommend.explain import reasons

        ids = index.stats.item_ids
        order: Sequence[int] = ranking.order.tolist()
        if self.context.items.revision()[0] != index.revision[0]:
            there = {item.id for item in self.context.items.items()}
            order = [item for item in order if ids[item] in there]
        return tuple(
            ItemPart(ids[item], index.titles[item], float(ranking.scores[item]), reasons(index, ranking, item))
            for item in order[:k]
        )


def _read_words(wish: Wish, text_index: TextIndex, lease: Lease) -> tuple[dict[str, Floats], list[Notice]]:
    try:
        return {words: text_index.embed(words, lease) for words in (wish.text, wish.avoid) if words}, []
    except AssistantError as error:
        return {}, [Notice("text_unavailable", f"Titles and texts could not be compared: {error}.")]


def _notices(index: Index, ranking: Ranking, user: str | None, *, n_found: int) -> Iterator[Notice]:
    if ranking.taste.is_cold:
        who = "Nobody said who is asking" if user is None else "Nothing is known yet about what this user likes"
        yield Notice("cold_start", f"{who}: these go by what is popular and by what the message says.")
    elif not index.model.is_ease:
        yield Notice("many_items", "With so many items each was compared with its nearest neighbours only.")
    if not ranking.was_understood:
        yield Notice("wish_not_understood", f"Nothing in the catalogue is near to “{ranking.wish.text}”.")
    if not n_found:
        yield Notice("nothing_left", "This user has had every item; include_consumed=true gives them again.")


def _model_name(index: Index, ranking: Ranking, text_index: TextIndex) -> str:
    if ranking.taste.is_cold:
        names = ["popularity"]
    else:
        names = ["ease" if index.model.is_ease else "item neighbours", "transitions"]
    return " + ".join([*names, text_index.model_name] if index.texts is not None else names)


def _lead(index: Index, ranking: Ranking) -> str:
    """How the sentence begins where the request's words were followed, else empty."""
    if ranking.fit is not None and ranking.wish.text:
        return f"For “{ranking.wish.text}”"
    if ranking.alike is not None:
        titles = [index.titles[item] for item in ranking.wish.like]
        return f"If you like {_listed(titles)}," if titles else ""
    return ""


def _listed(titles: Sequence[str]) -> str:
    return f"{', '.join(titles[:-1])} and {titles[-1]}" if len(titles) > 1 else "".join(titles)


def _sentence(answer: _Answer) -> str:
    """What is said before the items."""
    titles = [item.title for item in answer.items]
    if not titles:
        return "I have nothing to recommend."
    named, n_more = titles[:_NAMED_IN_TEXT], len(titles) - _NAMED_IN_TEXT
    listed = f"{', '.join(named)} and {n_more} more" if n_more > 0 else _listed(named)
    if answer.lead:
        return f"{answer.lead} try {listed}."
    return f"{'Popular now' if answer.is_cold else 'You might like'}: {listed}."
