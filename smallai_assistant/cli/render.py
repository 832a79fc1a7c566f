"""What appears on the screen: text, JSON lines, notes, errors, bars, progress."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from smallai_assistant.types import ItemPart, LabelPart, Notice, Part, SegmentPart, TextPart

if TYPE_CHECKING:
    from rich.progress import Progress

# What a terminal would obey: a text, a label or a file name must not move the cursor or set the title.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_FIGURE = re.compile(r"[-+]?\d[\d,.]*( ?(%|B|kB|MB|GB|s))?$|-$")
_BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def plain(text: str) -> str:
    """`text` without control characters, which a terminal would obey; line ends and tabs stay."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


class Screen:
    """Standard output for answers, standard error for the rest."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError):  # a test's or an embedder's own stream
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        self._progress: Progress | None = None
        self._bars: dict[str, Any] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()

    @property
    def is_terminal(self) -> bool:
        """Whether a person types and reads here."""
        return _is_tty(sys.stdin) and _is_tty(sys.stdout)

    @property
    def width(self) -> int:
        """Columns, at least 20."""
        return max(20, shutil.get_terminal_size((80, 24)).columns)

    def out(self, text: str, *, end: str = "\n") -> None:
        """Prints to standard output at once."""
        print(_encodable(plain(text), sys.stdout), end=end, flush=True)

    def json(self, value: Any) -> None:
        """Prints one object as one line; ASCII escapes, so that any text survives any terminal."""
        print(json.dumps(value), flush=True)

    def note(self, text: str) -> None:
        """Prints a remark to standard error, dim where that can be shown."""
        self._err(f"\x1b[2m{_one_line(text)}\x1b[0m" if _has_style(sys.stderr) else _one_line(text))

    def notices(self, notices: Iterable[Notice], *, once: bool = False) -> None:
        """Prints what the user should know about an answer.

        Args:
            once: leave out what was printed before, as where many files share one remark.
        """
        for notice in notices:
            if not (once and notice.text in self._told):
                self.note(f"note: {notice.text}")
            self._told.add(notice.text)

    def error(self, text: str) -> None:
        """Prints an error as one line to standard error."""
        self._err(f"error: {_one_line(text)}")

    def bold(self, text: str) -> str:
        """`text` for a heading on standard output."""
        return f"\x1b[1m{plain(text)}\x1b[0m" if _has_style(sys.stdout) else plain(text)

    def heading(self, text: str) -> None:
        """Prints a heading."""
        print(_encodable(self.bold(text), sys.stdout), flush=True)

    def bars(self, rows: Sequence[tuple[str, float]], *, indent: str = "  ") -> None:
        """Prints shares as a bar chart.

        Args:
            rows: name and value in [0, 1].
        """
        if not rows:
            return
        room = max(4, min(_BAR_CELLS, self.width // 3))
        names = [_shortened(plain(name).strip() or "-", self.width - room - 12) for name, _ in rows]
        column = max(map(len, names))
        for name, (_, value) in zip(names, rows, strict=True):
            bar = _bar(value, room, solid=_encodable("█", sys.stdout) == "█")
            self.out(f"{indent}{name:<{column}}  {value:6.1%}  {bar}".rstrip())

    def items(self, items: Sequence[ItemPart]) -> None:
        """Prints recommended items as a numbered list, each with its why."""
        for number, item in enumerate(items, 1):
            self.out(f"{number:>3}. {_one_line(item.title)}")
            if item.why:
                indent = " " * min(5, self.width // 5)
                self.out(
                    textwrap.fill(_one_line(item.why), self.width, initial_indent=indent, subsequent_indent=indent)
                )

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "  ") -> None:
        """Prints rows under a header, figures to the right; where it is too wide, each cell with its header."""
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
        """Shows how far something is, on a terminal only; several may run at once.

        Args:
            key: which bar.
            fraction: in [0, 1]; at 1 it is done, and when all are done the bars go away.
            label: what is being done right now; the key where empty.
        """
        if not _is_tty(sys.stderr) or os.environ.get("TERM") == "dumb":
            return
        with self._lock:
            bar = self._bars.get(key)
            if bar is None and fraction >= 1.0:
                return
            if self._progress is None:
                self._progress = _new_progress()
            label = _shortened(plain(label or key), max(10, self.width - 26))
            if bar is None:
                bar = self._bars[key] = self._progress.add_task(label, total=1.0)
            self._progress.update(bar, description=label, completed=min(1.0, max(0.0, fraction)))
            if self._progress.finished:
                self._stop_progress()

    def loading(self, what: str, fraction: float) -> None:
        """Shows how far the loading of a model is; the stages of one load share a bar."""
        self.progress("model", fraction, label=what)

    def end_progress(self) -> None:
        """Takes the progress bars away."""
        with self._lock:
            self._stop_progress()

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._bars.clear()

    def _err(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        with contextlib.suppress(BrokenPipeError, ValueError):
            print(_encodable(line, sys.stderr), file=sys.stderr, flush=True)


class AnswerPrinter:
    """Prints the parts of one answer as they come: text at once, labels and items when they are complete."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._labels: list[LabelPart] = []
        self._items: list[ItemPart] = []
        self._segments: list[SegmentPart] = []
        self._has_text = False
        self._is_in_line = False

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
        """Ends the line and prints what was kept. Twice is once."""
        self._screen.end_progress()
        if self._segments and not self._has_text:
            self._screen.out(" ".join(segment.text.strip() for segment in self._segments))
        self._segments.clear()
        self._flush_lists()
        self._end_line()

    def _show_text(self, text: str) -> None:
        self._flush_lists()
        self._screen.end_progress()
        text = text if self._has_text else text.lstrip("\n")
        if text:
            self._has_text = True
            self._is_in_line = not text.endswith("\n")
            self._screen.out(text, end="")

    def _flush_lists(self) -> None:
        if self._labels:
            self._end_line()
            self._screen.bars([(label.label, label.score) for label in self._labels])
            self._labels.clear()
        if self._items:
            self._end_line()
            self._screen.items(self._items)
            self._items.clear()

    def _end_line(self) -> None:
        if self._is_in_line:
            self._screen.out("")
            self._is_in_line = False


def count(n: int, noun: str) -> str:
    """`1 turn`, `2,000 turns`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size(n_bytes: float) -> str:
    """Bytes for people: `98 MB`."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def notices_json(notices: Iterable[Notice]) -> list[dict[str, str]]:
    """Notices for `--json`."""
    return [{"code": notice.code, "text": notice.text} for notice in notices]


def _new_progress() -> Progress:
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
    if not solid:
        return "#" * round(eighths / 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _shortened(text: str, width: int) -> str:
    width = max(6, width)
    return text if len(text) <= width else text[: width - 3] + "..."


def _one_line(text: str) -> str:
    return " ".join(plain(text).split())


def _encodable(text: str, stream: TextIO) -> str:
    """`text` with what the stream's encoding lacks as `?`, for streams that cannot be told to do so themselves."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding, "replace")


def _is_tty(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _has_style(stream: Any) -> bool:
    return _is_tty(stream) and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
