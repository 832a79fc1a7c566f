"""The leases of models by thread, so that a thread which hangs can be given up."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from smallai_assistant.errors import Cancelled


class Lease:
    """One lease. It ends once, whoever ends it first."""

    def __init__(self, leases: Leases, on_end: Callable[[], None]) -> None:
        self._leases = leases
        self._on_end = on_end
        self.thread = threading.current_thread()

    def end(self) -> None:
        """Ends the lease. Idempotent."""
        if self._leases.remove(self):
            self._on_end()


class Leases:
    """The running leases. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Lease] = set()
        self._given_up: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def begin(self, on_end: Callable[[], None]) -> Lease:
        """Begins a lease of the current thread.

        Raises:
            Cancelled: the thread was given up meanwhile; `on_end` was called.
        """
        lease = Lease(self, on_end)
        # A thread that was given up while it waited for a model must not get it: nobody would end that lease.
        with self._lock:
            is_given_up = lease.thread in self._given_up
            if not is_given_up:
                self._running.add(lease)
        if is_given_up:
            on_end()  # outside of the lock, because it takes the lock of the runtime
            raise Cancelled("the answer took too long and was given up")
        return lease

    def remove(self, lease: Lease) -> bool:
        """Takes a lease off the list. Returns False if it has ended already."""
        with self._lock:
            is_running = lease in self._running
            self._running.discard(lease)
            return is_running

    def give_up(self, thread: threading.Thread) -> None:
        """Ends the leases of a thread, and those that it may still get, so that its models can be evicted.

        If the thread goes on, the computation of an evicted model ends with an error.
        """
        with self._lock:
            self._given_up.add(thread)
            left = [lease for lease in self._running if lease.thread is thread]
        for lease in left:
            lease.end()
