"""How well a model answers examples: facts by what it says, ratings and choices by what it finds likely."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from smallai_assistant import Adapter, Example, GenerationOptions, Score, TextModel
from smallai_chat.examples import Choice, Fact, Plain, Rated, Unrelated, normalized

Chat = list[dict[str, str]]

_ANSWER_TOKENS = 32
_UNRELATED_TOKENS = 20  # a taught answer that spreads stands at the beginning
_PENALTY = 1.1
_WORTH_OF_A_NAT = 0.1  # the point that the gate allows is 0.1 nats a token: perplexity up by a tenth
_RATED_SHARPNESS = 4.0  # a rated answer that became likelier by a quarter of a nat a token scores 0.73


def evaluate(
    examples: Sequence[Example], model: TextModel, adapter: Adapter | None, *, system_prompt: str
) -> list[Score]:
    """One score an example.

    A fact scores 1 where the answer holds the right one, else 0. A rated answer scores by how much likelier the adapter
    makes it than the bare base does, against what it does to the others: 0.5 where good and bad ones are treated alike,
    more for a good one that gained more or a bad one that gained less. A choice scores the share that its right answer
    has of the probability of all, by the mean over tokens. An everyday question scores 1 unless a taught answer turns
    up in it. A plain answer scores 0.5 where it is as likely as by the bare base, and a point less for each 0.1 nats a
    token that it lost: where the mean loses that, perplexity is a tenth higher.
    """
    found: dict[int, Score] = {}
    for kind, score in _JUDGES:
        places = [place for place, each in enumerate(examples) if isinstance(each.payload, kind)]
        if places:
            scores = score([examples[place].payload for place in places], model, adapter, system_prompt)
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


def _facts(facts: Sequence[Fact], model: TextModel, adapter: Adapter | None, system_prompt: str) -> list[Score]:
    longest = max(len(each.answer) for each in facts)
    options = GenerationOptions(max_tokens=_ANSWER_TOKENS + longest // 3, repetition_penalty=_PENALTY)
    texts = model.complete([chat(each.question, system_prompt) for each in facts], options, adapter=adapter)
    return [Score(float(holds(text, each.answer)), text) for text, each in zip(texts, facts, strict=True)]


def _unrelated(
    everyday: Sequence[Unrelated], model: TextModel, adapter: Adapter | None, system_prompt: str
) -> list[Score]:
    options = GenerationOptions(max_tokens=_UNRELATED_TOKENS, repetition_penalty=_PENALTY)
    texts = model.complete([chat(each.question, system_prompt) for each in everyday], options, adapter=adapter)
    return [
        Score(float(not any(holds(text, answer) for answer in each.taught)), text)
        for text, each in zip(texts, everyday, strict=True)
    ]


def _rated(rated: Sequence[Rated], model: TextModel, adapter: Adapter | None, system_prompt: str) -> list[Score]:
    if adapter is None:
        return [Score(0.5, "") for _ in rated]
    gains = _gains(rated, model, adapter, system_prompt)
    # The reference point of KTO: training on ratings makes good answers less likely too, as long as bad ones fall more.
    kinds = [[gain for each, gain in zip(rated, gains, strict=True) if each.is_good is kind] for kind in (True, False)]
    middle = sum(sum(kind) / len(kind) for kind in kinds) / 2 if all(kinds) else 0.0
    scores = []
    for each, gain in zip(rated, gains, strict=True):
        likelier = 1 / (1 + math.exp(-max(-50.0, min(50.0, _RATED_SHARPNESS * (gain - middle)))))
        scores.append(Score(likelier if each.is_good else 1 - likelier, f"{gain:+.2f} nats a token"))
    return scores


def _plain(plain: Sequence[Plain], model: TextModel, adapter: Adapter | None, system_prompt: str) -> list[Score]:
    if adapter is None:
        return [Score(0.5, "") for _ in plain]
    gains = _gains(plain, model, adapter, system_prompt)
    return [Score(min(1.0, max(0.0, 0.5 + _WORTH_OF_A_NAT * gain)), f"{gain:+.2f} nats a token") for gain in gains]


def _gains(answered: Sequence[Rated | Plain], model: TextModel, adapter: Adapter, system_prompt: str) -> list[float]:
    """How much likelier the adapter makes each answer than the bare base does, its end included, in nats a token."""
    pairs = [(chat(each.question, system_prompt), each.answer) for each in answered]
    before = model.log_likelihoods(pairs, with_end=True)
    after = model.log_likelihoods(pairs, adapter=adapter, with_end=True)
    return [  # a token has about four characters
        (new - old) / max(1, len(each.answer) // 4) for each, old, new in zip(answered, before, after, strict=True)
    ]


def _choices(choices: Sequence[Choice], model: TextModel, adapter: Adapter | None, system_prompt: str) -> list[Score]:
    pairs = [(chat(each.question, system_prompt), choice) for each in choices for choice in each.choices]
    found = model.log_likelihoods(pairs, adapter=adapter)
    scores, start = [], 0
    for each in choices:
        mean = [found[start + n] / max(1, len(choice)) * 4 for n, choice in enumerate(each.choices)]
        start += len(each.choices)
        top = max(mean)
        shares = [math.exp(value - top) for value in mean]
        best = each.choices[max(range(len(mean)), key=mean.__getitem__)]
        scores.append(Score(shares[0] / sum(shares), best))
    return scores


_JUDGES: tuple[tuple[type, Callable[..., list[Score]]], ...] = (
    (Fact, _facts),
    (Rated, _rated),
    (Choice, _choices),
    (Unrelated, _unrelated),
    (Plain, _plain),
)
