"""Prints to the screen: text, JSON lines, notes, errors, bar charts, tables, progress bars, and answers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import textwrap
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.streams import encodable, out, write
from smallai_assistant.cli.terminal import has_style, is_tty, plain, window
from smallai_assistant.types import ItemPart, LabelPart, Notice, Part, SegmentPart, TextPart

if TYPE_CHECKING:
    from rich.progress import Progress

    from smallai_assistant.cli.live_text import LiveText

# A cell of a table that is set to the right: a number, perhaps with a sign or a unit, or the mark for "none".
_FIGURE = re.compile(r"[-+]?\d[\d,.]*( ?(%|B|kB|MB|GB|s))?$|-$")
_BAR_CELLS = 24  # a longer bar is not easier to read, and leaves the labels less room
_MIN_WIDTH = 20  # in a narrower window, lines wrap instead
# The blocks of Unicode that fill an eighth, two eighths ... of a cell; with them a bar shows differences below 1 %.
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Screen:
    """Prints answers to standard output, and notes, errors and progress to standard error."""

    def __init__(self) -> None:
        for stream in (out(), sys.stderr):
            with contextlib.suppress(AttributeError, ValueError):  # a test's or an embedder's own stream
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        self._progress: Progress | None = None
        self._bars: dict[str, Any] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()

    @property
    def is_terminal(self) -> bool:
        """Whether a person types and reads here."""
        return is_tty(sys.stdin) and is_tty(out())

    @property
    def shows_markdown(self) -> bool:
        """Whether answers are rendered; if not, their text is printed exactly as it comes."""
        # An encoding without the marks of lists and rules would show them as question marks.
        return has_style(out()) and (out().encoding or "").lower().startswith("utf")

    @property
    def width(self) -> int:
        """Columns of the window, at least 20."""
        return max(_MIN_WIDTH, window().columns)

    def out(self, text: str, *, end: str = "\n") -> None:
        """Prints to standard output, without a delay."""
        write(f"{plain(text)}{end}")

    def json(self, value: Any) -> None:
        """Prints an object as one line of JSON."""
        # With ASCII escapes, any text survives any terminal, and no control character gets through.
        write(f"{json.dumps(value)}\n")

    def note(self, text: str) -> None:
        """Prints a remark to standard error, dim if the terminal can show it."""
        self._err(f"\x1b[2m{_one_line(text)}\x1b[0m" if has_style(sys.stderr) else _one_line(text))

    def notices(self, notices: Iterable[Notice], *, once: bool = False) -> None:
        """Prints the notices of an answer.

        Args:
            once: leave out notices that were printed before, for a command that takes many files. Those about a plugin
                are always left out then, because each command names its plugins' faults at its beginning.
        """
        for notice in notices:
            if not ((once or notice.code == "plugin_skipped") and notice.text in self._told):
                self.note(f"note: {notice.text}")
            self._told.add(notice.text)

    def error(self, text: str) -> None:
        """Prints an error to standard error, as one line."""
        self._err(f"error: {_one_line(text)}")

    def bold(self, text: str) -> str:
        """`text` in bold, if standard output can show it."""
        return f"\x1b[1m{plain(text)}\x1b[0m" if has_style(out()) else plain(text)

    def heading(self, text: str) -> None:
        """Prints a heading."""
        write(f"{self.bold(text)}\n")

    def bars(self, rows: Sequence[tuple[str, float]], *, indent: str = "  ") -> None:
        """Prints shares as a bar chart.

        Args:
            rows: name and value in [0, 1].
        """
        if not rows:
            return
        # 12 columns take the indent, the spaces and the percentage.
        room = max(4, min(_BAR_CELLS, self.width // 3))
        names = [_shortened(plain(name).strip() or "-", self.width - room - 12) for name, _ in rows]
        column = max(map(len, names))
        for name, (_, value) in zip(names, rows, strict=True):
            bar = _bar(value, room, solid=encodable("█", out()) == "█")
            self.out(f"{indent}{name:<{column}}  {value:6.1%}  {bar}".rstrip())

    def items(self, items: Sequence[ItemPart]) -> None:
        """Prints recommended items as a numbered list, each with its reason."""
        for number, item in enumerate(items, 1):
            self.out(f"{number:>3}. {_one_line(item.title)}")
            if item.why:
                indent = " " * min(5, self.width // 5)  # 5 is the width of "  1. "
                self.out(
                    textwrap.fill(_one_line(item.why), self.width, initial_indent=indent, subsequent_indent=indent)
                )

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "  ") -> None:
        """Prints rows under a header, with figures at the right of their column.

        A table that is wider than the window is printed as lines, with the header's name before each cell.
        """
        if not rows:
            return
        lines = [[_one_line(cell) or "-" for cell in row] for row in (header, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        if len(indent) + sum(widths) + 2 * (len(widths) - 1) > self.width:
            for row in lines[1:]:
                self.out(indent + ", ".join(f"{name} {cell}" for name, cell in zip(lines[0], row, strict=True)))
            return
        to_the_right = [all(_FIGURE.match(row[at]) for row in lines[1:]) for at in range(len(widths))]
        for row in lines:
            cells = zip(row, widths, to_the_right, strict=True)
            line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells)
            self.out(f"{indent}{line}".rstrip())

    def progress(self, key: str, fraction: float, *, label: str = "") -> None:
        """Shows a progress bar, on a terminal only. Several bars may be shown at the same time.

        Args:
            key: names the bar.
            fraction: in [0, 1]. A bar at 1 is complete; if all are complete, they are removed.
            label: what is being done; the key if empty.
        """
        if not is_tty(sys.stderr) or os.environ.get("TERM") == "dumb":
            return
        # Models load on threads of their own.
        with self._lock:
            bar = self._bars.get(key)
            if bar is None and fraction >= 1.0:
                return  # the work was so short that a bar would only flash
            if self._progress is None:
                self._progress = _new_progress()
            # 26 columns take the bar, the percentage and the spaces between.
            label = _shortened(plain(label or key), max(10, self.width - 26))
            if bar is None:
                bar = self._bars[key] = self._progress.add_task(label, total=1.0)
            self._progress.update(bar, description=label, completed=min(1.0, max(0.0, fraction)))
            if self._progress.finished:
                self._stop_progress()

    def loading(self, what: str, fraction: float) -> None:
        """Shows the progress of loading a model; all stages of loading share one bar."""
        self.progress("model", fraction, label=what)

    def end_progress(self) -> None:
        """Removes the progress bars. Idempotent."""
        with self._lock:
            self._stop_progress()

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._bars.clear()

    def _err(self, line: str) -> None:
        # The two streams may be the same terminal: text that waits in the buffer belongs above the line.
        with contextlib.suppress(OSError, ValueError):
            out().flush()
        with contextlib.suppress(OSError, ValueError):  # nobody can be told that standard error is full
            print(encodable(line, sys.stderr), file=sys.stderr, flush=True)


class AnswerPrinter:
    """Prints the parts of one answer as they arrive. Labels, items and segments are printed when they are complete.

    On a terminal, text is rendered as Markdown; otherwise it is printed exactly as it comes.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._labels: list[LabelPart] = []
        self._items: list[ItemPart] = []
        self._segments: list[SegmentPart] = []
        self._has_text = False
        self._is_in_line = False
        self._live: LiveText | None = None

    def show(self, part: Part) -> None:
        """Prints a part, or keeps it for the end."""
        match part:
            case LabelPart():
                self._labels.append(part)
            case ItemPart():
                self._items.append(part)
            case SegmentPart():
                self._segments.append(part)
            case TextPart(text):
                self._show_text(text)

    def finish(self) -> None:
        """Prints the parts that were kept, and ends the line. Idempotent."""
        self._screen.end_progress()
        self._end_line()
        # The segments of a recording repeat its text; they are printed only if a task gave no text.
        if self._segments and not self._has_text:
            self._screen.out(" ".join(segment.text.strip() for segment in self._segments))
        self._segments.clear()
        self._print_lists()

    def _show_text(self, text: str) -> None:
        # A task that shows labels and then says a sentence about them sends the labels first.
        self._print_lists()
        self._screen.end_progress()
        # Some chat models begin with empty lines.
        text = text if self._has_text else text.lstrip("\n")
        if not text:
            return
        self._has_text = True
        if self._screen.shows_markdown:
            # rich is imported only if it is needed: it takes a tenth of a second.
            from smallai_assistant.cli.live_text import LiveText

            self._live = self._live or LiveText()
            self._live.add(text)
        else:
            self._is_in_line = not text.endswith("\n")
            self._screen.out(text, end="")

    def _print_lists(self) -> None:
        if self._labels:
            self._end_line()
            self._screen.bars([(label.label, label.score) for label in self._labels])
            self._labels.clear()
        if self._items:
            self._end_line()
            self._screen.items(self._items)
            self._items.clear()

    def _end_line(self) -> None:
        if self._live is not None:
            self._live.finish()
        if self._is_in_line:
            self._screen.out("")
            self._is_in_line = False


def count(n: int, noun: str) -> str:
    """A number with its noun: `1 turn`, `2,000 turns`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size(n_bytes: float) -> str:
    """A number of bytes for people: `98 MB`."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def notices_json(notices: Iterable[Notice]) -> list[dict[str, str]]:
    """Notices as objects for `--json`."""
    return [{"code": notice.code, "text": notice.text} for notice in notices]


def _new_progress() -> Progress:
    # Only commands that load a model need rich.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=14),
        TaskProgressColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    progress.start()
    return progress


def _bar(value: float, cells: int, *, solid: bool) -> str:
    eighths = round(min(1.0, max(0.0, value)) * cells * 8)
    if not solid:  # the stream's encoding has no blocks
        return "#" * round(eighths / 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _shortened(text: str, width: int) -> str:
    width = max(6, width)
    return text if len(text) <= width else text[: width - 3] + "..."


def _one_line(text: str) -> str:
    """`text` in one line, so that a program which reads standard error line by line gets one line for one message."""
    return " ".join(plain(text).split())
