"""A plugin whose task learns phrases by heart. Tests of the conformance kit break one of its methods at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from smallai_assistant import (
    Adapter,
    Details,
    Example,
    JudgedTurn,
    LearningTask,
    ModelRuntime,
    Request,
    Score,
    Task,
    TextPart,
    Training,
    hookimpl,
)


def phrases_of(judged_turns: Sequence[JudgedTurn]) -> dict[str, str]:
    """Message -> correction; the last correction of a message counts."""
    return {
        judged_turn.turn.request.text: judged_turn.feedback.correction
        for judged_turn in judged_turns
        if judged_turn.feedback.correction
    }


def read(adapter: Adapter | None) -> dict[str, str]:
    """The phrases in an adapter."""
    return {} if adapter is None else dict(json.loads((adapter.folder / "phrases.json").read_text()))


class Parrot(LearningTask):
    """Says what it was taught to say."""

    name = "parrot"
    title = "says what it was taught"
    primary_metric = "share of phrases right"

    def setup(self, context: Any) -> None:
        super().setup(context)
        self.memory: dict[str, str] = {}

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | Details]:
        adapter = self.context.adapters.champion(self.name)
        yield TextPart((read(adapter) | self.memory).get(request.message.text, "I do not know."))
        if adapter is not None:
            yield Details({"adapter": adapter.id})

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        learned = phrases_of([judged_turn])
        self.memory |= learned
        return "It will say so." if learned else ""

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memory = phrases_of(judged_turns)

    def base(self) -> Mapping[str, Any]:
        return {"parrot": 1}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return [
            Example(
                judged_turn.feedback.id,
                judged_turn.turn.request.text,
                judged_turn.feedback.correction,
                judged_turn.turn.id,
                (judged_turn.feedback.id,),
            )
            for judged_turn in judged_turns
            if judged_turn.feedback.correction
        ]

    def train(self, training: Training) -> str:
        found = {}
        for example in [*training.examples, *training.replay]:
            training.yield_to_serving()
            found[example.prompt] = example.expected
        (training.folder / "phrases.json").write_text(json.dumps(found))
        return "phrases"

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        said = read(adapter)
        return [
            Score(float(said.get(example.prompt) == example.expected), said.get(example.prompt, ""))
            for example in examples
        ]


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    register(Parrot())
