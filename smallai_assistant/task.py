"""What a plugin author subclasses: a task, and a task that learns from feedback."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from smallai_assistant.errors import Cancelled, TrainingFailed
from smallai_assistant.feedback import Adapter, Example, Feedback, JudgedTurn, Score
from smallai_assistant.types import Modality, Notice, Request, StreamItem, Turn
from smallai_assistant.validation import EVERYONE, how_personal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from smallai_assistant.config import ModelsConfig
    from smallai_assistant.runtime import ModelRuntime
    from smallai_assistant.storage.item_store import ItemStore

API_VERSION = 1  # raised when a plugin written for the earlier contract would no longer work


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a task without options."""


class Champions(Protocol):
    """Tells which adapter serves a task."""

    def champion(self, task: str, audiences: Collection[str] = (EVERYONE,)) -> Adapter | None:
        """The checked adapter of the most personal of these audiences, over the others; None for the base."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the host gives a task to use.

    Attributes:
        options: an instance of the task's `options_type`, from the configuration.
        models: lends models.
        model_names: the model that the configuration names for each role.
        items: items and interactions, for recommendation.
        data_dir: the task's own folder. A task must not write anywhere else.
        min_people: what so many people say alike, each for that person alone, may count for others.
        titles: returns the tasks that can be used now: name -> title.
        adapters: tells which adapter serves; ask once per answer, so that it ends with the version that it began with.
    """

    options: Any
    models: ModelRuntime
    model_names: ModelsConfig
    items: ItemStore
    data_dir: Path
    adapters: Champions
    min_people: int = 3
    titles: Callable[[], Mapping[str, str]] = dict

    @staticmethod
    def memory_per_audience(make: Callable[[], M]) -> MemoryPerAudience[M]:
        """Returns a fast memory that keeps what is for different people apart.

        Args:
            make: makes an empty memory with the methods `replace(judged_turns)` and `add(judged_turn)`.
        """
        return MemoryPerAudience(make)


class Memory(Protocol):
    """A fast memory: what a set of judged turns taught."""

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Forgets everything, and learns these, given oldest first."""

    def add(self, judged_turn: JudgedTurn) -> object:
        """Learns one more."""


M = TypeVar("M", bound=Memory)
_MAX_MEMORIES = 64  # of people who asked last; that of somebody else is built again


class MemoryPerAudience(Generic[M]):
    """One fast memory for each set of audiences, built when somebody of that set first asks. Thread-safe.

    A memory is built from the feedback that reaches the asker and from nothing else, so it cannot tell what others
    taught for themselves. Feedback for a group comes after that for everyone, and a person's own comes last: of two
    answers to one question the more personal one counts.

    Args:
        make: makes an empty memory.
    """

    def __init__(self, make: Callable[[], M]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self._rows: dict[str, list[JudgedTurn]] = {}  # by audience, oldest first
        self._made: OrderedDict[frozenset[str], M] = OrderedDict()

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Forgets everything, and keeps these, given oldest first."""
        with self._lock:
            self._rows = {}
            self._made.clear()
            for judged_turn in judged_turns:
                self._rows.setdefault(judged_turn.audience, []).append(judged_turn)

    def add(self, judged_turn: JudgedTurn) -> None:
        """Keeps one more; the memories of all whom it reaches learn it."""
        audience = judged_turn.audience
        with self._lock:
            self._rows.setdefault(audience, []).append(judged_turn)
            for key, memory in list(self._made.items()):
                if audience not in key:
                    continue
                if audience == max(key, key=how_personal):
                    memory.add(judged_turn)
                else:  # something more personal must come after it
                    del self._made[key]

    def of(self, audiences: frozenset[str]) -> M:
        """Returns the memory of somebody who belongs to these audiences; see `Request.audiences`."""
        with self._lock:
            key = frozenset(audiences & self._rows.keys())
            if key not in self._made:
                memory = self._make()
                ordered = sorted(key, key=how_personal)
                memory.replace([judged_turn for audience in ordered for judged_turn in self._rows[audience]])
                self._made[key] = memory
            self._made.move_to_end(key)
            while len(self._made) > _MAX_MEMORIES:
                self._made.popitem(last=False)
            return self._made[key]

    def of_giver(self, judged_turn: JudgedTurn) -> M:
        """Returns the memory of somebody whom the feedback reaches, and who belongs to no other group."""
        return self.of(frozenset({EVERYONE, judged_turn.audience}))


