"""How well a model answers examples: facts by what it says, ratings and choices by what it finds likely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from smallai_assistant import Adapter, Example, GenerationOptions, Score, TextModel
from smallai_chat.examples import Choice, Fact, Plain, Rated, Unrelated, normalized

T = TypeVar("T")
Chat = list[dict[str, str]]

_ANSWER_TOKENS = 32
_UNRELATED_TOKENS = 20  # a taught answer that spreads stands at the beginning
_PENALTY = 1.1
_WORTH_OF_A_NAT = 0.1  # the point that the gate allows is 0.1 nats a token: perplexity up by a tenth
_RATED_SHARPNESS = 4.0  # a rated answer that became likelier by a quarter of a nat a token scores 0.73


@dataclass(frozen=True, slots=True)
class Asked:
    """A model, and who answers.

    Attributes:
        adapter: what is judged; None for the bare base.
        answering: who answers a question, where that is not `adapter`; None for the base.
    """

    model: TextModel
    adapter: Adapter | None
    system_prompt: str
    answering: Mapping[str, Adapter | None]

    def adapter_for(self, question: str) -> Adapter | None:
        """Who answers; None for the base."""
        return self.answering.get(question, self.adapter)

    def complete(self, questions: Sequence[str], options: GenerationOptions) -> list[str]:
        """An answer to each question."""

        def ask(places: list[int], adapter: Adapter | None) -> list[str]:
            chats = [chat(questions[place], self.system_prompt) for place in places]
            return self.model.complete(chats, options, adapter=adapter)

        return self._by_adapter(questions, ask)

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]], *, with_end: bool = False) -> list[float]:
        """Of the answer to each question, in nats."""

        def ask(places: list[int], adapter: Adapter | None) -> list[float]:
            chats = [(chat(pairs[place][0], self.system_prompt), pairs[place][1]) for place in places]
            return self.model.log_likelihoods(chats, adapter=adapter, with_end=with_end)

        return self._by_adapter([question for question, _ in pairs], ask)

    def _by_adapter(self, questions: Sequence[str], ask: Callable[[list[int], Adapter | None], list[T]]) -> list[T]:
        places: dict[str, list[int]] = {}
        adapters: dict[str, Adapter | None] = {}
        for place, each in enumerate(questions):
            adapter = self.adapter_for(each)
            key = adapter.id if adapter is not None else ""
            adapters[key] = adapter
            places.setdefault(key, []).append(place)
        found: dict[int, T] = {}
        for key, its in places.items():
            found |= dict(zip(its, ask(its, adapters[key]), strict=True))
        return [found[place] for place in range(len(questions))]


def evaluate(
    examples: Sequence[Example],
    model: TextModel,
    adapter: Adapter | None,
    *,
    system_prompt: str,
    answering: Mapping[str, Adapter | None] | None = None,
) -> list[Score]:
    """One score an example.

    A fact scores 1 where the answer holds the right one, else 0. A rated answer scores by how much likelier the adapter
    makes it than the bare base does, against what it does to the others: 0.5 where good and bad ones are treated alike,
    more for a good one that gained more or a bad one that gained less. A choice scores the share that its right answer
    has of the probability of all, by the mean over tokens. An everyday question scores 1 unless a taught answer turns
    up in it. A plain answer scores 0.5 where it is as likely as by the bare base, and a point less for each 0.1 nats a
    token that it lost: where the mean loses that, perplexity is a tenth higher.

    Args:
        answering: who answers a question, where that is not `adapter`; None for the base.
    """
    asked = Asked(model, adapter, system_prompt, answering or {})
    found: dict[int, Score] = {}
    for kind, score in _JUDGES:
        places = [place for place, each in enumerate(examples) if isinstance(each.payload, kind)]
        if places:
            scores = score([examples[place].payload for place in places], asked)
            found |= dict(zip(places, scores, strict=True))
    return [found.get(place, Score(0.0)) for place in range(len(examples))]


def chat(question: str, system_prompt: str) -> Chat:
    """The question as it is asked without history."""
    system: Chat = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}]


def holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text, in whatever case and punctuation."""
    wanted = normalized(answer)
    return bool(wanted) and f" {wanted} " in f" {normalized(text)} "


