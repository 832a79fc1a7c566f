"""A lock file that two threads or processes cannot hold at once."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smallai_assistant.errors import Busy, Cancelled

_POLL_S = 0.1


@contextmanager
def exclusive(
    path: Path,
    *,
    cancel: threading.Event | None = None,
    on_wait: Callable[[], None] = lambda: None,
    timeout_s: float | None = None,
    other: str = "another process is changing the models",
) -> Iterator[None]:
    """Holds a lock file, so that two threads or processes do not write one folder; it ends with the process.

    Args:
        on_wait: called once if another holds it.
        timeout_s: None waits as long as it takes.
        other: what holds it, for the message.

    Raises:
        Busy: another held it for `timeout_s`.
        Cancelled: `cancel` was set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    stop = cancel or threading.Event()
    has_waited = False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if deadline is not None and time.monotonic() >= deadline:
                    raise Busy(other, hint="wait for it to end, then try again") from error
            if not has_waited:
                has_waited = True
                on_wait()
            if stop.wait(_POLL_S):
                raise Cancelled(f"stopped while waiting: {other}")
        yield