class Task(ABC):
    """One thing that the assistant can do.

    There is one instance per assistant, and several threads may run it at once: keep the state of an answer in local
    variables of `run`. The host catches everything that a task raises. An `AssistantError` reaches the caller as it
    is, anything else as a `PluginError`.

    Attributes:
        name: the transformers pipeline id, such as `text-generation`, or a name of the same form.
        title: what it does, for people, in a few words.
        accepts: the sets of modalities that it takes. A message fits if its modalities are exactly one of the sets.
        utterances: examples of what people type when they want this task; the router compares messages with them.
            Empty for a task that is reached by modality or by name only.
        options_type: a frozen dataclass whose `__post_init__` raises InvalidInput for bad values.
        api_version: the version of the plugin contract that it was written for.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    accepts: ClassVar[tuple[frozenset[Modality], ...]] = (frozenset({"text"}),)
    utterances: ClassVar[tuple[str, ...]] = ()
    options_type: ClassVar[type[Any]] = NoOptions
    api_version: ClassVar[int] = API_VERSION

    context: TaskContext

    def setup(self, context: TaskContext) -> None:
        """Called once, before the first run. Load nothing heavy here, because it runs at every start."""
        self.context = context

    @abstractmethod
    def run(self, request: Request, models: ModelRuntime) -> Iterator[StreamItem]:
        """Yields the answer: parts, notices and details, in any order. Text comes as deltas.

        Release what you hold in `finally`: closing the response early closes this generator.
        """

    def close(self) -> None:  # noqa: B027  (optional)
        """Called once when the assistant closes."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting that a training tried, and its loss; lower is better."""

    setting: str
    loss: float


@dataclass(slots=True)
class Training:
    """One training run: what to learn from, where to write, and when to stop or wait.

    Attributes:
        examples: the examples of new feedback. No candidate is asked an example that it was trained on.
        replay: examples of earlier cycles, to be learned again so that they are not forgotten.
        folder: the adapter's files are written here.
        work_folder: checkpoints are written here. After a kill, the next run with the same examples finds them.
        shared_folder: for what is computed from one example alone, under its id: all trainings of a cycle share it.
            None if there is one training; then use `work_folder`.
        parent: the adapter that serves the audience now.
        over: the adapter for everyone that a version for one person or a group lies over; None if there is none.
        models, seed: what lends models, and the seed of everything random.
        cancel: set when the run is to stop; `yield_to_serving` checks it.
        deadline: the end of the time budget, on the clock of `time.monotonic`; None for no limit.
        on_progress: called with what is going on and the fraction done, in [0, 1].
        losses, trials: the losses of training steps and the settings that `progress` was told, for the report.
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
    trials: list[Trial] = field(default_factory=list)
    shared_folder: Path | None = None
    over: Adapter | None = None

    @property
    def is_out_of_time(self) -> bool:
        """Whether the time budget is spent. Then write the adapter with what is learned so far, and return."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def progress(self, what: str, fraction: float, *, loss: float | None = None, setting: str | None = None) -> None:
        """Tells how far the training is.

        Args:
            what: what it does now, for people.
            fraction: the share that is done, in [0, 1].
            loss: of the last training step, or of `setting`.
            setting: the setting that was tried, such as `strength 0.3`, if the loss is not that of a training step.

        Raises:
            TrainingFailed: the loss is not finite.
        """
        if loss is not None:
            # Weights that are NaN stay NaN. Going on would only waste the rest of the time budget.
            if not math.isfinite(loss):
                raise TrainingFailed(f"the loss became {loss} after {len(self.losses)} steps")
            if setting is None:
                self.losses.append(loss)
            else:
                self.trials.append(Trial(setting, loss))
        self.on_progress(what, fraction)

    def yield_to_serving(self) -> None:
        """Waits while an answer is being made, so that training does not slow it down. Call it between steps.

        Raises:
            Cancelled: the training was cancelled.
        """
        if self.cancel.is_set():
            raise Cancelled("the training was stopped", hint="start it again: it continues from the last checkpoint")
        self.models.wait_until_idle(cancel=self.cancel)  # with an upper limit, so that training always continues


