"""Scores of dialogue: rated answers, plain answers, and which weights are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.dialogue import adapter_in, judged_turn

from smallai_assistant import Adapter
from smallai_chat.evaluation import BaseAnswers, evaluate
from smallai_chat.examples import Fact, canaries, examples_of, held_out_example, leak_checks, plain_answers
from smallai_chat.scope import Route


class FixedLikelihoods:
    """A model under which every text has the log likelihood -10, plus its gain in nats with an adapter."""

    def __init__(self, gains: dict[str, float]) -> None:
        self.gains = gains

    def log_likelihoods(self, pairs: Any, *, adapter: Any = None, with_end: bool = False) -> list[float]:
        assert with_end, "the end of an answer must count: many ratings are about its length"
        return [-10.0 + (self.gains[text] if adapter is not None else 0.0) for _, text in pairs]


@pytest.mark.parametrize(
    ("gain_of_good", "gain_of_bad", "is_better"),
    [(1.0, -1.0, True), (-1.0, -3.0, True), (-1.0, -1.0, False), (-3.0, -1.0, False)],
)
def test_rated_answers_are_scored_relative_to_others(gain_of_good: float, gain_of_bad: float, is_better: bool) -> None:
    examples = examples_of([judged_turn("Hi?", "yes", is_good=True), judged_turn("Ho?", "nope", is_good=False)])
    model: Any = FixedLikelihoods({"yes": gain_of_good, "nope": gain_of_bad})
    good, bad = evaluate(examples, model, adapter_in(Path("a1")), system_prompt="")
    assert (good.value > 0.5, bad.value > 0.5) == (is_better, is_better)
    assert [score.value for score in evaluate(examples, model, None, system_prompt="")] == [0.5, 0.5]


@pytest.mark.parametrize(("gain", "change"), [(0.0, 0.0), (-0.1, -0.01), (-0.2, -0.02), (0.1, 0.01), (-90.0, -0.5)])
def test_tenth_more_perplexity_costs_one_point(gain: float, change: float) -> None:
    """`gain` is in nats a token of about four characters."""
    examples = plain_answers()
    model: Any = FixedLikelihoods({example.expected: gain * (len(example.expected) // 4) for example in examples})
    before = evaluate(examples, model, None, system_prompt="")
    after = evaluate(examples, model, adapter_in(Path("a1")), system_prompt="")
    assert [new.value - old.value for old, new in zip(before, after, strict=True)] == pytest.approx(
        [change] * len(examples)
    )


def by_the_base(*questions: str) -> dict[str, Route]:
    return {question: Route(None, question) for question in questions}


def test_routed_weights_are_evaluated() -> None:
    asked: list[tuple[str, str]] = []

    class Recorder:
        def complete(self, chats: Any, _: Any, *, adapter: Adapter | None) -> list[str]:
            name = adapter.id if adapter is not None else "base"
            asked.extend((chat[-1]["content"], name) for chat in chats)
            return [name] * len(chats)

    questions = ("as taught", "bo", "as asked", "cup")
    examples = [held_out_example(question, "a1", Fact(question, "a1")) for question in questions]
    model: Any = Recorder()
    adapter = adapter_in(Path("a1"))
    routes = {**by_the_base("bo", "cup"), "as asked": Route(adapter, "as taught")}
    scores = evaluate(examples, model, adapter, system_prompt="", routes=routes)
    assert [score.value for score in scores] == [1.0, 0.0, 1.0, 0.0]
    assert sorted(asked) == [("as taught", "a1"), ("as taught", "a1"), ("bo", "base"), ("cup", "base")]


def test_answers_of_the_base_gain_nothing() -> None:
    examples = plain_answers()
    # The model knows the gains of two answers only: asking it about another one would raise KeyError.
    model: Any = FixedLikelihoods({example.expected: -5.0 for example in examples[:2]})
    routes = by_the_base(*(example.prompt for example in examples[1:]))
    scores = evaluate(examples, model, adapter_in(Path("a1")), system_prompt="", routes=routes)
    values = [score.value for score in scores]
    assert values[0] < 0.5
    assert set(values[1:]) == {0.5}


def test_base_is_asked_once_and_no_question_of_a_person_is_kept() -> None:
    asked: list[str] = []

    class Recorder:
        def log_likelihoods(self, pairs: Any, *, adapter: Any = None, with_end: bool = False) -> list[float]:
            asked.extend(chat[-1]["content"] for chat, _ in pairs)
            return [float(-len(text)) for _, text in pairs]

        def complete(self, chats: Any, _: Any, *, adapter: Any) -> list[str]:
            asked.extend(chat[-1]["content"] for chat in chats)
            return ["an answer"] * len(chats)

    model: Any = Recorder()
    answers = BaseAnswers()
    examples = [*canaries()[:3], *leak_checks([judged_turn("Hi?", "yes", correction="ho")])]
    personal = held_out_example("a person's", "ho", Fact("Where is my key?", "ho"))

    def scores(base: str, adapter: Adapter | None = None) -> list[float]:
        routes = by_the_base(*(example.prompt for example in (*examples, personal)))
        found = evaluate([*examples, personal], model, adapter, system_prompt="", routes=routes, known=answers.of(base))
        return [score.value for score in found]

    first = scores("one")
    assert set(asked) == {example.prompt for example in (*examples, personal)}
    asked.clear()
    assert scores("one", adapter_in(Path("a1"))) == first
    assert asked == [personal.prompt]
    asked.clear()
    assert scores("two") == first
    assert set(asked) == {example.prompt for example in (*examples, personal)}
