"""A pseudo-terminal with a program that runs on it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import sys
import termios
import time


class Terminal:
    """`smallai` on a terminal of its own.

    Args:
        words: the arguments.
        python: what the interpreter runs.
        size: columns and lines of the window.
    """

    def __init__(
        self,
        env: dict[str, str],
        *words: str,
        python: tuple[str, ...] = ("-m", "smallai_assistant.cli"),
        size: tuple[int, int] = (100, 24),
    ) -> None:
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            termios.tcsetwinsize(0, size[::-1])
            os.execve(sys.executable, [sys.executable, *python, *words], env)

    def wait_for(self, pattern: str, *, seconds: float = 60) -> None:
        """Reads until the output since the last key matches the pattern."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, f"{pattern!r} never came: {self.seen[-2000:]!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended before {pattern!r}: {self.seen[-2000:]!r}") from None

    def type(self, keys: str) -> None:
        """Types keys, and forgets the output so far."""
        self.seen = ""
        os.write(self._fd, keys.encode())

    def end(self, *, seconds: float = 30) -> int:
        """Waits for the end of the program. Returns its exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if select.select([self._fd], [], [], 0.05)[0]:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        raise AssertionError(f"it did not end: {self.seen[-2000:]!r}")