class LearningTask(Task):
    """A task that learns from feedback: at once, into a fast memory, and in learning cycles, into an adapter.

    The fast memory is a function of the feedback. The host passes new feedback to `learn_now`, and all active feedback
    to `rebuild` at start and after an undo, an erasure or a promotion. Keep feedback nowhere else, or an erasure cannot
    reach it.

    Attributes:
        primary_metric: the meaning of an average Score, such as `top-1 accuracy`.
        honours_audiences: whether `run` uses what feedback taught for those alone whom it reaches, at its fast speed.
            Build the memory with `TaskContext.memory_per_audience`. A task that does not say so learns feedback for
            everyone only. Shared weights never learn personal feedback, whatever the task says.
        has_personal_versions: whether a person's own feedback may be trained into a version for that person alone.
            `run` then answers with `serving(request.audiences)`, and `evaluate` with the whole chain of `Adapter.over`:
            a version answers what it was taught, and leaves the rest to the one that it lies over.
        min_examples: the minimum number of subjects on each side of the train / held-out split, see `Example.subject`.
        split_by: `key`, the hash of `Example.split_key` holds out in every cycle; or `time`, to predict events: there
            the newest quarter judges what learned from events before it, and a later cycle learns it.
    """

    primary_metric: ClassVar[str]
    min_examples: ClassVar[int] = 4
    honours_audiences: ClassVar[bool] = False
    has_personal_versions: ClassVar[bool] = False
    split_by: ClassVar[Literal["key", "time"]] = "key"

    @property
    def is_cheap_to_train(self) -> bool:
        """Whether a cycle may train six times. Little feedback is then judged by candidates that did not learn it."""
        return False

    def serving(self, audiences: Collection[str] = (EVERYONE,)) -> tuple[Adapter | None, list[Notice]]:
        """The adapter to answer with. Call it once per answer.

        Args:
            audiences: `Request.audiences`, if the task has personal versions.

        Returns:
            The champion, without those of its chain (`Adapter.over`) that were made for another base. Notices tell.
        """
        champion = self.context.adapters.champion(self.name, audiences)
        if champion is None:
            return None, []
        # An adapter on another base would compute nonsense without any error.
        base = self.base()
        misfits = {adapter.id: what for adapter in champion.chain if (what := adapter.mismatch(base))}
        text = "What was learned ({}) was not used: it was made for {}. Learn again for this model."
        notices = [Notice("adapter_not_used", text.format(*misfit)) for misfit in misfits.items()]
        return champion.without(misfits), notices

    @abstractmethod
    def learn_now(self, judged_turn: JudgedTurn) -> str:
        """Adds one feedback to the fast memory, so that the next answer takes it into account.

        Returns:
            What changed, for people, one sentence; empty if nothing changed.

        Raises:
            AssistantError: it cannot be learned; the user is told. The feedback stays stored.
        """

    @abstractmethod
    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Replaces the fast memory with one built from all active feedback.

        It runs at every start: load or embed nothing before an answer needs it. It must not raise: skip, with a log
        line, what you cannot use.

        Args:
            judged_turns: oldest first, without the feedback that the serving adapter already learned.
        """

    @abstractmethod
    def base(self) -> Mapping[str, Any]:
        """What an adapter of this task depends on, as JSON values. `ModelRuntime.base_of` gives those of a model.

        An adapter is used only while this stays the same: the model's name, the hashes of its files, its quantization
        and its template.
        """

    @abstractmethod
    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        """Makes examples from feedback. The host splits them into a train and a held-out side, see `split_by`."""

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        """Examples of what must not get worse although no feedback is about it, such as general knowledge.

        Returns:
            Slice name -> examples. The gate looks at each slice by itself.
        """
        del judged_turns
        return {}

    def labelled(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, tuple[str, npt.NDArray[np.float32]]]:
        """The labels that feedback gives, with the vectors of what it labels, for screening.

        Screening sets aside sources if most of their labels contradict those that others give to similar things.
        Implement it for inputs without words, such as pictures; the host compares texts itself.

        Returns:
            Feedback id -> label and vector. A vector is float32, shape (n_dimensions,), of length 1.
        """
        del judged_turns
        return {}

    @abstractmethod
    def train(self, training: Training) -> str:
        """Trains an adapter and writes its files into `training.folder`, those of a component into its subfolder.

        Returns:
            The kind of the adapter, such as `lora`.

        Raises:
            NotEnoughData: there are too few examples.
            TrainingFailed: the loss became NaN.
            Cancelled: `training.yield_to_serving()` raised it.
        """

    @abstractmethod
    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        """Answers the examples with `adapter` alone, without the fast memory, and scores the answers.

        Args:
            adapter: None for the bare base.

        Returns:
            One score per example, in order.
        """

    def forget(self, feedback: Feedback, turn: Turn) -> None:
        """Called when feedback was undone or erased, before `rebuild`. Delete what you keep outside the fast memory."""
