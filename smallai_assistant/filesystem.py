"""Careful disk work in one place: lock files, fsync, atomic writes."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smallai_assistant.errors import Busy, Cancelled, StoreError, StoreFull

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


def sync_path(path: Path) -> None:
    """Puts a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(target: Path, data: bytes) -> None:
    """Writes a file so that after a crash it is whole or not there.

    Raises:
        StoreFull: the disk is full.
        StoreError: it cannot be written.
    """
    temporary: str | None = None
    try:
        _make_folder(target.parent)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_path(target.parent)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        kind = StoreFull if error.errno == errno.ENOSPC else StoreError
        raise kind(f"{target.name} could not be written: {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it; what is new survives a loss of power."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)
