"""One thread per loaded model. Calls run between the steps of streams, and streams take turns step by step.

A background stream, such as an evaluation, runs a step only when no other stream has one to run.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from smallai_assistant.errors import Cancelled

T = TypeVar("T")

# Unread items of a stream before the thread skips it. A few, so that a reader on another thread never waits for the
# next step to begin; not more, because whatever is computed after the reader stops is wasted.
_STEPS_AHEAD = 8
_BACKGROUND_PATIENCE_S = 5.0  # a background stream that waited this long runs one step, however busy the thread is
_CLOSE_PATIENCE_S = 30.0  # one step of a large model on a slow CPU takes seconds


class ModelThread:
    """Runs everything that touches one model's weights.

    The thread is a daemon, so a native call that hangs does not keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._wake = threading.Condition()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._streams: deque[_Stream[Any]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"model-{name}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> T:
        """Runs `function` before the next step of a stream. Returns its result or raises its error.

        Raises:
            Cancelled: the thread was closed.
        """
        # A call from the thread itself would wait for itself.
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                raise _closed_error()
            self._calls.append((function, future))
            self._wake.notify()
        try:
            return future.result()
        finally:
            # An error's traceback refers to this frame, which refers to the future that holds the error. Without this
            # cycle both, and the tensors they refer to, are freed at once instead of at the next garbage collection.
            del future

    def stream(self, steps: Iterator[T], *, in_background: bool = False) -> Iterator[T]:
        """Advances `steps` on the thread and yields its items; an error of `steps` is raised by the result.

        Closing the result, or dropping it, closes `steps`.

        Args:
            in_background: whether the steps of other streams go first.

        Raises:
            Cancelled: the thread was closed, now or while the stream runs.
        """
        stream = _Stream(steps, self._notify, in_background=in_background)
        with self._wake:
            if self._closed:
                raise _closed_error()
            self._streams.append(stream)
            self._wake.notify()
        return _Reader(stream)

    def close(self) -> None:
        """Ends running streams, then the thread. A thread that hangs in a native call is left behind."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_CLOSE_PATIENCE_S)
        if self._thread.is_alive():
            # It hangs. It will not tell the readers and callers that wait, so this thread does.
            for stream in list(self._streams):
                stream.give_up(_closed_error())
            for _, future in list(self._calls):
                future.set_exception(_closed_error())

    @property
    def n_streams(self) -> int:
        """The number of streams that have not ended."""
        with self._wake:
            return len(self._streams)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not self._calls and not any(s.is_runnable for s in self._streams):
                    self._wake.wait()
                # The condition is held only to choose the work, never while it runs: callers add work meanwhile.
                if self._closed:
                    calls, streams = list(self._calls), list(self._streams)
                    self._calls.clear()
                    self._streams.clear()
                    break
                call = self._calls.popleft() if self._calls else None
                stream = None if call else self._next_runnable()
            if call is not None:
                _run_call(*call)
            elif stream is not None and not stream.step():
                with self._wake:
                    self._streams.remove(stream)
            del call, stream  # this frame lives as long as the thread, and must not keep their tensors alive
        for _, future in calls:
            future.set_exception(_closed_error())
        for stream in streams:
            stream.end(_closed_error())

    def _next_runnable(self) -> _Stream[Any] | None:
        """The stream whose turn it is. Rotating the queue makes the turns fair. Call it with the condition held."""
        later = None
        for _ in range(len(self._streams)):
            stream = self._streams[0]
            self._streams.rotate(-1)
            if not stream.is_runnable:
                continue
            if not stream.is_patient:
                return stream
            later = later or stream
        return later


def _closed_error() -> Cancelled:
    return Cancelled("the model was closed")


def _run_call(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # a panic in Rust code is a BaseException, and the thread must go on
        future.set_exception(error)


class _Done:
    """The last item of a stream."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Stream(Generic[T]):
    """The thread's end of a stream."""

    def __init__(self, steps: Iterator[T], notify: Callable[[], None], *, in_background: bool) -> None:
        self._steps = steps
        self.notify = notify
        self.items: SimpleQueue[T | _Done] = SimpleQueue()
        self.has_ended = threading.Event()
        self._is_closing = False
        self._in_background = in_background
        self._stepped_at = time.monotonic()

    @property
    def is_runnable(self) -> bool:
        return self._is_closing or self.items.qsize() < _STEPS_AHEAD

    @property
    def is_patient(self) -> bool:
        """Whether the steps of other streams go first."""
        if not self._in_background or self._is_closing:
            return False
        return time.monotonic() - self._stepped_at < _BACKGROUND_PATIENCE_S

    def step(self) -> bool:
        """Runs one step. Returns False when the stream has ended."""
        try:
            return self._step()
        finally:
            self._stepped_at = time.monotonic()

    def _step(self) -> bool:
        if self._is_closing:
            self.end(None)
            return False
        try:
            self.items.put(next(self._steps))
        except StopIteration:
            self.end(None)
            return False
        except BaseException as error:
            self.end(error)
            return False
        return True

    def end(self, error: BaseException | None) -> None:
        """Closes the steps, on the thread, and tells the reader that the stream has ended."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as close_error:
                error = error or close_error
        del self._steps  # before the reader is told, so that it finds the memory freed
        self.give_up(error)

    def give_up(self, error: BaseException | None) -> None:
        """Tells the reader that no more items come."""
        self.items.put(_Done(error))
        self.has_ended.set()

    def close_soon(self) -> None:
        """Asks the thread to end the stream at its next turn."""
        self._is_closing = True
        self.notify()


class _Reader(Iterator[T], Generic[T]):
    """The reader's end of a stream. One thread may read it while another closes it."""

    def __init__(self, stream: _Stream[T]) -> None:
        self._stream = stream
        self._is_finished = False
        # A reader that is dropped, for example after an exception, must stop the computation. At exit nobody reads.
        self._abandon = weakref.finalize(self, stream.close_soon)
        self._abandon.atexit = False

    def __next__(self) -> T:
        if self._is_finished:
            raise StopIteration
        items = self._stream.items
        item = items.get()
        if items.qsize() == _STEPS_AHEAD - 1:  # the queue was full, so the thread may be asleep
            self._stream.notify()
        if isinstance(item, _Done):
            self._is_finished = True
            self._abandon.detach()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stops the computation. Returns after the thread has closed the steps."""
        if self._is_finished:
            return
        self._abandon.detach()
        self._stream.close_soon()
        self._stream.has_ended.wait()
        self._is_finished = True


class Ending(Iterator[T]):
    """Steps that call `at_end` once, after the last step or when they are closed.

    A generator with `finally` would not do: closing one that was never started does not run its `finally`.
    """

    def __init__(self, steps: Iterator[T], at_end: Callable[[], None]) -> None:
        self._steps = steps
        self._at_end: Callable[[], None] | None = at_end

    def __next__(self) -> T:
        try:
            return next(self._steps)
        except BaseException:
            self._finish()
            raise

    def close(self) -> None:
        """Ends the steps early."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()
        self._finish()

    def _finish(self) -> None:
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end()
