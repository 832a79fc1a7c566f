"""Careful disk work in one place: lock files, fsync, atomic writes."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smallai_assistant.errors import Busy, Cancelled, StoreError, StoreFull

# A waiting process tries the lock ten times a second. Pulls and learning cycles hold it for seconds to hours.
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
    """Holds a lock file for the block, so that two threads or processes do not write the same folder.

    The operating system releases the lock when the process ends, also after a crash. The file itself stays.

    Args:
        path: the lock file; it and its folder are created if they are missing.
        cancel: set it to stop waiting.
        on_wait: called once if somebody else holds the lock.
        timeout_s: seconds to wait; 0 tries once, None waits without a limit.
        other: who holds the lock, for the error message.

    Raises:
        Busy: somebody else held the lock for `timeout_s`.
        Cancelled: `cancel` was set.
    """
    import filelock  # 40 ms, which `smallai --help` does not need

    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    stop = cancel or threading.Event()
    has_waited = False
    # Each call makes its own object: filelock lets the holder of an object acquire it again, also in another thread.
    lock = filelock.FileLock(path)
    while True:
        try:
            # One attempt at a time, with our own wait between: filelock's wait cannot be ended by an event.
            lock.acquire(timeout=0)
            break
        except filelock.Timeout as error:
            if deadline is not None and time.monotonic() >= deadline:
                raise Busy(other, hint="wait for it to end, then try again") from error
        if not has_waited:
            has_waited = True
            on_wait()
        if stop.wait(_POLL_S):
            raise Cancelled(f"stopped while waiting: {other}")
    try:
        yield
    finally:
        lock.release()


def expanded(text: str) -> Path:
    """The path that a text names; `~` is the home folder.

    The `~name` of an unknown user stays as it is, as in a shell, and is then not found. `Path.expanduser` raises.
    """
    return Path(os.path.expanduser(text))


def sync_path(path: Path) -> None:
    """Flushes a file, or the list of names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(target: Path, data: bytes) -> None:
    """Writes a file so that after a crash it is either complete or not there.

    Missing folders are created.

    Raises:
        StoreFull: the disk is full.
        StoreError: the file cannot be written for another reason.
    """
    temporary: str | None = None
    try:
        _create_folder(target.parent)
        # In the same folder: a rename is atomic only within one file system.
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_path(target.parent)  # the new name is in the folder, not in the file
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        kind = StoreFull if error.errno == errno.ENOSPC else StoreError
        raise kind(f"{target.name} could not be written: {error.strerror}") from error


def _create_folder(folder: Path) -> None:
    """Creates a folder and its missing parents; a new folder survives a power cut."""
    if not folder.is_dir():
        _create_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)
