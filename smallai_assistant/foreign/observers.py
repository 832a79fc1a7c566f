"""Observers: each plugin is told on a thread of its own, and nothing of ours waits for it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue

from smallai_assistant.foreign.calls import described

log = logging.getLogger(__name__)

# An observer that writes to a slow disk or to a service on the network needs seconds.
CALL_TIMEOUT_S = 30.0
CLOSE_PATIENCE_S = 2.0
# A burst, such as an import of feedback, outruns a slow observer by some hundred events. More would fill the memory,
# because an event holds its turn.
_MAX_WAITING = 256


@dataclass(frozen=True, slots=True)
class _Event:
    hook: str
    call: Callable[[], object]


class Observers:
    """Tells the observers of all plugins. Thread-safe.

    Args:
        on_fault: called with a plugin and what it does wrong, again if it gets worse.
    """

    def __init__(self, on_fault: Callable[[str, str], None]) -> None:
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._listeners: dict[str, _Listener] = {}
        self._is_closed = False

    def tell(self, plugin: str, hook: str, call: Callable[[], object]) -> None:
        """Hands an event to the thread of a plugin and returns at once. Its events stay in order."""
        with self._lock:
            if self._is_closed:
                return
            if plugin not in self._listeners:
                self._listeners[plugin] = _Listener(plugin, self._on_fault)
            listener = self._listeners[plugin]
        listener.put(_Event(hook, call))

    def check(self) -> None:
        """Reports the observers whose call takes too long now."""
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener.check()

    def close(self, *, patience_s: float = CLOSE_PATIENCE_S) -> None:
        """Waits until everything was told, at most `patience_s` in all. What is left then is not told. Idempotent."""
        with self._lock:
            self._is_closed = True
            listeners = list(self._listeners.values())
        deadline = time.monotonic() + patience_s
        for listener in listeners:
            listener.stop()
        for listener in listeners:
            listener.wait(deadline)


class _Listener:
    """The thread and the queue of one plugin."""

    def __init__(self, plugin: str, on_fault: Callable[[str, str], None]) -> None:
        self._plugin = plugin
        self._on_fault = on_fault
        self._queue: Queue[_Event | None] = Queue(_MAX_WAITING)  # None wakes the thread
        self._stop = threading.Event()
        self._current: tuple[str, float] | None = None  # the hook that is told, and since when
        self._n_dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"observer: {plugin}", daemon=True)
        self._thread.start()

    def put(self, event: _Event) -> None:
        if self._late_hook():
            self._drop(event, f"takes longer than {CALL_TIMEOUT_S:g} s")
            return
        try:
            self._queue.put_nowait(event)
        except Full:
            self._drop(event, f"is too slow: {_MAX_WAITING} events wait for it")

    def check(self) -> None:
        if hook := self._late_hook():
            self._report(hook, f"takes longer than {CALL_TIMEOUT_S:g} s")

    def stop(self) -> None:
        self._stop.set()
        with contextlib.suppress(Full):  # then the thread does not wait for an event
            self._queue.put_nowait(None)

    def wait(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            hook, _ = self._current or ("", 0.0)
            with contextlib.suppress(Empty):  # emptied, so that the call that goes on is the last one
                while True:
                    self._n_dropped += self._queue.get_nowait() is not None
            self._report(hook, f"had not ended {CLOSE_PATIENCE_S:g} s after the assistant was closed")

    def _work(self) -> None:
        while True:
            try:
                event = self._queue.get_nowait() if self._stop.is_set() else self._queue.get()
            except Empty:
                return
            if event is None:
                continue
            self._current = (event.hook, time.monotonic())
            try:
                event.call()
            except BaseException as error:  # SystemExit or KeyboardInterrupt end this call, and not the thread
                log.warning("plugin %r: %s raised %s", self._plugin, event.hook, described(error))
            self._current = None

    def _late_hook(self) -> str:
        """The hook whose call takes too long; empty if there is none."""
        current = self._current
        return current[0] if current is not None and time.monotonic() - current[1] > CALL_TIMEOUT_S else ""

    def _drop(self, event: _Event, why: str) -> None:
        self._n_dropped += 1
        self._report(event.hook, why)

    def _report(self, hook: str, why: str) -> None:
        dropped = f"; {self._n_dropped:,} events were not told" if self._n_dropped else ""
        self._on_fault(self._plugin, f"its {hook} {why}{dropped}")
