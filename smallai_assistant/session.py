"""One conversation: route, run, stream, record."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from smallai_assistant.config import make_options
from smallai_assistant.errors import AssistantError, Busy, Cancelled, PluginError
from smallai_assistant.router import Router
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.store import TurnStore
from smallai_assistant.task import Task
from smallai_assistant.types import (
    AudioPart,
    Content,
    Details,
    ImagePart,
    ItemPart,
    LabelPart,
    Message,
    Notice,
    Part,
    Request,
    SegmentPart,
    StreamItem,
    TextPart,
    Turn,
    new_id,
    now,
)

SPEECH = "automatic-speech-recognition"
_PARTS = (TextPart, ImagePart, AudioPart, LabelPart, SegmentPart, ItemPart)
_CLOSE_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Services:
    """What a session needs of its assistant."""

    router: Router
    models: ModelRuntime
    turns: TurnStore
    options: Mapping[str, Any]
    reply_to_speech: bool
    turn_finished: Callable[[Turn], None]
    first_notices: Callable[[], tuple[Notice, ...]]


class Session:
    """A conversation: what was said before is known to the next turn. One answer at a time.

    Attributes:
        id: resumes the conversation through `Assistant.session(session_id=...)`.
    """

    def __init__(self, services: Services, *, session_id: str, user_id: str | None, history: list[Turn]) -> None:
        self._services = services
        self.id = session_id
        self.user_id = user_id
        self._history = history
        self._current: weakref.ref[Response] | None = None

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns so far, oldest first."""
        return tuple(self._history)

    def send(
        self,
        content: Content,
        *,
        task: str | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Prepares an answer; the work starts when the response is first read.

        Args:
            content: text (`str`), a file (`Path`), a part, a list of those, or a Message.
            task: the task's name; None lets the router choose.
            options: values for the task's options, over those of the configuration.
            timeout_s: after that many seconds reading raises Cancelled and the compute stops.

        Raises:
            InvalidInput: the content cannot be used.
            Busy: the answer before is still running.
        """
        before = self._current() if self._current is not None else None
        if before is not None and before.is_running:
            raise Busy("the answer before is still running", hint="read it to its end or close() it")
        message = Message.of(content)
        run = _Run(self._services, self, message, task=task, options=options or {})
        response = Response(run, timeout_s=timeout_s)
        self._current = weakref.ref(response)
        return response


class Response:
    """An answer: iterate it (`for` or `async for`) for its parts as they come, or read `text`, which waits.

    Reading starts the work. `close()`, or dropping the response, stops it.
    """

    def __init__(self, run: _Run, *, timeout_s: float | None = None) -> None:
        self._run = run
        self._parts: list[Part] = []
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._error: BaseException | None = None
        self._is_finished = False
        weakref.finalize(self, run.cancel)

    def __iter__(self) -> Iterator[Part]:
        position = 0
        while position < len(self._parts) or self._pull():
            yield self._parts[position]
            position += 1

    async def __aiter__(self) -> AsyncIterator[Part]:
        position = 0
        try:
            while position < len(self._parts) or await asyncio.to_thread(self._pull):
                yield self._parts[position]
                position += 1
        finally:
            if not self._is_finished:
                self._run.cancel()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the work has begun and not ended."""
        return self._run.is_running

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, once the answer is complete."""
        return tuple(self)

    @property
    def text(self) -> str:
        """The whole text of the answer; of the reply, where a spoken message was transcribed and answered."""
        self._drain()
        return "".join(part.text for part in self._parts if isinstance(part, TextPart))

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know about the answer."""
        self._drain()
        return tuple(self._run.notices)

    @property
    def details(self) -> Mapping[str, Any]:
        """Facts: `model`, `n_completion_tokens`, `language` ..., see `Details`."""
        self._drain()
        return dict(self._run.details)

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds: `route_s`, `first_part_s`, `total_s`."""
        self._drain()
        return dict(self._run.timings)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The stored turns: one, or two where a spoken message was transcribed and answered.

        Returns once they are on disk.

        Raises:
            StoreError: they could not be stored.
        """
        self._drain()
        return tuple(future.result() for future in self._run.stored)

    @property
    def turn(self) -> Turn:
        """The stored turn of the answer; returns once it is on disk."""
        return self.turns[-1]

    def close(self) -> None:
        """Stops the compute and waits until it has stopped; what came is kept and stored. Twice is once."""
        self._run.cancel()
        self._run.wait(_CLOSE_PATIENCE_S)
        self._is_finished = True

    def _drain(self) -> None:
        while self._pull():
            pass

    def _pull(self) -> bool:
        """Waits for one more part; False at the end."""
        if self._error is not None:
            raise self._error
        if self._is_finished:
            return False
        try:
            item = self._run.next_part(self._deadline)
        except AssistantError as error:
            self._error = error
            raise
        except BaseException:
            self._run.cancel()
            raise
        if item is None:
            self._is_finished = True
            return False
        self._parts.append(item)
        return True


@dataclass(slots=True)
class _Collected:
    """What one task said so far."""

    parts: list[Part] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Run:
    """The work behind a response, in a thread of its own: a fault or a hang of a plugin stays there."""

    def __init__(
        self, services: Services, session: Session, message: Message, *, task: str | None, options: Mapping[str, Any]
    ) -> None:
        self._services = services
        self._session = session
        self._message = message
        self._task = task
        self._options = options
        self._queue: SimpleQueue[Part | _End] = SimpleQueue()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun_at = 0.0
        self.notices: list[Notice] = []
        self.details: dict[str, Any] = {}
        self.timings: dict[str, float] = {}
        self.stored: list[Future[Turn]] = []

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def cancel(self) -> None:
        self._cancelled.set()

    def wait(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def next_part(self, deadline: float | None) -> Part | None:
        """The next part, None at the end.

        Raises:
            Cancelled: the deadline passed.
            AssistantError: what the task raised.
        """
        if self._thread is None:
            if self._cancelled.is_set():
                return None
            self._thread = threading.Thread(target=self._work, name="turn", daemon=True)
            self._thread.start()
        try:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            item = self._queue.get(timeout=wait_s)
        except Empty:
            self.cancel()
            raise Cancelled("the answer took longer than its timeout_s", hint="allow more time") from None
        if isinstance(item, _End):
            self._thread.join()
            if item.error is not None:
                raise item.error
            return None
        return item

    def _work(self) -> None:
        error: AssistantError | None = None
        self._begun_at = time.perf_counter()
        try:
            transcript = self._answer(self._message, self._task)
            if transcript is not None:
                self._answer(Message.of(transcript), None)
        except AssistantError as raised:
            error = raised
        except BaseException as raised:  # a defect of ours, still no silent hang for the reader
            error = AssistantError(f"internal error: {type(raised).__name__}: {raised}", hint="please report it")
            error.__cause__ = raised
        self._queue.put(_End(error))

    def _answer(self, message: Message, name: str | None) -> str | None:
        """Routes, runs and records one turn. Returns the transcript where it is to be answered."""
        begun = time.perf_counter()
        route = self._services.router.route(message, name)
        self.timings["route_s"] = time.perf_counter() - begun
        task = route.task
        is_transcript = task.name == SPEECH and self._services.reply_to_speech
        request = Request(
            message=message,
            history=self._session.history,
            options=make_options(task.options_type, self._options, base=self._services.options[task.name])
            if name is not None or message is self._message
            else self._services.options[task.name],
            session_id=self._session.id,
            user_id=self._session.user_id,
            cancel=self._cancelled,
        )
        collected = _Collected(notices=[*self._services.first_notices(), *route.notices])
        error: AssistantError | None = None
        try:
            self._run_task(task, request, collected, is_transcript=is_transcript)
        except AssistantError as raised:
            error = raised
        self._record(message, task, collected, error)
        if error is not None:
            raise error
        transcript = "".join(part.text for part in collected.parts if isinstance(part, TextPart)).strip()
        return transcript if is_transcript and transcript and not self._cancelled.is_set() else None

    def _run_task(self, task: Task, request: Request, out: _Collected, *, is_transcript: bool) -> None:
        stream: Any = None
        try:
            stream = task.run(request, self._services.models)
            for item in _checked_stream(task, stream):
                match item:
                    case Notice():
                        out.notices.append(item)
                    case Details(values):
                        out.details.update(values)
                    case _:
                        self.timings.setdefault("first_part_s", time.perf_counter() - self._begun_at)
                        out.parts.append(item)
                        if not (is_transcript and isinstance(item, TextPart)):
                            self._queue.put(item)
                if self._cancelled.is_set():
                    break
        except AssistantError:
            raise
        except BaseException as error:
            raise PluginError(
                f"the task {task.name!r} raised {type(error).__name__}: {error}",
                hint="this is a defect of the plugin; the assistant goes on",
            ) from error
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _record(self, message: Message, task: Task, out: _Collected, error: AssistantError | None) -> None:
        self.timings["total_s"] = time.perf_counter() - self._begun_at
        self.notices += out.notices
        self.details |= out.details
        was_cut = self._cancelled.is_set() and error is None
        turn = Turn(
            id=new_id(),
            session_id=self._session.id,
            user_id=self._session.user_id,
            task=task.name,
            request=message,
            response=_joined(out.parts),
            created_at=now(),
            model=out.details.get("model"),
            adapter=out.details.get("adapter"),
            notices=tuple(out.notices),
            details=out.details,
            timings=dict(self.timings),
            error=error.code if error is not None else Cancelled.code if was_cut else None,
        )
        if error is None:
            self._session._history.append(turn)
        stored = self._services.turns.add_turn(turn)
        stored.add_done_callback(self._announce)
        self.stored.append(stored)

    def _announce(self, stored: Future[Turn]) -> None:
        if stored.exception() is None:
            self._services.turn_finished(stored.result())


def _checked_stream(task: Task, stream: Any) -> Iterator[StreamItem]:
    contract = f"{type(task).__name__}.run must be a generator of parts, Notice and Details"
    if not isinstance(stream, Iterator):
        raise PluginError(f"{contract}; it returned {stream!r}")
    for item in stream:
        if not isinstance(item, (*_PARTS, Notice, Details)):
            raise PluginError(f"{contract}; it yielded {item!r}")
        yield item


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Runs of text deltas as one part each, the rest as it is."""
    out: list[Part] = []
    run: list[str] = []
    for part in parts:
        if isinstance(part, TextPart):
            run.append(part.text)
            continue
        if run:
            out.append(TextPart("".join(run)))
            run = []
        out.append(part)
    if run:
        out.append(TextPart("".join(run)))
    return tuple(out)
