"""What a plugin author subclasses: one thing the assistant can do, and how it learns to do it better."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from smallai_assistant.errors import Cancelled, TrainingFailed
from smallai_assistant.feedback import Adapter, Example, Feedback, JudgedTurn, Score
from smallai_assistant.types import Modality, Notice, Request, StreamItem, Turn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from smallai_assistant.config import ModelsConfig
    from smallai_assistant.runtime import ModelRuntime
    from smallai_assistant.storage.item_store import ItemStore

API_VERSION = 1


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a task that has none."""


class Champions(Protocol):
    """Which adapter serves a task."""

    def champion(self, task: str) -> Adapter | None:
        """The adapter that serves now, checked against its hashes; None for the bare base."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the host lends a task for its life.

    Attributes:
        options: an instance of the task's `options_type` from the configuration.
        models: where models are leased.
        model_names: which model the configuration names for which role.
        items: items and interactions, for recommendation.
        data_dir: a folder of the task's own; nothing else may be written.
        adapters: which adapter serves; ask once an answer, so that a stream ends on the version it began with.
    """

    options: Any
    models: ModelRuntime
    model_names: ModelsConfig
    items: ItemStore
    data_dir: Path
    adapters: Champions


class Task(ABC):
    """One thing the assistant can do, named by the transformers pipeline id.

    A task is made once per assistant and may run in several threads at once: keep state of one answer in
    `run`. The host catches whatever it raises; an `AssistantError` reaches the caller as it is, anything
    else as `PluginError`.

    Attributes:
        name: pipeline id, such as `text-generation`.
        title: what it does, for people, a few words.
        accepts: the sets of modalities it takes, each one message's whole set.
        utterances: what people type when they want this task, for the intent router; empty for a task that is
            reached by modality or by name only.
        options_type: a frozen dataclass whose `__post_init__` raises InvalidInput on bad values.
        api_version: the hook API it was written for.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    accepts: ClassVar[tuple[frozenset[Modality], ...]] = (frozenset({"text"}),)
    utterances: ClassVar[tuple[str, ...]] = ()
    options_type: ClassVar[type[Any]] = NoOptions
    api_version: ClassVar[int] = API_VERSION

    context: TaskContext

    def setup(self, context: TaskContext) -> None:
        """Called once before the first run; load nothing heavy here."""
        self.context = context

    @abstractmethod
    def run(self, request: Request, models: ModelRuntime) -> Iterator[StreamItem]:
        """Streams the answer: parts (text as deltas), notices and details, in any order.

        Close what you hold in `finally`: an early close of the response closes this generator.
        """

    def close(self) -> None:  # noqa: B027  (optional)
        """Called once when the assistant closes."""


@dataclass(slots=True)
class Training:
    """One training run: what to learn from, where to write, and how to stay polite.

    Attributes:
        examples: what the new feedback teaches; nothing of it is asked in the evaluation.
        replay: what earlier cycles taught, to be learned again and not forgotten.
        folder: the adapter's files go here.
        work_folder: checkpoints; what lies there after a kill is of a run with the same examples.
        parent: the adapter that serves now.
        models: where models are leased.
        seed: of everything random.
        losses: what `progress` was told, for the report.
    """

    examples: Sequence[Example]
    replay: Sequence[Example]
    folder: Path
    work_folder: Path
    parent: Adapter | None
    models: ModelRuntime
    seed: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    deadline: float | None = None
    on_progress: Callable[[str, float], None] = lambda *_: None
    losses: list[float] = field(default_factory=list)

    @property
    def is_out_of_time(self) -> bool:
        """Whether the budget is spent: finish with what there is."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def progress(self, what: str, fraction: float, *, loss: float | None = None) -> None:
        """Tells how far it is.

        Args:
            fraction: in [0, 1].
            loss: of the last step.

        Raises:
            TrainingFailed: the loss is not finite.
        """
        if loss is not None:
            if not math.isfinite(loss):
                raise TrainingFailed(f"the loss became {loss} after {len(self.losses)} steps")
            self.losses.append(loss)
        self.on_progress(what, fraction)

    def yield_to_serving(self) -> None:
        """Call it between steps: waits while an answer is being made, so that training never holds one up.

        Raises:
            Cancelled: the training was cancelled.
        """
        if self.cancel.is_set():
            raise Cancelled("the training was stopped", hint="start it again: it goes on from the last checkpoint")
        self.models.wait_until_idle(cancel=self.cancel)


class LearningTask(Task):
    """A task that learns from feedback, at once and into an adapter.

    The fast memory is a function of the feedback: the host gives all of it to `rebuild` at start, after an undo, an
    erasure or a promotion, and each new one to `learn_now`. Keep no feedback elsewhere.

    Attributes:
        primary_metric: what a Score's value means on average, such as `top-1 accuracy`.
        least_examples: so many are needed on each side of the split, to learn from and to judge by.
    """

    primary_metric: ClassVar[str]
    least_examples: ClassVar[int] = 4

    def serving(self) -> tuple[Adapter | None, list[Notice]]:
        """The adapter to answer with, and what to say where the champion was made for another model.

        Ask once an answer.
        """
        adapter = self.context.adapters.champion(self.name)
        if adapter is None:
            return None, []
        base = self.base()
        changed = sorted(key for key in {*adapter.base, *base} if adapter.base.get(key) != base.get(key))
        if not changed:
            return adapter, []
        what = ", ".join(f"{key} {adapter.base.get(key)!r}, not {base.get(key)!r}" for key in changed[:2])
        text = f"What was learned ({adapter.id}) was not used: it was made for {what}. Learn again for this model."
        return None, [Notice("adapter_not_used", text)]

    @abstractmethod
    def learn_now(self, judged_turn: JudgedTurn) -> str:
        """Lets the next turn know. Returns what it changed, for people, one sentence; empty where nothing."""

    @abstractmethod
    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Makes the fast memory anew from `lessons`, oldest first: those that the champion does not answer itself."""

    @abstractmethod
    def base(self) -> Mapping[str, Any]:
        """What adapters are made for, as JSON: the model's name, its files' sha256, quantization, template."""

    @abstractmethod
    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        """What the lessons teach, for training and for the held-out side; the host splits them by `split_key`."""

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        """What must not get worse, by the name of the slice: general abilities that no feedback is about."""
        del judged_turns
        return {}

    def labelled(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, tuple[str, npt.NDArray[np.float32]]]:
        """The label that a lesson gives and the vector of what it gives it to, by feedback id.

        The guard sets aside sources most of whose labels contradict what others call what looks alike. A vector is
        float32, shape (n_dimensions,), of length 1. Empty where words tell what a lesson is about: those it compares
        itself.
        """
        del judged_turns
        return {}

    @abstractmethod
    def train(self, training: Training) -> str:
        """Writes an adapter into `training.folder`. Returns its kind, such as `lora`.

        Raises:
            NotEnoughData: the examples do not allow it.
            TrainingFailed: the loss became NaN.
            Cancelled: `training.yield_to_serving()` raised it.
        """

    @abstractmethod
    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        """One score an example, answered with `adapter` alone: the fast memory is off."""

    def forget(self, feedback: Feedback, turn: Turn) -> None:
        """A feedback was undone or erased; `rebuild` follows. For what the task keeps outside its fast memory."""