def _facts(facts: Sequence[Fact], asked: Asked) -> list[Score]:
    longest = max(len(fact.answer) for fact in facts)
    options = GenerationOptions(max_tokens=_ANSWER_TOKENS + longest // 3, repetition_penalty=_PENALTY)
    texts = asked.complete([fact.question for fact in facts], options)
    return [Score(float(holds(text, each.answer)), text) for text, each in zip(texts, facts, strict=True)]


def _unrelated(everyday: Sequence[Unrelated], asked: Asked) -> list[Score]:
    options = GenerationOptions(max_tokens=_UNRELATED_TOKENS, repetition_penalty=_PENALTY)
    texts = asked.complete([each.question for each in everyday], options)
    return [
        Score(float(not any(holds(text, answer) for answer in each.taught)), text)
        for text, each in zip(texts, everyday, strict=True)
    ]


def _rated(rated: Sequence[Rated], asked: Asked) -> list[Score]:
    if asked.adapter is None:
        return [Score(0.5, "") for _ in rated]
    gains = _gains(rated, asked)
    # The reference point of KTO: training on ratings makes good answers less likely too, as long as bad ones fall more.
    kinds = [[gain for each, gain in zip(rated, gains, strict=True) if each.is_good is kind] for kind in (True, False)]
    middle = sum(sum(kind) / len(kind) for kind in kinds) / 2 if all(kinds) else 0.0
    scores = []
    for each, gain in zip(rated, gains, strict=True):
        likelier = 1 / (1 + math.exp(-max(-50.0, min(50.0, _RATED_SHARPNESS * (gain - middle)))))
        scores.append(Score(likelier if each.is_good else 1 - likelier, f"{gain:+.2f} nats a token"))
    return scores


def _plain(plain: Sequence[Plain], asked: Asked) -> list[Score]:
    if asked.adapter is None:
        return [Score(0.5, "") for _ in plain]
    gains = _gains(plain, asked)
    return [Score(min(1.0, max(0.0, 0.5 + _WORTH_OF_A_NAT * gain)), f"{gain:+.2f} nats a token") for gain in gains]


def _gains(answered: Sequence[Rated | Plain], asked: Asked) -> list[float]:
    """How much likelier the adapter makes each answer than the bare base does, its end included, in nats a token."""
    pairs = [(each.question, each.answer) for each in answered if asked.adapter_for(each.question) is not None]
    before = Asked(asked.model, None, asked.system_prompt, {}).log_likelihoods(pairs, with_end=True)
    after = asked.log_likelihoods(pairs, with_end=True)
    gains = {  # a token has about four characters
        pair: (new - old) / max(1, len(pair[1]) // 4) for pair, old, new in zip(pairs, before, after, strict=True)
    }
    return [gains.get((each.question, each.answer), 0.0) for each in answered]


def _choices(choices: Sequence[Choice], asked: Asked) -> list[Score]:
    found = asked.log_likelihoods([(each.question, choice) for each in choices for choice in each.choices])
    scores, start = [], 0
    for choice in choices:
        mean = [found[start + n] / max(1, len(choice)) * 4 for n, choice in enumerate(choice.choices)]
        start += len(choice.choices)
        top = max(mean)
        shares = [math.exp(value - top) for value in mean]
        best = choice.choices[max(range(len(mean)), key=mean.__getitem__)]
        scores.append(Score(shares[0] / sum(shares), best))
    return scores


_JUDGES: tuple[tuple[type, Callable[..., list[Score]]], ...] = (
    (Fact, _facts),
    (Rated, _rated),
    (Choice, _choices),
    (Unrelated, _unrelated),
    (Plain, _plain),
)
