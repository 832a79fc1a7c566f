"""Markdown as lines for a terminal: wrapped at words, with styles, and free of control characters."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from rich import markdown
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from smallai_assistant.cli.terminal import plain

# The beginning of a last line that may become markup: "-" of a list item would make a heading of the line above.
_UNDECIDED = re.compile(r"(?:^|\n)[ \t]*(?:[-=+*#>`~_|:]+|\d{1,9}[.)]?)[ \t]*$")
# rich writes inline code on black, which is hard to read on a light background.
_THEME = Theme({"markdown.code": "bold cyan", "markdown.h1": "bold underline", "markdown.h2": "bold"})
_TAB = " " * 4


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it is written to the terminal.

    Attributes:
        text: with the escape sequences of its styles; complete in itself.
        n_cells: the columns that it takes.
    """

    text: str
    n_cells: int


def render(text: str, width: int) -> list[Line]:
    """Renders Markdown to lines of at most `width` columns, without empty lines at either end."""
    options = _console().options.update(width=width, height=None)
    segments = [segment for segment in _console().render(_Answer(text), options) if not segment.control]
    # The text is cleaned here, behind the parser, because entities such as `&#x202e;` become characters there.
    segments = [Segment(plain(segment.text).replace("\t", _TAB), segment.style) for segment in segments]
    lines = [_line(row) for row in Segment.split_lines(segments)]
    while lines and not lines[0].n_cells:
        del lines[0]
    while lines and not lines[-1].n_cells:
        del lines[-1]
    return lines


def start_of_last_block(text: str) -> int:
    """Finds where the last block begins that may still change: a paragraph, a list, a table, a code block.

    Blocks before it are finished, whatever follows. Only complete lines count as evidence for a new block: a line that
    so far is "#" may become a heading or a word.
    """
    complete = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in _parser().parse(complete) if token.level == 0 and token.map]
    if not starts or starts[-1] == starts[0]:
        return 0
    return sum(len(line) for line in complete.splitlines(keepends=True)[: starts[-1]])


def without_undecided_line(text: str) -> str:
    """`text` without a last line that may become markup with the next character, so that it does not flicker."""
    return _UNDECIDED.sub("", text)


@cache
def _console() -> Console:
    # rich's own output goes nowhere: the lines are written by whoever asks for them. 16 colours, because those are the
    # ones that a terminal's user has chosen to be readable.
    return Console(file=io.StringIO(), force_terminal=True, color_system="standard", theme=_THEME, highlight=False)


@cache
def _parser() -> MarkdownIt:
    # rich shows neither HTML nor link definitions, and a picture's name at the wrong place; as text they stay readable.
    shown_as_text = ["html_block", "html_inline", "reference", "image"]
    return MarkdownIt().enable(["strikethrough", "table"]).disable(shown_as_text)


def _line(segments: list[Segment]) -> Line:
    """One line of segments; spaces at its end are removed, so that they are not copied with the text."""
    while segments and not segments[-1].text.strip(" "):
        segments = segments[:-1]
    if segments:
        segments = [*segments[:-1], Segment(segments[-1].text.rstrip(" "), segments[-1].style)]
    text = "".join(
        segment.style.render(segment.text, color_system=ColorSystem.STANDARD) if segment.style else segment.text
        for segment in segments
    )
    return Line(text, Segment.get_line_length(segments))


class _Heading(markdown.Heading):
    """A heading at the left; rich centres those of the first level, or puts them into a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text.copy()
        text.justify = "left"
        yield text


class _CodeBlock(markdown.CodeBlock):
    """Highlighted code between two short rules. It has no margin and no background, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        language = "" if self.lexer_name == "text" else f" {self.lexer_name}"
        yield Text(f"───{language}", style="dim", overflow="ellipsis", no_wrap=True)
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, background_color="default")
        yield Text("───", style="dim")


class _Table(markdown.TableElement):
    """A table without the empty lines above and below it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                table.show_edge = False
            yield table


class _ListItem(markdown.ListItem):
    """An item whose number keeps its dot: a paragraph that begins with "1984." reads as it was written."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        n_columns = len(str(last_number)) + 2
        rows = console.render_lines(self.elements, options.update(width=max(1, options.max_width - n_columns)))
        style = console.get_style("markdown.item.number", default="none")
        for position, row in enumerate(rows):
            head = f"{number}. ".rjust(n_columns) if position == 0 else " " * n_columns
            yield Segment(head, style)
            yield from row
            yield Segment.line()


class _Answer(markdown.Markdown):
    """Markdown as chat models write it: a single line end stays a line end, as in a poem."""

    elements = {  # noqa: RUF012  (the base class declares it)
        **markdown.Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "list_item_open": _ListItem,
        "table_open": _Table,
    }

    def __init__(self, text: str) -> None:
        # A hyperlink could show one address and open another; without, the address stands behind the text.
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = _parser().parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"
