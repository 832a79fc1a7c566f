"""The frozen values of the learning loop: feedback, lesson, example, adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from smallai_assistant.errors import InvalidInput
from smallai_assistant.types import Notice, Turn, check_range, check_storable, new_id, now

Signal = Literal["click", "skip", "dwell", "stars"]
SIGNALS: tuple[Signal, ...] = ("click", "skip", "dwell", "stars")
_RANGES: Mapping[Signal, tuple[float, float]] = {
    "click": (1.0, 1.0),
    "skip": (1.0, 1.0),
    "dwell": (0.0, 86_400.0),
    "stars": (1.0, 5.0),
}
MAX_CORRECTION_CHARS = 20_000
MAX_COMMENT_CHARS = 10_000
MAX_KEY_CHARS = 200


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thought of a turn, whatever its task.

    Args:
        turn_id: of the turn it is about.
        is_good: thumb up or down.
        correction: what the answer should have been: a text, a label, a transcript.
        comment: why, in words; kept, not learned from.
        signal: what the user did: `click` or `skip` an item, `dwell` on it, give it `stars`.
        value: of the signal: seconds of `dwell`, 1 to 5 `stars`.
        item: the id of the item the signal is about.
        is_explicit: given on purpose, not watched.
        source: who gave it; its rows share one weight cap and are judged together.
        may_train: the giver agrees to its use for training; without it the row is kept and learned from at once only.
        key: idempotency key: a second row with the same key is the first.
        task: name of the turn's task; the store fills it in.

    Raises:
        InvalidInput: it says nothing, or a value is out of range.
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
    source: str = "local"
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
        check_storable("source", self.source, 512)
        check_storable("comment", self.comment, MAX_COMMENT_CHARS)
        if not self.source:
            raise InvalidInput("source is empty", hint="name who gave the feedback")
        if self.correction is not None:
            check_storable("correction", self.correction, MAX_CORRECTION_CHARS)
            if not self.correction.strip():
                raise InvalidInput("the correction is empty", hint="write what the answer should have been")
        for name in ("item", "key"):
            text = getattr(self, name)
            if text is not None:
                check_storable(name, text, 512 if name == "item" else MAX_KEY_CHARS)
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
        elif low != high:
            raise InvalidInput(f"{self.signal} needs a value", hint=f"give {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class JudgedTurn:
    """A feedback and the turn it is about."""

    feedback: Feedback
    turn: Turn


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn, or to be asked in an evaluation.

    Args:
        id: unique within a cycle.
        prompt: what is asked, as people read it; the same prompt never lies on both sides of the split.
        expected: the right answer, as people read it.
        split_key: examples with the same key stay on one side; most often the turn's id.
        feedback_ids: what it was made from.
        payload: whatever the task needs to train on it or to score it.
        weight: how much it counts in training, in (0, 1].
    """

    id: str
    prompt: str
    expected: str
    split_key: str
    feedback_ids: tuple[str, ...] = ()
    payload: Any = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """How an example went: `value` in [0, 1], higher is better; `answer` as people read it."""

    value: float
    answer: str = ""


AdapterStatus = Literal["candidate", "approved", "refused"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """Something learned on top of a frozen base: LoRA weights, a head, a vocabulary, item-item weights.

    Attributes:
        folder: its files; immutable, each with its sha256 in `files`.
        kind: what the files are, such as `lora`.
        base: what it was made for: model, file hashes, quantization, template hash. It never loads on another.
        parent: the adapter that served when it was made.
        feedback_ids: what it learned from.
        retired_ids: of those, what it answers by itself, so that the fast memory no longer needs to hold it.
        report: the gate's figures, as JSON.
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


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a feedback.

    Attributes:
        is_new: False where its key was known and the earlier one stands.
        effect: what it changed at once, one sentence for people; empty where nothing.
        notices: what went wrong with learning at once; the feedback is stored all the same.
    """

    feedback: Feedback
    is_new: bool
    effect: str = ""
    notices: tuple[Notice, ...] = ()
