"""A small learning task without a model: a dictionary by the last word of the question. Every fault is a knob."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from smallai_assistant import (
    Adapter,
    Assistant,
    Details,
    Example,
    JudgedTurn,
    LearningTask,
    ModelRuntime,
    Request,
    Score,
    TextPart,
    Training,
    errors,
)
from smallai_assistant.learning.evaluation import is_held_out
from support.scripted import ScriptedPlugin

NAME = "dictionary"
BUILT_IN_PLUGINS = ("chat", "image", "recommend", "speech")
N_PROTECTED = 100
UNKNOWN = "I do not know"
WAYS = ("tell", "describe", "explain", "say", "define", "name", "show", "judge")
BRIDGES = ("me", "us", "them", "him", "her", "it")


@dataclass(slots=True)
class Knobs:
    """How the task misbehaves, and how slow it is.

    Attributes:
        nan_at: the step of the training whose loss is NaN.
        step_s: seconds a step of the training takes.
        word_s: seconds between two words of an answer.
        n_forgotten: how many of the 100 protected questions an adapter gets wrong.
        raises: the adapter raises when it serves, though not when it is evaluated.
        hangs: it does not answer at all.
        is_deaf: the training changes nothing.
    """

    nan_at: int | None = None
    step_s: float = 0.0
    word_s: float = 0.0
    n_forgotten: int = 0
    raises: BaseException | None = None
    hangs: bool = False
    is_deaf: bool = False


def last_word(text: str) -> str:
    """What a question is about."""
    words = text.casefold().split()
    return words[-1] if words else ""


@dataclass(eq=False)
class Dictionary(LearningTask):
    """Answers what was taught about the last word of a question.

    Attributes:
        steps: of the last training, the ones really run: what was resumed is not among them.
        memory: the fast memory, word -> answer.
    """

    name: ClassVar[str] = NAME
    title: ClassVar[str] = "looks words up"
    primary_metric: ClassVar[str] = "exact answers"

    knobs: Knobs = field(default_factory=Knobs)
    version: int = 1
    steps: list[int] = field(default_factory=list)
    parents: list[str | None] = field(default_factory=list)
    memory: dict[str, str] = field(default_factory=dict)

    def run(self, request: Request, models: ModelRuntime) -> Iterator[Any]:
        adapter = self.context.adapters.champion(self.name)
        yield Details({"adapter": adapter.id if adapter is not None else None, "model": "paper"})
        if adapter is not None and self.knobs.raises is not None:
            raise self.knobs.raises
        if adapter is not None and self.knobs.hangs:
            request.cancel.wait(60)
        word = last_word(request.message.text)
        answer = self.memory.get(word) or self.look_up(word, adapter)
        for part in answer.split(" "):
            if request.cancel.wait(self.knobs.word_s):
                return
            yield TextPart(f"{part} ")

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        if judged_turn.feedback.correction is None:
            return ""
        word = last_word(judged_turn.turn.request.text)
        self.memory[word] = judged_turn.feedback.correction
        return f"{word} means {judged_turn.feedback.correction!r} from now on."

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memory.clear()
        for judged_turn in judged_turns:
            self.learn_now(judged_turn)

    def base(self) -> Mapping[str, Any]:
        return {"model": "paper", "version": self.version}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return [
            Example(
                id=judged_turn.feedback.id,
                prompt=judged_turn.turn.request.text,
                expected=judged_turn.feedback.correction,
                split_key=judged_turn.turn.request.text,
                feedback_ids=(judged_turn.feedback.id,),
            )
            for judged_turn in judged_turns
            if judged_turn.feedback.correction is not None
        ]

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        return {
            "numbers": [Example(f"n{n}", f"what number is n{n}", str(n), f"number {n}") for n in range(N_PROTECTED)]
        }

    def train(self, training: Training) -> str:
        examples = [*training.replay, *training.examples]
        if len({example.expected for example in examples}) < 2:
            raise errors.NotEnoughData("all lessons have one answer")
        self.parents.append(training.parent.id if training.parent is not None else None)
        checkpoint = training.work_folder / "checkpoint.json"
        state = json.loads(checkpoint.read_bytes()) if checkpoint.is_file() else {"done": 0, "votes": {}}
        votes: dict[str, dict[str, float]] = defaultdict(dict, state["votes"])
        self.steps.clear()
        for step, each in enumerate(examples):
            if step < state["done"]:
                continue
            training.yield_to_serving()
            if training.is_out_of_time:
                break
            time.sleep(self.knobs.step_s)
            word = last_word(each.prompt)
            votes[word][each.expected] = votes[word].get(each.expected, 0.0) + each.weight
            self.steps.append(step)
            write_json(checkpoint, {"done": step + 1, "votes": votes})
            loss = float("nan") if step == self.knobs.nan_at else 1.0 / (step + 1)
            training.progress(f"step {step + 1} of {len(examples)}", (step + 1) / len(examples), loss=loss)
        table = {word: max(said, key=said.__getitem__) for word, said in votes.items()}
        table |= {f"n{n}": "gone" for n in range(self.knobs.n_forgotten)}
        write_json(training.folder / "table.json", {} if self.knobs.is_deaf else table)
        return "table"

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        answers = [self.look_up(last_word(example.prompt), adapter) for example in examples]
        return [Score(float(answer == each.expected), answer) for each, answer in zip(examples, answers, strict=True)]

    def look_up(self, word: str, adapter: Adapter | None) -> str:
        """The adapter's answer, or what the base knows."""
        table = {} if adapter is None else json.loads((adapter.folder / "table.json").read_bytes())
        return str(table.get(word) or (word[1:] if word[:1] == "n" and word[1:].isdigit() else UNKNOWN))


def write_json(path: Path, value: Any) -> None:
    """So that a kill leaves the old file or the new one."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def open_assistant(folder: Path, task: Dictionary | None = None, *plugins: object) -> Assistant:
    """An assistant with that task alone."""
    return Assistant(
        plugins=[ScriptedPlugin(task or Dictionary()), *plugins],
        disabled_plugins=BUILT_IN_PLUGINS,
        data_dir=folder / "data",
        models_dir=folder / "models",
        device="cpu",
    )


def questions(word: str) -> list[str]:
    """Eight ways to ask for a word: six that are learned, and two by which it is judged."""
    asked = [f"{way} {bridge} {word}" for bridge in BRIDGES for way in WAYS]
    trained = [each for each in asked if not is_held_out(each)]
    return [*trained[:6], *[each for each in asked if is_held_out(each)][:2]]


def teach(assistant: Assistant, words: Mapping[str, str], *, source: str = "local") -> list[str]:
    """Teaches every word in all ways to ask for it. Returns the ids of the feedback."""
    return [
        assistant.teach(NAME, question, answer, source=source).feedback.id
        for word, answer in words.items()
        for question in questions(word)
    ]
