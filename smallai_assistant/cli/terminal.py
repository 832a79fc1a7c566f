"""What a terminal shows and obeys: styles, control characters, encodings, the keyboard's echo."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from typing import Any

from smallai_assistant.cli.streams import out

# What a terminal would obey: a text, a label or a file name must not move the cursor or set the title. The range from
# U+2028 to U+2069 changes the direction of writing, which can make a line read as something else.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """`text` without the control characters that a terminal would obey; line ends and tabs stay."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def is_tty(stream: Any) -> bool:
    """Whether a stream is a terminal; False for a closed or a missing one."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def has_style(stream: Any) -> bool:
    """Whether a stream may get escape sequences. See https://no-color.org for `NO_COLOR`."""
    return is_tty(stream) and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"


def window() -> os.terminal_size:
    """Columns and lines of the terminal's window; 80 and 24 if there is none."""
    try:
        size = os.get_terminal_size(out().fileno())
    except (AttributeError, OSError, ValueError):
        size = os.terminal_size((80, 24))
    return shutil.get_terminal_size(size)  # the variables COLUMNS and LINES come first


class SilentKeyboard:
    """Keeps the terminal from showing what is typed while an answer is drawn.

    A typed line end, or the `^C` of Ctrl-C, would move the lines that are drawn, and the next drawing would miss them.
    What is typed is not lost: the next prompt reads it. Only Ctrl-C drops it, as terminals always do.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def start(self) -> None:
        """Turns the echo off. Idempotent; does nothing if standard input is not a terminal."""
        if self._before is not None or not is_tty(sys.stdin):
            return
        import termios

        with contextlib.suppress(termios.error):
            self._before = termios.tcgetattr(sys.stdin)
            flags = list(self._before)
            flags[3] &= ~termios.ECHO  # 3 is the place of the local modes
            termios.tcsetattr(sys.stdin, termios.TCSANOW, flags)

    def stop(self) -> None:
        """Turns the echo on again. Idempotent."""
        if self._before is None:
            return
        import termios

        with contextlib.suppress(termios.error, ValueError):  # the terminal went away
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)
        self._before = None
