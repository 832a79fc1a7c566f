"""The values of the learning loop: feedback, example, score, adapter, receipt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from smallai_assistant.errors import InvalidInput
from smallai_assistant.types import AudioPart, ImagePart, LabelPart, Notice, Turn, new_id, now
from smallai_assistant.validation import (
    EVERYONE,
    USER,
    audience_of_user,
    canonical_key,
    check_range,
    check_storable,
    check_time,
    checked_audience,
)

Signal = Literal["click", "skip", "dwell", "stars"]
SIGNALS: tuple[Signal, ...] = ("click", "skip", "dwell", "stars")
# The lowest and the highest value of each signal. A click and a skip have no degrees, so their value may be left out.
# A dwell time over a day is a page that somebody left open.
_RANGES: Mapping[Signal, tuple[float, float]] = {
    "click": (1.0, 1.0),
    "skip": (1.0, 1.0),
    "dwell": (0.0, 86_400.0),
    "stars": (1.0, 5.0),
}
# A correction is learned from, so it is limited to what a model can be trained on: about 5,000 tokens.
MAX_CORRECTION_CHARS = 20_000
# A comment is for people, so it may be as long as a person writes.
MAX_COMMENT_CHARS = 10_000
MAX_KEY_CHARS = 200
# Three in four are left to learn from. Never change it: what earlier cycles trained on would be asked.
HELD_OUT_ONE_IN = 4
# The source of feedback if nobody is named.
DEFAULT_SOURCE = "local"


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thought of a turn. All tasks share this one form.

    Args:
        turn_id: the id of the turn that is judged.
        is_good: thumb up or thumb down.
        correction: what the answer should have been: a text, a label, a transcript. At most 20,000 characters.
        comment: the reason, in words. It is stored, and nothing learns from it.
        signal: what the user did: `click` or `skip` an item, `dwell` on it, or give it `stars`.
        value: the value of the signal: seconds of `dwell`, or 1 to 5 `stars`.
        item: the id of the item that the signal is about.
        is_explicit: whether the user gave it on purpose; False for what was observed.
        source: who gave it. All feedback of one source shares one cap on its weight and is screened together.
            Spellings that look alike are one source; so it is with `item`.
        audience: whom it reaches: `user`, only its giver; `group:NAME`, the members of a group; `everyone`. None takes
            the default: `user` if the turn has a user, else `everyone`. The store fills it in.
        may_train: whether the giver agrees to its use for training. Without consent it is stored and changes the next
            answers, but no adapter is trained on it.
        key: idempotency key. Feedback with a key that is already stored is not stored again.
        task: the name of the turn's task; the store fills it in.
        created_at: when it was said. Of two words about the same, the later one counts, whenever they arrive.

    Raises:
        InvalidInput: the feedback says nothing, or a value is out of range.
        InputTooLarge: a text is over its limit.
    """

    turn_id: str
    is_good: bool | None = None
    correction: str | None = None
    comment: str = ""
    signal: Signal | None = None
    value: float | None = None
    item: str | None = None
    is_explicit: bool = True
    source: str = DEFAULT_SOURCE
    audience: str | None = None
    may_train: bool = True
    key: str | None = None
    task: str = ""
    id: str = field(default_factory=new_id)
    created_at: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        if self.is_good is None and self.correction is None and self.signal is None and not self.comment:
            raise InvalidInput("the feedback says nothing", hint="give a rating, a correction, a comment or a signal")
        if self.is_good is not None and not isinstance(self.is_good, bool):
            raise InvalidInput(f"is_good is {self.is_good!r}", hint="give True or False")
        check_storable("turn_id", self.turn_id, 64)
        check_storable("comment", self.comment, MAX_COMMENT_CHARS)
        # Feedback without a source would share one cap on its weight with that of everybody else.
        _set(self, "source", canonical_key("source", self.source))
        _set(self, "created_at", check_time("created_at", self.created_at))
        if self.audience is not None:
            _set(self, "audience", checked_audience(self.audience))
        if self.correction is not None:
            check_storable("correction", self.correction, MAX_CORRECTION_CHARS)
            # A blank correction would teach the model to say nothing.
            if not self.correction.strip():
                raise InvalidInput("the correction is empty", hint="write what the answer should have been")
        if self.item is not None:
            _set(self, "item", canonical_key("item", self.item))
        if self.key is not None:
            check_storable("key", self.key, MAX_KEY_CHARS)
        check_storable("id", self.id, 64)
        check_storable("task", self.task, 128)
        for name in ("is_explicit", "may_train"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"{name} is {getattr(self, name)!r}", hint="give True or False")
        self._check_signal()

    def _check_signal(self) -> None:
        if self.signal is None:
            if self.value is not None:
                raise InvalidInput("value without a signal", hint=f"name the signal: {', '.join(SIGNALS)}")
            return
        if self.signal not in _RANGES:
            raise InvalidInput(f"signal is {self.signal!r}", hint=f"give one of {', '.join(SIGNALS)}")
        low, high = _RANGES[self.signal]
        if self.value is not None:
            check_range(self.signal, self.value, low, high)
        elif low != high:  # a signal with degrees says nothing without its value
            raise InvalidInput(f"{self.signal} needs a value", hint=f"give {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class JudgedTurn:
    """A feedback together with the turn that it judges.

    A correction of a label is a key: two spellings of it that look alike are one label.
    """

    feedback: Feedback
    turn: Turn

    @property
    def audience(self) -> str:
        """Whom it reaches: `everyone`, `group:NAME` or `user:ID`; see `Request.audiences`."""
        return audience_key(self.feedback, self.turn.user_id)

    def __post_init__(self) -> None:
        correction = self.feedback.correction
        # Here and not in `Feedback`, which does not know its turn: the white space of a corrected text is kept.
        if correction is None or not answers_with_labels(self.turn):
            return
        label = canonical_key("correction", correction, MAX_CORRECTION_CHARS)
        if label != correction:
            _set(self, "feedback", replace(self.feedback, correction=label))


def answers_with_labels(turn: Turn) -> bool:
    """Whether a turn's answer is a label: it has one, or somebody taught what is on its picture."""
    is_taught_picture = bool(turn.details.get("taught")) and "image" in turn.request.modalities
    return is_taught_picture or any(isinstance(part, LabelPart) for part in turn.response)


def default_audience(user_id: str | None) -> str:
    """The audience of feedback that names none: what is said in a conversation of somebody stays with that person."""
    return USER if user_id is not None else EVERYONE


def audience_key(given: Feedback, user_id: str | None) -> str:
    """Whom a feedback reaches, as `JudgedTurn.audience` says it.

    Args:
        user_id: the user of the turn that it is about. A feedback without a named source was given by that user.
    """
    audience = given.audience or default_audience(user_id)
    if audience != USER:
        return audience
    return audience_of_user(given.source if given.source != DEFAULT_SOURCE else user_id)


def _set(value: object, name: str, content: object) -> None:
    """Sets a field of a frozen value while it is made."""
    object.__setattr__(value, name, content)


def is_held_out(split_key: str) -> bool:
    """Whether a split by key holds out the examples with this key.

    The answer is a function of the key alone: an example that was trained on is not asked by any later cycle.
    """
    return int(hashlib.sha256(split_key.encode()).hexdigest()[:8], 16) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its right answer, for training or for evaluation.

    Args:
        id: unique within a learning cycle, and the same when the cycle is repeated.
        prompt: the question, as people read it. A prompt is never on both sides of the train / held-out split.
        expected: the right answer, as people read it.
        split_key: examples with the same key stay on the same side of a split by key; usually the turn's id.
        feedback_ids: the feedback that the example was made from.
        payload: anything the task needs to train on the example or to score it.
        weight: how much it counts in training, in (0, 1].
        media: the pictures and recordings that the prompt stands for; the learning report shows them in its place.
        subject: what the example is evidence about. All wordings of one question have one subject and count once: in
            the minimum number of examples, in the mean score and in its interval. Empty for an example that is a
            subject of its own.
        component: what of a version learns the example, such as `corrections`. The examples of a component are judged
            by themselves, and a component that fails is left out of the version. `LearningTask.train` writes the files
            of a component into the subfolder of its name; files outside are in the version in any case. Empty if the
            task learns one thing only. An example that comes from no feedback has none.

    Raises:
        InvalidInput: the component is not a word of small letters, digits, `_` and `-`.
    """

    id: str
    prompt: str
    expected: str
    split_key: str
    feedback_ids: tuple[str, ...] = ()
    payload: Any = None
    weight: float = 1.0
    media: tuple[ImagePart | AudioPart, ...] = ()
    subject: str = ""
    component: str = ""

    def __post_init__(self) -> None:
        # It becomes the name of a folder.
        if self.component and not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", self.component):
            raise InvalidInput(f"the component is {self.component!r}", hint="use small letters, digits, '_' and '-'")

    def on_side(self, *, held_out: bool) -> Example:
        """Returns the example with a split key, made from its own, that a split by key puts on this side.

        A subject with several examples can so be sure to be on both sides. The side must follow from the feedback
        alone: an example that changes sides between two cycles is asked of a version that learned it.
        """
        keys = (f"{self.split_key}#{number}" for number in count())
        return replace(self, split_key=next(key for key in keys if is_held_out(key) == held_out))


@dataclass(frozen=True, slots=True)
class Score:
    """The result of one example in an evaluation.

    Args:
        value: in [0, 1]; higher is better.
        answer: what the task answered, as people read it.
        component: the component whose weights answered, see `Example.component`. A loss in a protected slice is that
            of the component which answered; if none is named, of every component.
    """

    value: float
    answer: str = ""
    component: str = ""


AdapterStatus = Literal["candidate", "approved", "refused"]


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """One set of weights of an adapter: an engine loads it once, and all streams that answer with it share it.

    Attributes:
        adapter_id: the adapter that the weights belong to.
        name: the part's name; empty for the adapter's main weights.
        folder: the files of the weights.
    """

    adapter_id: str
    name: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.adapter_id} ({self.name})" if self.name else self.adapter_id


@dataclass(frozen=True, slots=True)
class Component:
    """One of several things that a version learned: judged, taken over and left out by itself, see `Example.component`.

    Attributes:
        name: the component's name. The part of the same name holds its files, see `Adapter.with_part`.
        feedback_ids: the feedback that it was trained on.
        taken_from: the version that trained it; None if it was trained for this one.
    """

    name: str
    feedback_ids: tuple[str, ...]
    taken_from: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of what a task learned on top of a frozen base: LoRA weights, a classifier head, a vocabulary.

    Attributes:
        kind: the kind of its files, such as `lora`.
        folder: the folder of its files. They never change.
        base: what it was trained for: model, file hashes, quantization, template hash. It is never used on another.
        files: relative path -> sha256 of every file in `folder`.
        status: `candidate` until the gate decides, then `approved` or `refused`.
        parent: the id of the adapter that served when this one was trained.
        feedback_ids: the feedback that it was trained on.
        retired_ids: the part of that feedback which the adapter answers correctly by itself, so that the fast memory
            no longer holds it.
        report: the figures of the learning report, as JSON.
        part_name: the part that answers, see `with_part`; empty for the main weights.
        components: what it learned, if the task learns several things that are judged by themselves.
        audience: whom it serves: `everyone`, `group:NAME` or `user:ID`.
        over: the less personal adapter that answers what this one was not taught; None for the bare base.
    """

    id: str
    task: str
    kind: str
    folder: Path
    base: Mapping[str, Any]
    files: Mapping[str, str]
    created_at: datetime
    status: AdapterStatus = "candidate"
    parent: str | None = None
    feedback_ids: tuple[str, ...] = ()
    retired_ids: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    part_name: str = ""
    components: tuple[Component, ...] = ()
    audience: str = EVERYONE
    over: Adapter | None = None

    @property
    def part(self) -> AdapterPart:
        """The weights that answer: what an engine loads, and its key for streams that share them."""
        return AdapterPart(self.id, self.part_name, self.folder / self.part_name)

    @property
    def chain(self) -> tuple[Adapter, ...]:
        """This adapter and those that it lies over, the most personal first."""
        return (self, *(self.over.chain if self.over is not None else ()))

    def without(self, ids: Collection[str]) -> Adapter | None:
        """The same chain without these adapters; None if none is left."""
        return chain_of(adapter for adapter in self.chain if adapter.id not in ids)

    def changed_keys(self, base: Mapping[str, Any]) -> list[str]:
        """The keys of which `base` has another value than what it was made for, sorted."""
        return sorted(key for key in {*self.base, *base} if self.base.get(key) != base.get(key))

    def mismatch(self, base: Mapping[str, Any]) -> str:
        """How `base` differs from what it was made for, for people; empty if it is the same."""
        changed = self.changed_keys(base)
        # Two keys are enough for the sentence: another model has another name, and all its hashes differ.
        return ", ".join(f"{key} {self.base.get(key)!r}, not {base.get(key)!r}" for key in changed[:2])

    def with_part(self, name: str) -> Adapter | None:
        """Returns the same adapter with another of its parts answering; None if it has no such part.

        A part is a subfolder of the adapter's folder that holds files. It is not an adapter: it is promoted, retired
        and erased together with the adapter.
        """
        has_part = any(file.startswith(f"{name}/") for file in self.files)
        return replace(self, part_name=name) if has_part else None


def chain_of(adapters: Iterable[Adapter]) -> Adapter | None:
    """Puts each adapter over the next one. Returns the first of them; None if there are none."""
    chain: Adapter | None = None
    for adapter in reversed(tuple(adapters)):
        chain = replace(adapter, over=chain)
    return chain


@dataclass(frozen=True, slots=True)
class Receipt:
    """What happened to a feedback that was given. It is on disk when you get the receipt.

    Attributes:
        feedback: the feedback as stored.
        is_new: False if feedback with the same key was already stored; then nothing was added.
        effect: what changed for the next answers, one sentence for people; empty if nothing changed.
        notices: problems of learning at once. The feedback is stored in spite of them.
    """

    feedback: Feedback
    is_new: bool
    effect: str = ""
    notices: tuple[Notice, ...] = ()
