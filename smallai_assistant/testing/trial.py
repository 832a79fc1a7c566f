"""What a task does when it runs."""

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

ANSWER_S = 300.0  # a small model on a slow machine, loading included
STOP_S, HANG_S = 1.0, 5.0
STEP_S = 0.5  # how long one of two answers waits for the other before each goes its own way
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
    """One task at work. Each method says what is wrong, nothing where all is well."""

    def __init__(self, assistant: Assistant, task: Task, example: types.Content | None) -> None:
        self.assistant, self.task, self.example = assistant, task, example
        self.options = make_options(task.options_type, assistant.config.tasks.get(task.name, {}))

    def answers(self) -> str:
        """Through the session, which knows what a task may yield; later checks call `run` themselves."""
        self.message = types.Message.of(made_up(self.task) if self.example is None else self.example)
        self.response = self.assistant.ask(self.message, task=self.task.name, timeout_s=ANSWER_S)
        try:
            with needing_models():
                self.parts = self.response.parts
        except InvalidInput as error:
            if self.example is not None:
                raise
            raise Skip(f"it refused a made-up message: {error}", "give an example of what it takes") from error
        return ""

    def is_no_generator(self) -> str:
        stream = self.task.run(self._request(self.message), self.assistant.models)
        return "" if isinstance(stream, Generator) else f"run returns a {type(stream).__name__}"

    def spoilt_details(self) -> str:
        details = dict(self.response.details)
        return "" if json.loads(json.dumps(details, allow_nan=False)) == details else f"they change: {details!r:.200}"

    def is_not_stored(self) -> str:
        turn = self.response.turn
        is_same = said(self.assistant.store.turn(turn.id).response) == said(turn.response)
        return "" if is_same else "the answer came back from the store otherwise"

    def repeated_text(self) -> str:
        texts = [part.text for part in self.parts if isinstance(part, types.TextPart)]
        grows = [b.startswith(a) and len(b) > len(a) > 2 for a, b in itertools.pairwise(texts)]
        return f"every piece repeats the one before: {texts[1]!r:.60}" if grows and all(grows) else ""

    def mixed_answers(self) -> str:
        """Two messages in step, each against its answer alone: what they share shows every time."""
        alone = self.answer(self.message)
        if alone != said(self.parts):
            raise Skip("the same message got two answers, one by one", "unless it samples, it keeps state on self")
        messages, expected = [self.message, self.message], [alone, alone]
        if self.message.modalities == {"text"}:
            with contextlib.suppress(InvalidInput):
                other = types.Message.of(TEXTS[1])
                expected[1] = self.answer(other)
                messages[1] = other
        barrier = threading.Barrier(2)
        both = [started(self.play, message, barrier) for message in messages]
        return "" if [each.result(ANSWER_S) for each in both] == expected else "answers that run at once get mixed"

    def late_stop(self, *, by_close: bool) -> str:
        """Takes one item and stops."""
        reached = threading.Event()

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
                while time.perf_counter() < begun + HANG_S and next(stream, self) is not self:
                    pass
            stream.close()
            return time.perf_counter() - begun

        future = started(work)
        reached.wait(ANSWER_S)
        try:
            took_s = future.result(HANG_S + STOP_S)
        except TimeoutError:
            return f"it still ran {HANG_S + STOP_S:g} s later"
        return f"it took {took_s:.1f} s to stop, {STOP_S:g} s is allowed" if took_s > STOP_S else ""

    def answer(self, message: types.Message) -> str:
        """What it says to a message, as text to compare."""
        return str(started(self.play, message).result(ANSWER_S))

    def play(self, message: types.Message, barrier: threading.Barrier | None = None) -> str:
        """The same on this thread; with a barrier, in step with another."""
        items = []
        try:
            for item in self.task.run(self._request(message), self.assistant.models):
                items.append(item)
                if barrier is not None:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        barrier.wait(STEP_S)
        finally:
            if barrier is not None:
                barrier.abort()
        return said(items)

    def _request(self, message: types.Message) -> types.Request:
        return types.Request(message, history=(), options=self.options, session_id=types.new_id())


@contextlib.contextmanager
def needing_models() -> Iterator[None]:
    """Skips the check where a model is not there or does not fit."""
    try:
        yield
    except (ModelNotFound, DownloadError, OutOfMemory) as error:
        raise Skip(f"it needs a model: {error.message}", error.hint) from error


def started(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Runs it in a daemon thread: a task that hangs does not hang the kit."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def said(items: Sequence[Any]) -> str:
    """The parts as text to compare: deltas joined, figures cut to three decimals, files and facts left out."""
    text = "".join(item.text for item in items if isinstance(item, types.TextPart))
    rest = [item for item in items if isinstance(item, types.LabelPart | types.SegmentPart | types.ItemPart)]
    return text + re.sub(r"(\.\d{3})\d+", r"\1", repr(rest))


def made_up(task: Task) -> types.Content:
    """The smallest set of modalities that the task takes; text alone where it takes that."""
    parts: dict[types.Modality, types.Part] = {
        "text": types.TextPart(TEXTS[0]),
        "image": types.ImagePart(data=PNG),
        "audio": types.AudioPart(data=WAV),
    }
    smallest = sorted(task.accepts, key=lambda each: (each != {"text"}, len(each)))[0]
    return [parts[each] for each in sorted(smallest)]
