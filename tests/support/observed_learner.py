"""A learning task whose every method can be made to fail, and a plugin that observes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smallai_assistant import (
    Details,
    Feedback,
    JudgedTurn,
    LearningTask,
    Request,
    TextPart,
    Turn,
    hookimpl,
)
from smallai_assistant.errors import NotEnoughData
from support.scripted import ScriptedPlugin

WATCHDOG_S = 30.0  # how long a test waits for an event before it fails


class Learner(LearningTask):
    """Answers with the last correction of the same text. Every method can be made to fail."""

    name = "scripted"
    accepts = (frozenset({"text"}), frozenset({"image"}))
    primary_metric = "accuracy"

    def __init__(self) -> None:
        self.memory: dict[str, str] = {}
        self.told: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def _step(self, name: str) -> None:
        self.told.append(name)
        if name in self.fails:
            raise self.fails[name]

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        adapter = self.context.adapters.champion(self.name)
        yield TextPart(self.memory.get(request.message.text, "?"))
        yield Details({"adapter": adapter.id if adapter else None})

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        self._step("learn_now")
        if judged_turn.feedback.correction is None:
            return ""
        self.memory[judged_turn.turn.request.text] = judged_turn.feedback.correction
        return f"the next turn answers {judged_turn.feedback.correction!r}"

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self._step("rebuild")
        self.memory = {}
        for judged_turn in judged_turns:
            if judged_turn.feedback.correction is not None:
                self.memory[judged_turn.turn.request.text] = judged_turn.feedback.correction

    def forget(self, feedback: Feedback, turn: Turn) -> None:
        self._step("forget")

    def base(self) -> dict[str, Any]:
        return {}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Any]:
        return []

    def train(self, training: Any) -> str:
        raise NotEnoughData("none")

    def evaluate(self, examples: Any, adapter: Any, models: Any) -> list[Any]:
        return []


class Observer(ScriptedPlugin):
    """Records the feedback it is told of, and does with it what the test says."""

    def __init__(self, *tasks: Any) -> None:
        super().__init__(*tasks)
        self.heard: list[str] = []
        self.act: Callable[[Feedback], None] = lambda _: None
        self._hears = threading.Condition()

    @hookimpl
    def feedback_given(self, feedback: Feedback, turn: Turn) -> None:
        with self._hears:
            self.heard.append(feedback.id)
            self._hears.notify_all()
        assert turn.id == feedback.turn_id
        self.act(feedback)

    def wait_for(self, n_heard: int) -> None:
        """Waits until it was told so many times; observers are told on a thread of their own."""
        with self._hears:
            assert self._hears.wait_for(lambda: len(self.heard) >= n_heard, WATCHDOG_S)
