"""Scores a model on examples: facts by the generated text, ratings and choices by the likelihood of given answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from smallai_assistant import Adapter, Example, GenerationOptions, Score, TextModel
from smallai_chat.examples import Choice, Fact, LeakCheck, PlainAnswer, Rated, own_questions
from smallai_chat.scope import Route
from smallai_chat.words import normalized

T = TypeVar("T")
Chat = list[dict[str, str]]

# A model may write a sentence around the answer. The answer's own length is added to this.
_ANSWER_TOKENS = 32
# A taught answer that leaks into another question stands at the beginning, so the generation can be short.
_LEAK_TOKENS = 20
# The default of `ChatOptions`, so that an evaluation decodes as service does.
_REPETITION_PENALTY = 1.1
# Converts nats a token into score. The gate allows a loss of 0.01, which is 0.1 nats: perplexity rises by a tenth.
_SCORE_PER_NAT = 0.1
# Steepness of a rated answer's score: an answer that gained a quarter of a nat a token scores 0.73.
_RATED_STEEPNESS = 4.0
# English text has about four characters a token. Lengths in characters need no tokenizer.
_CHARS_PER_TOKEN = 4
# exp() overflows beyond 709; a sigmoid has long saturated at 50.
_MAX_EXPONENT = 50.0


class BaseAnswers:
    """What the bare base gives at the questions of the protected slices, so that it is computed once.

    A cycle asks these questions before and after the training, and outside its scope a candidate leaves them to the
    base. Only questions of our own are kept, never one that a person asked: an erasure has nothing to look for here.
    """

    def __init__(self) -> None:
        self._base: Hashable = None
        self._found: dict[Hashable, Any] = {}

    def of(self, base: Hashable) -> dict[Hashable, Any]:
        """Returns what is known of a base, to read and to add to. What was known of another base is dropped."""
        if base != self._base:
            self._base, self._found = base, {}
        return self._found


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """A model under evaluation and the weights that answer each question.

    Attributes:
        adapter: the adapter under evaluation; None for the bare base.
        routes: how questions are answered; any other is put to `adapter` as it is.
        known: what the base is known to give at questions of our own; it grows.
    """

    model: TextModel
    adapter: Adapter | None
    system_prompt: str
    routes: Mapping[str, Route]
    known: dict[Hashable, Any] = field(default_factory=dict)

    def adapter_for(self, question: str) -> Adapter | None:
        """Returns the weights that answer the question; None for the base."""
        return self._route(question).adapter

    def _route(self, question: str) -> Route:
        return self.routes.get(question) or Route(self.adapter, question)

    def _chat(self, question: str) -> Chat:
        return chat(self._route(question).question, self.system_prompt)

    def component_of(self, question: str) -> str:
        """Returns the component whose weights answer the question; empty for the base."""
        adapter = self.adapter_for(question)
        return adapter.part_name if adapter is not None else ""

    def complete(self, questions: Sequence[str], options: GenerationOptions) -> list[str]:
        """Returns a generated answer to each question."""

        def run(indices: list[int], adapter: Adapter | None) -> list[str]:
            chats = [self._chat(questions[index]) for index in indices]
            return self.model.complete(chats, options, adapter=adapter)

        return self._by_adapter(questions, run, [(question, options) for question in questions])

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]], *, with_end: bool = False) -> list[float]:
        """Returns the log likelihood, in nats, of the answer in each pair of question and answer.

        Args:
            with_end: whether the end-of-turn token counts as part of the answer.
        """

        def run(indices: list[int], adapter: Adapter | None) -> list[float]:
            chats = [(self._chat(pairs[index][0]), pairs[index][1]) for index in indices]
            return self.model.log_likelihoods(chats, adapter=adapter, with_end=with_end)

        keys = [(*pair, with_end) for pair in pairs]
        return self._by_adapter([question for question, _ in pairs], run, keys)

    def _by_adapter(
        self, questions: Sequence[str], run: Callable[[list[int], Adapter | None], list[T]], keys: Sequence[Hashable]
    ) -> list[T]:
        """Calls `run` once for each set of weights, so that batches stay large; results are in the questions' order.

        Args:
            keys: what is computed at each question, for `known`.
        """
        # The key includes the part: two parts of one adapter are different weights under the same id.
        indices_of: dict[tuple[str, str] | None, list[int]] = {}
        adapters: dict[tuple[str, str] | None, Adapter | None] = {}
        results: dict[int, T] = {}
        for index, question in enumerate(questions):
            adapter = self.adapter_for(question)
            if adapter is None and keys[index] in self.known:
                results[index] = self.known[keys[index]]
                continue
            key = (adapter.id, adapter.part_name) if adapter is not None else None
            adapters[key] = adapter
            indices_of.setdefault(key, []).append(index)
        for key, indices in indices_of.items():
            results |= dict(zip(indices, run(indices, adapters[key]), strict=True))
        own = own_questions()
        for index in indices_of.get(None, ()):
            if questions[index] in own:
                self.known[keys[index]] = results[index]
        return [results[index] for index in range(len(questions))]


def evaluate(
    examples: Sequence[Example],
    model: TextModel,
    adapter: Adapter | None,
    *,
    system_prompt: str,
    routes: Mapping[str, Route] | None = None,
    known: dict[Hashable, Any] | None = None,
) -> list[Score]:
    """Scores a model on examples; the payload's type decides how.

    - `Fact`: 1 if the generated text contains the right answer, else 0.
    - `Rated`: how much likelier the adapter makes the answer than the base does, relative to the other rated answers.
      0.5 if praised and rejected answers moved alike; more if a praised one gained more or a rejected one gained less.
    - `Choice`: the right answer's share of the probability of all choices, by the mean log probability of their tokens.
    - `LeakCheck`: 1 unless the generated text contains a taught answer.
    - `PlainAnswer`: 0.5 if the answer is as likely as under the base, less 0.01 for every 0.1 nats a token it lost. A
      loss of 0.1 nats in the mean raises perplexity by a tenth.

    Args:
        adapter: the adapter under evaluation; None for the bare base.
        routes: how questions are answered; any other is put to `adapter` as it is.
        known: what the base is known to give at questions of our own, from `BaseAnswers`; it grows.

    Returns:
        One score in [0, 1] for each example, in order.
    """
    routed = RoutedModel(model, adapter, system_prompt, routes or {}, {} if known is None else known)
    scores: dict[int, Score] = {}
    for payload_type, score in _SCORERS:
        indices = [index for index, example in enumerate(examples) if isinstance(example.payload, payload_type)]
        if indices:
            scores |= dict(zip(indices, score([examples[index].payload for index in indices], routed), strict=True))
    return [
        replace(scores.get(index, Score(0.0)), component=routed.component_of(example.payload.question))
        for index, example in enumerate(examples)
    ]


def chat(question: str, system_prompt: str) -> Chat:
    """Returns the messages of a question without history."""
    system: Chat = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}]


def contains_answer(text: str, answer: str) -> bool:
    """Whether the text contains the words of the answer in order, ignoring case and punctuation."""
    wanted = normalized(answer)
    # Spaces on both sides match whole words: "417" is not in "4170".
    return bool(wanted) and f" {wanted} " in f" {normalized(text)} "


def _score_facts(facts: Sequence[Fact], routed: RoutedModel) -> list[Score]:
    longest = max(len(fact.answer) for fact in facts)
    # A third of the characters leaves slack: prose has four characters a token, names and numbers fewer.
    options = GenerationOptions(max_tokens=_ANSWER_TOKENS + longest // 3, repetition_penalty=_REPETITION_PENALTY)
    texts = routed.complete([fact.question for fact in facts], options)
    return [Score(float(contains_answer(text, fact.answer)), text) for text, fact in zip(texts, facts, strict=True)]


def _score_leak_checks(checks: Sequence[LeakCheck], routed: RoutedModel) -> list[Score]:
    options = GenerationOptions(max_tokens=_LEAK_TOKENS, repetition_penalty=_REPETITION_PENALTY)
    texts = routed.complete([check.question for check in checks], options)
    return [
        Score(float(not any(contains_answer(text, answer) for answer in check.taught)), text)
        for text, check in zip(texts, checks, strict=True)
    ]


def _score_rated(rated: Sequence[Rated], routed: RoutedModel) -> list[Score]:
    if routed.adapter is None:
        return [Score(0.5, "") for _ in rated]
    gains = _gains(rated, routed)
    # KTO's reference point. Training on ratings may make praised answers less likely too, as long as rejected ones lose
    # more; so a gain is measured from the middle between the mean gains of the two kinds.
    gains_by_kind = [
        [gain for answer, gain in zip(rated, gains, strict=True) if answer.is_good is is_good]
        for is_good in (True, False)
    ]
    reference = sum(sum(kind) / len(kind) for kind in gains_by_kind) / 2 if all(gains_by_kind) else 0.0
    scores = []
    for answer, gain in zip(rated, gains, strict=True):
        exponent = max(-_MAX_EXPONENT, min(_MAX_EXPONENT, _RATED_STEEPNESS * (gain - reference)))
        likelier = 1 / (1 + math.exp(-exponent))
        scores.append(Score(likelier if answer.is_good else 1 - likelier, f"{gain:+.2f} nats a token"))
    return scores


def _score_plain_answers(plain: Sequence[PlainAnswer], routed: RoutedModel) -> list[Score]:
    if routed.adapter is None:
        return [Score(0.5, "") for _ in plain]
    gains = _gains(plain, routed)
    return [Score(min(1.0, max(0.0, 0.5 + _SCORE_PER_NAT * gain)), f"{gain:+.2f} nats a token") for gain in gains]


def _gains(answered: Sequence[Rated | PlainAnswer], routed: RoutedModel) -> list[float]:
    """Returns each answer's gain in log likelihood over the base, in nats a token.

    The end is included, except that of an answer that was cut.
    """
    base = RoutedModel(routed.model, None, routed.system_prompt, {}, routed.known)
    gains: dict[tuple[bool, str, str], float] = {}
    for with_end in (True, False):
        # The base's answer to a question outside the scope cannot have changed: gain 0, without running the model.
        pairs = [
            (item.question, item.answer)
            for item in answered
            if _has_end(item) is with_end and routed.adapter_for(item.question) is not None
        ]
        if not pairs:
            continue
        before = base.log_likelihoods(pairs, with_end=with_end)
        after = routed.log_likelihoods(pairs, with_end=with_end)
        for pair, old, new in zip(pairs, before, after, strict=True):
            gains[(with_end, *pair)] = (new - old) / max(1, len(pair[1]) // _CHARS_PER_TOKEN)
    return [gains.get((_has_end(item), item.question, item.answer), 0.0) for item in answered]


def _has_end(item: Rated | PlainAnswer) -> bool:
    return not (isinstance(item, Rated) and item.is_cut)


def _score_choices(questions: Sequence[Choice], routed: RoutedModel) -> list[Score]:
    likelihoods = routed.log_likelihoods([(item.question, choice) for item in questions for choice in item.choices])
    scores, start = [], 0
    for item in questions:
        # Means over the length, so that a short choice has no advantage.
        means = [
            likelihoods[start + number] / max(1, len(choice)) * _CHARS_PER_TOKEN
            for number, choice in enumerate(item.choices)
        ]
        start += len(item.choices)
        top = max(means)
        weights = [math.exp(mean - top) for mean in means]
        best = item.choices[max(range(len(means)), key=means.__getitem__)]
        scores.append(Score(weights[0] / sum(weights), best))  # the first choice is the right one
    return scores


_SCORERS: tuple[tuple[type, Callable[..., list[Score]]], ...] = (
    (Fact, _score_facts),
    (Rated, _score_rated),
    (Choice, _score_choices),
    (LeakCheck, _score_leak_checks),
    (PlainAnswer, _score_plain_answers),
)
