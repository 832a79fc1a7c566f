"""Markdown on a terminal while it arrives."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from smallai_assistant.cli.markdown import Line, render, start_of_last_block, without_undecided_line
from smallai_assistant.cli.streams import write
from smallai_assistant.cli.terminal import SilentKeyboard, plain, window

# Drawing takes at most a fifth of the time. It runs on the thread that waits for the model, and Python runs one thread
# at a time: a long code block, highlighted for every token, would slow down the model.
_REST_FOR_EACH_DRAWING = 4.0


def _start_timer(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    timer = threading.Timer(seconds, call)
    timer.daemon = True  # the program may end meanwhile
    timer.start()
    return timer.cancel


class LiveText:
    """Shows Markdown while it arrives.

    Finished blocks are written once and never touched again. The last block is drawn again as it grows, and of it only
    the lines that changed, so that nothing flickers.

    Args:
        clock: gives seconds; a test passes one that stands still, to see every drawing.
        start_timer: calls a function after some seconds, and returns a function that prevents the call.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        start_timer: Callable[[float, Callable[[], None]], Callable[[], None]] = _start_timer,
    ) -> None:
        self._clock = clock
        self._start_timer = start_timer
        self._cancel_timer: Callable[[], None] | None = None
        self._lock = threading.Lock()  # the timer draws on a thread of its own
        self._text = ""  # of the blocks that are not finished
        self._region = _Region()
        self._has_blocks = False
        self._next_drawing_at = float("-inf")
        self._keyboard = SilentKeyboard()

    def add(self, text: str) -> None:
        """Shows more of the text."""
        self._keyboard.start()
        with self._lock:
            self._text += plain(text)
            # A block can only be finished by the end of a line; without one, there is nothing to parse.
            if "\n" in text and (start := start_of_last_block(self._text)):
                self._draw(self._text[:start])
                self._close_blocks()
                self._text = self._text[start:]
            self._draw_if_rested()

    def finish(self) -> None:
        """Shows all that was added, and leaves the cursor at the start of a new line. Idempotent."""
        try:
            with self._lock:
                if self._cancel_timer is not None:
                    self._cancel_timer()
                    self._cancel_timer = None
                self._draw(self._text)
                self._close_blocks()
                self._text, self._has_blocks = "", False
        finally:
            self._keyboard.stop()

    def _draw_if_rested(self) -> None:
        """Draws the last block, now or after the rest. If the model pauses, nothing that was added stays hidden."""
        begin = self._clock()
        if begin >= self._next_drawing_at:
            self._draw(without_undecided_line(self._text))
            end = self._clock()
            self._next_drawing_at = end + _REST_FOR_EACH_DRAWING * (end - begin)
        elif self._cancel_timer is None:
            self._cancel_timer = self._start_timer(self._next_drawing_at - begin, self._draw_after_rest)

    def _draw_after_rest(self) -> None:
        # The terminal may have gone away; the thread that adds the text finds out and reports it.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._cancel_timer is not None:
                self._cancel_timer = None
                self._draw_if_rested()

    def _draw(self, text: str) -> None:
        # The last column stays free: a character that a terminal draws wider than it is counted must not wrap.
        lines = render(text, max(10, window().columns - 1))
        # An empty line separates the blocks; it belongs to the later one, which may turn out to be empty.
        self._region.draw([Line("", 0), *lines] if lines and self._has_blocks else lines)

    def _close_blocks(self) -> None:
        self._has_blocks |= self._region.close()


class _Region:
    """The lines at the bottom of the window that can still be drawn again. The cursor stands below them."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._n_frozen = 0  # lines of this block above the region

    def draw(self, lines: Sequence[Line]) -> None:
        """Replaces the lines. Those that left the top of the window cannot be reached and stay as they were drawn."""
        lines = list(lines[self._n_frozen :])
        n_same = 0
        for old, new in zip(self._lines, lines, strict=False):
            if old != new:
                break
            n_same += 1
        if n_same == len(self._lines) == len(lines):
            return
        size = window()
        # After a change of the window's width, the terminal has wrapped the old lines at the new one.
        n_up = sum(max(1, -(-line.n_cells // size.columns)) for line in self._lines[n_same:])
        # A line is written over the old one and then its rest is erased: to erase first would flicker.
        out = [f"\x1b[{n_up}A\r" if n_up else "", *(f"{line.text}\x1b[K\n" for line in lines[n_same:])]
        out.append("\x1b[J" if len(lines) < len(self._lines) else "")
        write("".join(out))
        # The cursor's own line takes one row of the window.
        n_reachable = max(1, size.lines - 1)
        self._n_frozen += max(0, len(lines) - n_reachable)
        self._lines = lines[-n_reachable:]

    def close(self) -> bool:
        """Leaves the lines on the screen for good. Returns whether there were any."""
        had_lines = bool(self._lines)
        self._lines, self._n_frozen = [], 0
        return had_lines
