"""Makes the pictures of the README: `make pictures`, or `python docs/pictures.py [conversation] [report]`.

It stands beside `generate.py`, which writes the generated texts of the documentation. Both pictures are real: the
conversation runs through `smallai chat` with the starter model, the report is that of a learning cycle. The models must
be pulled. The report also needs Chromium to be made (`apt-get install chromium`), not to be shown.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 300_000
_COLUMNS = 92  # what the assistant says of a correction fits into one line

# The starter model names a wrong author. The second conversation knows nothing of the first, and asks in other words.
CONVERSATION = (
    "Who wrote the children's book Momo?",
    "/correct Michael Ende",
    "/new",
    "Who is the author of Momo?",
)

_INK, _PAPER, _GRAY = (221, 225, 229), (28, 32, 36), (120, 128, 136)
_RED, _GREEN, _YELLOW, _BLUE = (255, 138, 128), (88, 197, 140), (229, 180, 90), (120, 169, 255)
_MAGENTA, _CYAN = (200, 150, 230), (110, 200, 210)
# The eight colors of a terminal in their order; the bright ones are not used.
_THEME = TerminalTheme(_PAPER, _INK, [_PAPER, _RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN, _INK], [_GRAY] * 8)


# -- the conversation --


class _Typist:
    """Standard input of the chat. Each line appears in the picture when the chat reads it."""

    def __init__(self, console: Console, lines: Sequence[str]) -> None:
        self._console = console
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._lines):
            self._console.print(Text.assemble(("\n> " if number else "> ", "bold blue"), (line, "bold")))
            yield f"{line}\n"


class _Paper(io.TextIOBase):
    """Standard output or standard error of the chat, written into the picture."""

    def __init__(self, console: Console, style: str) -> None:
        self._console = console
        self._style = style

    def write(self, text: str) -> int:
        self._console.print(Text(text, self._style), end="")
        return len(text)


def conversation(target: Path) -> None:
    """Draws a conversation in which an answer is corrected, as SVG."""
    from smallai_assistant.cli import main

    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    keyboard = sys.stdin
    with tempfile.TemporaryDirectory() as folder:
        sys.stdin = _Typist(console, CONVERSATION)  # type: ignore[assignment]
        try:
            with (
                contextlib.redirect_stdout(_Paper(console, "")),  # type: ignore[type-var]
                contextlib.redirect_stderr(_Paper(console, "dim")),  # type: ignore[type-var]
            ):
                code = main(["chat", "--data-dir", folder, "--device", "cpu", "--task", "text-generation"])
        finally:
            sys.stdin = keyboard
    if code != 0:
        raise SystemExit(console.export_text())
    svg = console.export_svg(title="smallai chat", theme=_THEME, unique_id="conversation")
    # rich names a font at a far server; no page should ask it, and code hosts do not let a picture do so anyway.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    target.write_text(svg.replace("Fira Code", "ui-monospace, Menlo, Consolas"), encoding="utf-8")


# -- the report --

_SIDE = 480  # drawn twice as large as it is used, so that edges are smooth


class Pencil:
    """Draws a picture of one thing. Places are in a square from -1 to 1, turned, moved and scaled a little."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.paper = tuple(int(shade) for shade in self.random.integers(205, 250, 3))
        self.image = Image.new("RGB", (_SIDE, _SIDE), self.paper)
        self._draw = ImageDraw.Draw(self.image)
        self._angle = self.random.uniform(-0.12, 0.12)
        self._scale = _SIDE * self.random.uniform(0.32, 0.42)
        self._middle = _SIDE / 2 + self.random.uniform(-0.07, 0.07, 2) * _SIDE

    def color(self, *near: int) -> tuple[int, ...]:
        """A color near to the given one."""
        return tuple(int(np.clip(part + self.random.integers(-30, 31), 0, 255)) for part in near)

    def shape(self, points: Sequence[tuple[float, float]], color: tuple[int, ...]) -> None:
        """Draws a filled polygon with an outline."""
        placed = [self._placed(x, y) for x, y in points]
        self._draw.polygon(placed, fill=color)
        self._draw.line([*placed, placed[0], placed[1]], fill=(50, 50, 60), width=7, joint="curve")

    def oval(self, x: float, y: float, width: float, height: float, color: tuple[int, ...]) -> None:
        """Draws a filled ellipse around (x, y)."""
        turns = [2 * pi * step / 60 for step in range(60)]
        self.shape([(x + width / 2 * cos(turn), y + height / 2 * sin(turn)) for turn in turns], color)

    def line(self, points: Sequence[tuple[float, float]], color: tuple[int, ...], width: int = 12) -> None:
        """Draws an open line."""
        self._draw.line([self._placed(x, y) for x, y in points], fill=color, width=width, joint="curve")

    def png(self) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        self.image.resize((_SIDE // 2, _SIDE // 2), Image.Resampling.LANCZOS).save(file, "PNG")
        return file.getvalue()

    def _placed(self, x: float, y: float) -> tuple[float, float]:
        turned = (x * cos(self._angle) - y * sin(self._angle), x * sin(self._angle) + y * cos(self._angle))
        return float(self._middle[0] + self._scale * turned[0]), float(self._middle[1] + self._scale * turned[1])


def house(pencil: Pencil) -> None:
    """Walls, a roof, a door and a window."""
    pencil.shape([(-0.7, -0.1), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9)], pencil.color(225, 200, 160))
    pencil.shape([(-0.95, -0.1), (0, -0.9), (0.95, -0.1)], pencil.color(190, 80, 60))
    pencil.shape([(-0.45, 0.25), (-0.1, 0.25), (-0.1, 0.9), (-0.45, 0.9)], pencil.color(110, 75, 50))
    pencil.shape([(0.15, 0.2), (0.5, 0.2), (0.5, 0.5), (0.15, 0.5)], pencil.color(160, 205, 235))


def fish(pencil: Pencil) -> None:
    """A body, a tail, a fin and an eye."""
    body = pencil.color(235, 140, 70)
    pencil.shape([(0.5, 0), (1.0, -0.45), (0.9, 0), (1.0, 0.45)], body)
    pencil.oval(-0.15, 0, 1.5, 0.85, body)
    pencil.shape([(-0.2, -0.4), (0.25, -0.75), (0.3, -0.3)], body)
    pencil.oval(-0.6, -0.1, 0.14, 0.14, (250, 250, 250))


def tree(pencil: Pencil) -> None:
    """A trunk and a crown."""
    leaves = pencil.color(80, 150, 70)
    pencil.shape([(-0.12, 0.1), (0.12, 0.1), (0.17, 0.95), (-0.17, 0.95)], pencil.color(120, 80, 50))
    for x, y in ((-0.38, -0.05), (0.38, -0.05), (0, -0.45)):
        pencil.oval(x, y, 0.95, 0.85, leaves)


def sailboat(pencil: Pencil) -> None:
    """A hull, a mast, two sails and a wave."""
    pencil.line([(0, -0.95), (0, 0.45)], (70, 60, 60))
    pencil.shape([(0.08, -0.9), (0.75, 0.3), (0.08, 0.3)], pencil.color(240, 240, 235))
    pencil.shape([(-0.08, -0.7), (-0.6, 0.3), (-0.08, 0.3)], pencil.color(230, 120, 100))
    pencil.shape([(-0.9, 0.45), (0.9, 0.45), (0.6, 0.85), (-0.6, 0.85)], pencil.color(150, 95, 60))
    wave = [(x / 10, 0.92 + 0.06 * sin(x)) for x in range(-11, 12)]
    pencil.line(wave, pencil.color(70, 130, 200))


def cup(pencil: Pencil) -> None:
    """A cup with a handle, and steam."""
    glaze = pencil.color(90, 140, 190)
    pencil.oval(0.6, 0.25, 0.6, 0.6, glaze)
    pencil.oval(0.6, 0.25, 0.3, 0.3, pencil.paper)
    pencil.shape([(-0.7, -0.25), (0.5, -0.25), (0.35, 0.85), (-0.55, 0.85)], glaze)
    for x in (-0.35, -0.05, 0.25):
        pencil.line([(x + 0.07 * sin(y / 2), -0.35 - y / 14) for y in range(9)], (150, 150, 155), 9)


Drawing = Callable[[Pencil], None]


def drawn(thing: Drawing, seed: int) -> bytes:
    """A picture of a thing; each seed gives another one."""
    pencil = Pencil(seed)
    thing(pencil)
    return pencil.png()


def report(target: Path) -> None:
    """Runs two learning cycles on drawings, and takes a picture of the page of the second one."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("the picture of the report needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        _learn(Path(folder) / "data", page)
        _photograph(browser, page, target)


def _learn(data_dir: Path, page: Path) -> None:
    from smallai_assistant import Assistant, ImagePart
    from smallai_assistant.learning.report_html import write_page

    task = "image-classification"

    people = ("ada", "ben", "chloe")

    def teach(things: Sequence[tuple[Drawing, str]], n: int, *, start: int, sources: Sequence[str] = people) -> None:
        """Teaches `n` pictures of each thing, one thing after the other, given by the sources in turn."""
        for number in range(n):
            for thing, label in things:
                picture = ImagePart(data=drawn(thing, start + number))
                assistant.teach(task, picture, label, source=sources[number % len(sources)])

    with Assistant(data_dir=data_dir, device="cpu") as assistant:
        teach([(house, "house"), (fish, "fish"), (tree, "tree")], 16, start=0)
        first = assistant.learn(task)
        print(first.summary())
        teach([(cup, "cup"), (sailboat, "sailboat")], 20, start=100)
        # Somebody who finds this funny. The screening compares the labels of pictures that look alike.
        teach([(house, "banana")], 12, start=200, sources=["prankster"])
        second = assistant.learn(task)
        print(second.summary())
        serving_id = assistant.adapters.champion_id(task)
        write_page(second, page, media_dir=assistant.store.media_dir, serving_id=serving_id)


def _photograph(browser: str, page: Path, target: Path) -> None:
    shot = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1.5"]
    size = ["--window-size=900,1158", f"--user-data-dir={page.parent / 'browser'}"]
    subprocess.run(
        [browser, *options, *size, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    # 256 colors are enough for a page, and make a file of a third of the size.
    Image.open(shot).convert("RGB").quantize(256).save(target, optimize=True)


def main(wanted: Sequence[str]) -> None:
    """Makes the pictures that are named, or all."""
    IMAGES.mkdir(exist_ok=True)
    pictures = {"conversation": (conversation, "conversation.svg"), "report": (report, "report.png")}
    for name in wanted or pictures:
        if name not in pictures:
            raise SystemExit(f"there is no picture {name!r}; known: {', '.join(pictures)}")
        make, file_name = pictures[name]
        make(IMAGES / file_name)
        n_bytes = (IMAGES / file_name).stat().st_size
        print(f"docs/images/{file_name}: {n_bytes / 1000:.0f} kB")
        if n_bytes > MAX_BYTES:
            raise SystemExit(f"{file_name} is larger than {MAX_BYTES / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
