"""Checks of what a task does when it runs."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from smallai_assistant import types
from smallai_assistant.assistant import Assistant
from smallai_assistant.config import make_options
from smallai_assistant.errors import DownloadError, InvalidInput, ModelNotFound, OutOfMemory
from smallai_assistant.task import Task
from smallai_assistant.testing.report import Skip

ANSWER_S = 300.0  # for one answer of a small model on a slow machine, including loading
STOP_S, HANG_S = 1.0, 5.0  # the time in which a task must stop, and after which the check gives up
STEP_S = 0.5  # how long one of two answers in step waits for the other, before both continue alone
# Two texts of different length, so that answers to them differ for any task that reads its message.
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and it sleeps on.",
    "Name four colours: red, blue, green, grey.",
)
PNG = base64.b64decode(  # 32 x 32, orange
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAK0lEQVR42u3NQQEAQAQAMC6NiCKKdSX4bQWW0xWXXhwTCAQCgUAg"
    "EAgEWz6b/gGoTIbtSQAAAABJRU5ErkJggg=="
)
WAV = b"RIFF" + struct.pack("<I8sIHHIIHH", 32_036, b"WAVEfmt ", 16, 1, 1, 16_000, 32_000, 2, 16)  # a second, silent
WAV += b"data" + struct.pack("<I", 32_000) + bytes(32_000)


class Trial:
    """Runs one task. Each check returns what is wrong, one sentence for people, or an empty text."""

    def __init__(self, assistant: Assistant, task: Task, example: types.Content | None) -> None:
        self.assistant, self.task, self.example = assistant, task, example
        self.options = make_options(task.options_type, assistant.config.tasks.get(task.name, {}))
        self.alone: str | None = None  # an answer to the message, made without the host
        self.details: dict[str, Any] = {}  # of the last answer that was made without the host

    def answers(self) -> str:
        """Checks that the task answers. It asks through a session, which checks what the task yields."""
        self.message = types.Message.of(made_up_message(self.task) if self.example is None else self.example)
        self.response = self.assistant.ask(self.message, task=self.task.name, timeout_s=ANSWER_S)
        try:
            with needing_models():
                self.parts = self.response.parts
        except InvalidInput as error:
            if self.example is not None:
                raise
            # A task may want a certain form, such as a number. The kit cannot know it.
            raise Skip(f"it refused a made-up message: {error}", "give an example of what it takes") from error
        return ""

    def not_a_generator(self) -> str:
        """Checks that `run` is a generator, because other iterators cannot be closed early."""
        stream = self.task.run(self._request(self.message), self.assistant.models)
        return "" if isinstance(stream, Generator) else f"run returns a {type(stream).__name__}"

    def malformed_details(self) -> str:
        """Checks that the details come back from JSON as they were; the host makes plain values of them."""
        self.alone = self.answer(self.message)
        details = self.details
        return "" if json.loads(json.dumps(details, allow_nan=False)) == details else f"they change: {details!r:.200}"

    def changed_in_store(self) -> str:
        """Checks that the answer comes back from the database as it was."""
        turn = self.response.turn
        is_same = as_text(self.assistant.store.turn(turn.id).response) == as_text(turn.response)
        return "" if is_same else "the stored answer differs from the answer"

    def repeated_text(self) -> str:
        """Checks that pieces of text are deltas. Authors used to other libraries may yield the whole text each time."""
        texts = [part.text for part in self.parts if isinstance(part, types.TextPart)]
        grows = [b.startswith(a) and len(b) > len(a) > 2 for a, b in itertools.pairwise(texts)]
        return f"every piece repeats the one before: {texts[1]!r:.60}" if grows and all(grows) else ""

    def mixed_answers(self) -> str:
        """Checks that two answers at once equal the answers made alone.

        Both tasks take their steps in turn, so state that they share is mixed up in every run and not by chance.
        """
        alone = self.alone if self.alone is not None else self.answer(self.message)
        if alone != as_text(self.parts):
            raise Skip("the same message got two different answers", "unless it samples, it keeps state on self")
        messages, expected = [self.message, self.message], [alone, alone]
        if self.message.modalities == {"text"}:
            # Two different messages show more. A task that refuses the other text gets the same message twice.
            with contextlib.suppress(InvalidInput):
                other = types.Message.of(TEXTS[1])
                expected[1] = self.answer(other)
                messages[1] = other
        barrier = threading.Barrier(2)
        both = [in_thread(self.play, message, barrier) for message in messages]
        return "" if [future.result(ANSWER_S) for future in both] == expected else "two answers at once get mixed up"

    def late_stop(self, *, by_close: bool) -> str:
        """Takes one item, stops the task by `close` or by `request.cancel`, and checks that it ends in time."""
        reached = threading.Event()  # the first item is there: loading a model does not count

        def work() -> float:
            request = self._request(self.message)
            stream: Any = self.task.run(request, self.assistant.models)
            try:
                next(stream, None)
            finally:
                reached.set()
            begun = time.perf_counter()
            if not by_close:
                request.cancel.set()
                # `self` marks the end, because a task may yield None by mistake.
                while time.perf_counter() < begun + HANG_S and next(stream, self) is not self:
                    pass
            stream.close()
            return time.perf_counter() - begun

        future = in_thread(work)
        reached.wait(ANSWER_S)
        try:
            took_s = future.result(HANG_S + STOP_S)
        except TimeoutError:
            return f"it was still running {HANG_S + STOP_S:g} s later"
        return f"it took {took_s:.1f} s to stop, {STOP_S:g} s is allowed" if took_s > STOP_S else ""

    def answer(self, message: types.Message) -> str:
        """The answer to a message, as text to compare."""
        return str(in_thread(self.play, message).result(ANSWER_S))

    def play(self, message: types.Message, barrier: threading.Barrier | None = None) -> str:
        """The answer to a message, made on this thread; with a barrier, in step with another answer."""
        items = []
        try:
            for item in self.task.run(self._request(message), self.assistant.models):
                items.append(item)
                if barrier is not None:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        barrier.wait(STEP_S)
        finally:
            if barrier is not None:
                barrier.abort()  # the other answer continues without waiting
        for item in items:
            self.details |= dict(item.values) if isinstance(item, types.Details) else {}
        return as_text(items)

    def _request(self, message: types.Message) -> types.Request:
        return types.Request(message, history=(), options=self.options, session_id=types.new_id())


@contextlib.contextmanager
def needing_models() -> Iterator[None]:
    """Skips the check if a model was not pulled or does not fit into memory."""
    try:
        yield
    except (ModelNotFound, DownloadError, OutOfMemory) as error:
        raise Skip(f"it needs a model: {error.message}", error.hint) from error


def in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Runs a function on a daemon thread, so that a task that hangs does not hang the kit."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def as_text(items: Sequence[Any]) -> str:
    """The parts of an answer as text to compare, without files, notices and details.

    Deltas are joined, because their borders may differ. Numbers are cut to three decimals, because the order of a sum
    depends on the threads of the processor.
    """
    text = "".join(item.text for item in items if isinstance(item, types.TextPart))
    rest = [item for item in items if isinstance(item, types.LabelPart | types.SegmentPart | types.ItemPart)]
    return text + re.sub(r"(\.\d{3})\d+", r"\1", repr(rest))


def made_up_message(task: Task) -> types.Content:
    """A message that the task accepts: a text alone if it takes that, else as few parts as possible."""
    parts: dict[types.Modality, types.Part] = {
        "text": types.TextPart(TEXTS[0]),
        "image": types.ImagePart(data=PNG),
        "audio": types.AudioPart(data=WAV),
    }
    smallest = min(task.accepts, key=lambda modalities: (modalities != {"text"}, len(modalities)))
    return [parts[modality] for modality in sorted(smallest)]
