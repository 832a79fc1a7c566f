"""Runs a task on a thread of its own, so that one that hangs keeps nothing of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import Any

from smallai_assistant.conversation.stream_items import checked_item
from smallai_assistant.errors import AssistantError, PluginError
from smallai_assistant.foreign.calls import described
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import Task
from smallai_assistant.types import Request, StreamItem
from smallai_assistant.validation import shown

# After a cancel, a task may finish its step, such as the load of a model. A second less than `Response.close` waits, so
# that the session is free when it returns.
_CANCEL_PATIENCE_S = 9.0
_POLL_S = 0.25  # how late a cancel or a deadline may be noticed while the task yields nothing


class _End:
    """The last item of a task."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class TaskThread:
    """One run of a task.

    Args:
        timeout_s: how long the task may yield nothing; 0 sets no limit.
        around: is entered on the task's thread, around the run.
    """

    def __init__(
        self,
        task: Task,
        request: Request,
        models: ModelRuntime,
        *,
        timeout_s: float,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._around = around
        self._task = task
        self._request = request
        self._models = models
        self._timeout_s = timeout_s
        self._queue: SimpleQueue[StreamItem | _End] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"task: {task.name}", daemon=True)

    def items(self) -> Iterator[StreamItem]:
        """Yields what the task yields. After a cancel it ends, at the latest when the patience is over.

        Raises:
            PluginError: the task raised, yielded something that is not allowed, or yielded nothing for too long.
            AssistantError: the task raised it on purpose.
        """
        self._thread.start()
        try:
            while not isinstance(item := self._next(), _End):
                yield item
        finally:
            # The thread has ended, or it hangs and must not keep a model in memory for good.
            self._models.leases.give_up(self._thread)
        error = item.error
        if isinstance(error, AssistantError):
            raise error
        if error is not None:
            raise PluginError(
                f"the task {self._task.name!r} raised {described(error)}",
                hint="this is a defect of the plugin; the assistant still works",
            ) from error

    def _next(self) -> StreamItem | _End:
        """Waits for the next item."""
        begun = time.monotonic()
        cancelled_at = None
        while True:
            try:
                return self._queue.get(timeout=_POLL_S)
            except Empty:
                pass
            now = time.monotonic()
            if self._request.cancel.is_set():
                cancelled_at = cancelled_at or now
                if now - cancelled_at > _CANCEL_PATIENCE_S:
                    return _End()
            elif self._timeout_s and now - begun > self._timeout_s:
                self._request.cancel.set()  # if it looks at this one day, it ends
                return _End(
                    PluginError(
                        f"the task {self._task.name!r} has yielded nothing for {self._timeout_s:g} s and was given up",
                        hint="ask again, or raise answer_timeout_s if the model needs longer",
                    )
                )

    def _work(self) -> None:
        error: BaseException | None = None
        stream: Any = None
        try:
            with self._around():
                stream = self._task.run(self._request, self._models)
                self._forward(stream)
        except BaseException as raised:  # SystemExit and KeyboardInterrupt, too, are raised by the task
            error = raised
        try:
            # Closing runs the task's `finally` on this thread, now, and not when the generator is collected.
            if hasattr(stream, "close"):
                stream.close()
        except BaseException as raised:
            error = error or raised
        self._queue.put(_End(error))

    def _forward(self, stream: Any) -> None:
        name = type(self._task).__name__
        contract = f"the task {self._task.name!r}: {name}.run must be a generator of parts, Notice and Details"
        if not isinstance(stream, Iterator):
            raise PluginError(f"{contract}; it returned {shown(stream)}")
        for item in stream:
            try:
                self._queue.put(checked_item(item))
            except ValueError as error:
                raise PluginError(f"{contract}; it yielded {error}") from error
            if self._request.cancel.is_set():
                return
