"""A scripted learning task that also takes pictures: a fake whose every step a test decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from smallai_assistant import (
    Adapter,
    Assistant,
    AssistantConfig,
    Details,
    Example,
    JudgedTurn,
    LearningTask,
    Request,
    Score,
    TaskContext,
    TextPart,
    Training,
)
from support.corrections import examples_of
from support.scripted import ScriptedPlugin

OWN_PLUGINS = ("chat", "image", "speech", "recommend")
N_STEPS = 8


class Phrases:
    """What to answer to what is heard."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.given: dict[str, str] = {}  # the ids of the feedback

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.answers, self.given = {}, {}
        for judged_turn in judged_turns:
            if judged_turn.feedback.correction not in (None, "crash"):
                self.add(judged_turn)

    def add(self, judged_turn: JudgedTurn) -> None:
        right = judged_turn.feedback.correction
        assert right is not None
        heard = _heard(judged_turn.turn.request.parts)
        self.answers[heard], self.given[heard] = right, judged_turn.feedback.id


class Echo(LearningTask):
    """Repeats what it hears. It can learn to shout: `say 1` -> `SAY 1`; a correction takes effect at once.

    Args:
        learns: False trains an adapter that does nothing.
        at_step: called at each training step, with its number.

    Attributes:
        begun_at: the first step of each training; later ones may continue from a checkpoint.
    """

    name: ClassVar[str] = "echo"
    title: ClassVar[str] = "says what it hears"
    accepts: ClassVar[Any] = (frozenset({"text"}), frozenset({"image"}))
    primary_metric: ClassVar[str] = "right words"
    honours_audiences: ClassVar[bool] = True

    def __init__(self, *, learns: bool = True, at_step: Callable[[int], object] = lambda step: None) -> None:
        self.learns = learns
        self.at_step = at_step
        self.begun_at: list[int] = []

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self.memories = context.memory_per_audience(Phrases)

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        adapter = self.context.adapters.champion(self.name)
        heard = _heard(request.message.parts)
        yield Details({"adapter": adapter.id if adapter else None})
        memory = self.memories.of(request.audiences)
        if heard in memory.given:
            because = {"feedback_id": memory.given[heard], "similarity": 1.0, "verdict": "the same words"}
            yield Details({"because": [because]})
        yield TextPart(memory.answers.get(heard) or self._answer(heard, adapter))

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        if judged_turn.feedback.correction is None:
            return ""
        if judged_turn.feedback.correction == "crash":  # lets a test see a fault of the task
            raise RuntimeError("boom")
        self.memories.add(judged_turn)
        heard = _heard(judged_turn.turn.request.parts)
        return f"{heard!r} is answered with {judged_turn.feedback.correction!r} from now on"

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memories.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        return {"model": "echo-1"}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return examples_of(judged_turns)

    def train(self, training: Training) -> str:
        checkpoint = training.work_folder / "step"
        first = int(checkpoint.read_text()) if checkpoint.exists() else 0
        self.begun_at.append(first)
        for step in range(first, N_STEPS):
            training.yield_to_serving()
            checkpoint.write_text(str(step))  # this step is not done yet: a resumed training repeats it
            training.progress("training", step / N_STEPS, loss=1 / (step + 1))
            self.at_step(step)
        wants = sum(example.expected == example.prompt.upper() for example in training.examples)
        shout = self.learns and wants > len(training.examples) / 2
        (training.folder / "voice.json").write_text(json.dumps({"shout": shout}))
        return "voice"

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: Any) -> list[Score]:
        answers = [self._answer(example.prompt, adapter) for example in examples]
        pairs = zip(examples, answers, strict=True)
        return [Score(float(answer == example.expected), answer) for example, answer in pairs]

    def _answer(self, heard: str, adapter: Adapter | None) -> str:
        shout = adapter is not None and json.loads((adapter.folder / "voice.json").read_text())["shout"]
        return heard.upper() if shout else heard


def _heard(parts: Sequence[Any]) -> str:
    return "".join(part.text if isinstance(part, TextPart) else f"picture {len(part.read())}" for part in parts)


def open_echo(folder: Path, *tasks: Any) -> Assistant:
    """Opens an assistant with an echo, or with the given tasks, and nothing else."""
    config = AssistantConfig(data_dir=folder, device="cpu", disabled_plugins=OWN_PLUGINS)
    return Assistant(config, plugins=[ScriptedPlugin(*(tasks or (Echo(),)))])


def correct(assistant: Assistant, n: int = 20, *, source: str = "local", first: int = 0) -> list[str]:
    """Gives `n` corrections that ask it to shout. Of the first 20, eight are held out. Returns their ids."""
    ids = []
    for number in range(first, first + n):
        response = assistant.ask(f"say {number}", task="echo", user_id=source)
        ids.append(response.rate(correction=f"SAY {number}", audience="everyone").feedback.id)
    return ids
