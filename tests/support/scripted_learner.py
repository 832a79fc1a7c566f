"""A small learning task without a model: a dictionary by the last word of the question. Every fault is a knob."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from smallai_assistant.feedback import is_held_out
from support.corrections import examples_of
from support.scripted import ScriptedPlugin

NAME = "dictionary"
BUILT_IN_PLUGINS = ("chat", "image", "recommend", "speech")
N_PROTECTED = 100
UNKNOWN = "I do not know"
WAYS = ("tell", "describe", "explain", "say", "define", "name", "show", "judge")
BRIDGES = ("me", "us", "them", "him", "her", "it")
# How long a test waits for an event before it fails; long enough for a busy machine.
WATCHDOG_S = 60.0

DRINKS = {"tea": "a hot drink of leaves", "milk": "a white drink of cows"}
PLANTS = {"rye": "a grain for bread", "oak": "a tree of hard wood"}
SEAS = {"fog": "a cloud on the ground", "tide": "the sea that comes and goes"}


@dataclass(slots=True)
class Knobs:
    """How the task misbehaves, and how slow it is.

    Attributes:
        nan_at: the training step whose loss is NaN.
        on_step: called at the beginning of each training step, with its number.
        on_word: called before each word of an answer, with its number.
        step_s: seconds that a training step takes.
        word_s: seconds between two words of an answer.
        n_forgotten: how many of the 100 protected questions an adapter gets wrong.
        raises: the error that an adapter raises when it serves, though not when it is evaluated.
        hangs: whether an adapter does not answer at all.
        is_deaf: whether the training changes nothing.
    """

    nan_at: int | None = None
    on_step: Callable[[int], object] = lambda step: None
    on_word: Callable[[int], object] = lambda word: None
    step_s: float = 0.0
    word_s: float = 0.0
    n_forgotten: int = 0
    raises: BaseException | None = None
    hangs: bool = False
    is_deaf: bool = False


class HoldAt:
    """An `on_step` or `on_word` that holds the task at that number until the test releases it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reached, self._released = threading.Event(), threading.Event()

    def __call__(self, number: int) -> None:
        if number == self._number:
            self._reached.set()
            assert self._released.wait(WATCHDOG_S)

    def wait(self) -> None:
        """Returns when the task has reached the number."""
        assert self._reached.wait(WATCHDOG_S)

    def release(self) -> None:
        """Lets the task continue."""
        self._released.set()


def last_word(text: str) -> str:
    """Returns the word that a question is about."""
    words = text.casefold().split()
    return words[-1] if words else ""


@dataclass(eq=False)
class Dictionary(LearningTask):
    """Answers what was taught about the last word of a question.

    Attributes:
        version: of the base; an adapter of another version does not fit.
        steps: numbers of the steps that the last training ran; steps before its checkpoint are not among them.
        parents: ids of the adapters that each training started from.
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
            request.cancel.wait(WATCHDOG_S)
        word = last_word(request.message.text)
        answer = self.memory.get(word) or self.look_up(word, adapter)
        for number, part in enumerate(answer.split(" ")):
            self.knobs.on_word(number)
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
        return examples_of(judged_turns)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        return {
            "numbers": [Example(f"n{n}", f"what number is n{n}", str(n), f"number {n}") for n in range(N_PROTECTED)]
        }

    def train(self, training: Training) -> str:
        examples = [*training.replay, *training.examples]
        if len({example.expected for example in examples}) < 2:
            raise errors.NotEnoughData("all examples have one answer")
        self.parents.append(training.parent.id if training.parent is not None else None)
        checkpoint = training.work_folder / "checkpoint.json"
        state = json.loads(checkpoint.read_bytes()) if checkpoint.is_file() else {"done": 0, "votes": {}}
        votes: dict[str, dict[str, float]] = defaultdict(dict, state["votes"])
        self.steps.clear()
        for step, example in enumerate(examples):
            if step < state["done"]:
                continue
            training.yield_to_serving()
            if training.is_out_of_time:
                break
            self.knobs.on_step(step)
            time.sleep(self.knobs.step_s)
            word = last_word(example.prompt)
            votes[word][example.expected] = votes[word].get(example.expected, 0.0) + example.weight
            self.steps.append(step)
            # Before `progress`, which may cancel: what was reported as done must be in the checkpoint.
            write_json(checkpoint, {"done": step + 1, "votes": votes})
            loss = float("nan") if step == self.knobs.nan_at else 1.0 / (step + 1)
            training.progress(f"step {step + 1} of {len(examples)}", (step + 1) / len(examples), loss=loss)
        table = {word: max(said, key=said.__getitem__) for word, said in votes.items()}
        table |= {f"n{n}": "gone" for n in range(self.knobs.n_forgotten)}
        write_json(training.folder / "table.json", {} if self.knobs.is_deaf else table)
        return "table"

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        answers = [self.look_up(last_word(example.prompt), adapter) for example in examples]
        pairs = zip(examples, answers, strict=True)
        return [Score(float(answer == example.expected), answer) for example, answer in pairs]

    def look_up(self, word: str, adapter: Adapter | None) -> str:
        """Returns the adapter's answer, or else what the base knows: the number of words such as n17."""
        table = {} if adapter is None else json.loads((adapter.folder / "table.json").read_bytes())
        return str(table.get(word) or (word[1:] if word[:1] == "n" and word[1:].isdigit() else UNKNOWN))


def write_json(path: Path, value: Any) -> None:
    """Writes atomically: a kill leaves the old file or the new one."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def open_assistant(folder: Path, task: Dictionary | None = None, *plugins: object) -> Assistant:
    """Opens an assistant with that task alone."""
    return Assistant(
        plugins=[ScriptedPlugin(task or Dictionary()), *plugins],
        disabled_plugins=BUILT_IN_PLUGINS,
        data_dir=folder / "data",
        models_dir=folder / "models",
        device="cpu",
    )


def questions(word: str) -> list[str]:
    """Returns eight questions about a word: six that are trained on, and two that are held out."""
    asked = [f"{way} {bridge} {word}" for bridge in BRIDGES for way in WAYS]
    trained = [question for question in asked if not is_held_out(question)]
    held_out = [question for question in asked if is_held_out(question)]
    return [*trained[:6], *held_out[:2]]


def teach(assistant: Assistant, words: Mapping[str, str], *, source: str = "local") -> list[str]:
    """Teaches every word with all its questions. Returns the ids of the feedback."""
    return [
        assistant.teach(NAME, question, answer, source=source).feedback.id
        for word, answer in words.items()
        for question in questions(word)
    ]


def learn(assistant: Assistant, words: Mapping[str, str]) -> str:
    """Teaches the words and runs a cycle that must be promoted. Returns the id of the adapter that now serves."""
    teach(assistant, words)
    report = assistant.learn(NAME)
    assert report.is_promoted, report.summary()
    return report.adapter_id


def ask(assistant: Assistant, question: str) -> str:
    """Returns the answer to a question."""
    return assistant.ask(question, task=NAME).text.strip()


def served_by(assistant: Assistant, question: str = "what of tea") -> str | None:
    """Returns the id of the adapter that answers; None for the bare base."""
    return assistant.ask(question, task=NAME).turn.adapter
