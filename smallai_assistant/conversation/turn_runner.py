"""Makes one answer on its own thread: routes the message, runs the task, records the turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from smallai_assistant.config import make_options
from smallai_assistant.conversation.router import Router
from smallai_assistant.conversation.task_thread import TaskThread
from smallai_assistant.errors import AssistantError, Cancelled
from smallai_assistant.feedback import Feedback, Receipt
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.task import Task
from smallai_assistant.types import Details, Message, Notice, Part, Request, TextPart, Turn, new_id, now

SPEECH = "automatic-speech-recognition"


@dataclass(frozen=True, slots=True)
class Services:
    """What a session needs from its assistant.

    Attributes:
        options: task name -> options from the configuration.
        reply_to_speech: whether the transcript of a spoken message is answered, too.
        turn_finished: called after a turn is stored.
        first_notices: returns the notices that only the first answer carries.
        give_feedback: stores feedback and lets the task learn from it.
        answer_timeout_s: how long a task may yield nothing; 0 sets no limit.
        refresh: brings the memory of a task up to what all processes wrote; returns the counter of erasures.
        notices_of: returns what somebody of these audiences should know about the versions that answer a task.
        feedback: the stored feedback.
        set_aside: lets the bare bases serve the thread that enters it.
        audience_of: returns whom a version serves.
    """

    router: Router
    models: ModelRuntime
    turns: TurnStore
    options: Mapping[str, Any]
    reply_to_speech: bool
    turn_finished: Callable[[Turn], None]
    first_notices: Callable[[], tuple[Notice, ...]]
    give_feedback: Callable[[Feedback], Receipt]
    answer_timeout_s: float
    refresh: Callable[[str], int]
    notices_of: Callable[[str, Collection[str]], tuple[Notice, ...]]
    feedback: FeedbackStore
    set_aside: Callable[[], AbstractContextManager[None]]
    audience_of: Callable[[str | None], str]


@dataclass(slots=True)
class Conversation:
    """The state of a session: its user, and the turns so far, oldest first.

    Attributes:
        groups: that the user belongs to.
        erasures: the counter of erasures when the history was last checked; None if it never was.
    """

    id: str
    user_id: str | None
    history: list[Turn]
    groups: tuple[str, ...] = ()
    erasures: int | None = None


@dataclass(slots=True)
class _Collected:
    """What one task has yielded so far."""

    parts: list[Part] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class _End:
    """The last item in the queue of a run."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Run:
    """The work behind a response, on its own thread, so that a plugin that hangs holds up only its own answer.

    Attributes:
        notices: of all tasks that ran; complete at the end, as are `details` and `timings`.
        stored: for each task that ran, the turn that the store returns when it is on disk.
    """

    def __init__(
        self,
        services: Services,
        conversation: Conversation,
        message: Message,
        *,
        task: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self._services = services
        self._conversation = conversation
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
        """Whether the thread has started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def cancel(self) -> None:
        """Asks the task to stop; returns at once."""
        self._cancelled.set()

    def wait(self, timeout_s: float) -> None:
        """Waits until the thread has ended, at most `timeout_s`."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def next_part(self, deadline: float | None) -> Part | None:
        """Waits for the next part; None at the end. The first call starts the work.

        Args:
            deadline: on the clock of `time.monotonic`.

        Raises:
            Cancelled: the deadline passed.
            AssistantError: the routing or the task failed.
        """
        if self._thread is None:
            if self._cancelled.is_set():
                return None
            thread = threading.Thread(target=self._work, name="turn", daemon=True)
            thread.start()
            self._thread = thread  # after the start, because another thread may close the answer and join what is here
        try:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            item = self._queue.get(timeout=wait_s)
        except Empty:
            self.cancel()
            raise Cancelled("the answer took longer than its timeout_s", hint="allow more time") from None
        if isinstance(item, _End):
            self._thread.join()  # so that the session is not busy when the reader sends the next message
            if item.error is not None:
                raise item.error
            return None
        return item

    def _work(self) -> None:
        error: AssistantError | None = None
        self._begun_at = time.perf_counter()
        try:
            transcript = self._answer(self._message, self._task)
            # A transcript is routed like a typed message: speech may ask for a recommendation, too.
            if transcript is not None:
                self._answer(Message.of(transcript), None)
        except AssistantError as raised:
            error = raised
        except BaseException as raised:  # a defect of the host; without this, the reader would wait forever
            error = AssistantError(f"internal error: {type(raised).__name__}: {raised}", hint="please report it")
            error.__cause__ = raised
        self._queue.put(_End(error))

    def _answer(self, message: Message, name: str | None) -> str | None:
        """Routes, runs and records one turn. Returns the transcript if it is to be answered next, else None."""
        begun = time.perf_counter()
        route = self._services.router.route(message, name)
        self.timings["route_s"] = time.perf_counter() - begun
        task = route.task
        self._drop_erased(self._services.refresh(task.name))
        is_transcript = task.name == SPEECH and self._services.reply_to_speech
        request = Request(
            message=message,
            history=tuple(self._conversation.history),
            # The options of the call are for the task of the message, not for the task that answers its transcript.
            options=make_options(task.options_type, self._options, base=self._services.options[task.name])
            if name is not None or message is self._message
            else self._services.options[task.name],
            session_id=self._conversation.id,
            user_id=self._conversation.user_id,
            groups=self._conversation.groups,
            cancel=self._cancelled,
        )
        collected = _Collected(notices=[*self._services.first_notices(), *route.notices])
        error: AssistantError | None = None
        try:
            with self._services.models.answering():
                self._run_task(task, request, collected, is_transcript=is_transcript)
        except AssistantError as raised:
            error = raised
        collected.notices += self._services.notices_of(task.name, request.audiences)
        self._record(message, task, collected, error)  # a turn that failed is stored as well, with the error's code
        if error is not None:
            raise error
        transcript = "".join(part.text for part in collected.parts if isinstance(part, TextPart)).strip()
        return transcript if is_transcript and transcript and not self._cancelled.is_set() else None

    def _drop_erased(self, erasures: int) -> None:
        """Removes the turns that were erased since the last answer, also by another process."""
        conversation = self._conversation
        if conversation.history and erasures != conversation.erasures:
            left = self._services.turns.not_erased([turn.id for turn in conversation.history])
            conversation.history[:] = [turn for turn in conversation.history if turn.id in left]
        conversation.erasures = erasures

    def _run_task(self, task: Task, request: Request, out: _Collected, *, is_transcript: bool) -> None:
        thread = TaskThread(task, request, self._services.models, timeout_s=self._services.answer_timeout_s)
        for item in thread.items():
            match item:
                case Notice():
                    out.notices.append(item)
                case Details(values):
                    out.details.update(values)
                case _:
                    self.timings.setdefault("first_part_s", time.perf_counter() - self._begun_at)
                    out.parts.append(item)
                    # The text of a transcript is the next message; the response's text is that of the reply.
                    if not (is_transcript and isinstance(item, TextPart)):
                        self._queue.put(item)

    def _record(self, message: Message, task: Task, out: _Collected, error: AssistantError | None) -> None:
        self.timings["total_s"] = time.perf_counter() - self._begun_at
        self.notices += out.notices
        self.details |= out.details
        was_cut = self._cancelled.is_set() and error is None  # a task that stopped early has not failed
        turn = Turn(
            id=new_id(),
            session_id=self._conversation.id,
            user_id=self._conversation.user_id,
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
        if error is None:  # a failed turn would teach the next one nothing
            self._conversation.history.append(turn)
        stored = self._services.turns.add_turn(turn)
        stored.add_done_callback(self._announce)  # after the commit, so observers find the turn in the database
        self.stored.append(stored)

    def _announce(self, stored: Future[Turn]) -> None:
        if stored.exception() is None:
            self._services.turn_finished(stored.result())


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Joins adjacent text deltas to one part; other parts stay as they are."""
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
