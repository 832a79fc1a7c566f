"""Markdown on a terminal while it arrives."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.screen import FakeScreen

from smallai_assistant.cli import live_text
from smallai_assistant.cli.live_text import LiveText
from smallai_assistant.cli.markdown import render
from smallai_assistant.cli.render import AnswerPrinter, Screen
from smallai_assistant.types import LabelPart, TextPart

ANSWER = """\
Here is a **function** that counts words, with a sentence that is long enough to be wrapped.

1. Open the file.
2. Count the words of every line, and forget the rest of it.

```python
def count(path):
    with open(path) as file:
        return sum(len(line.split()) for line in file)
```

| word | n |
|------|--:|
| the  | 12 |
| a longer cell | 3 |

The end.
"""


def show(screen: FakeScreen, pieces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows the pieces one after the other; with a clock that stands still, each is drawn."""
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(live_text, "window", lambda: os.terminal_size((screen.columns, screen.lines)))
    live = LiveText(clock=lambda: 0.0)
    for piece in pieces:
        live.add(piece)
    live.finish()
    live.finish()


def rendered(text: str, columns: int) -> str:
    """What is on the screen if the whole text comes at once."""
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(line.text for line in render(text, columns - 1)))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_pieces_make_no_difference(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(40, 24)
    show(screen, [ANSWER[i : i + size] for i in range(0, len(ANSWER), size)], monkeypatch)
    assert screen.text == rendered(ANSWER, 40)
    assert screen.rows[-1] == ""  # the cursor is on a new line


def test_an_answer_taller_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "```python\n" + "".join(f"line_{n} = {n}\n" for n in range(50)) + "```\n\nDone."
    screen = FakeScreen(40, 10)
    show(screen, list(code), monkeypatch)
    assert screen.text == rendered(code, 40)


def test_only_lines_that_change_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule below a code block moves down with each line; the code above it is not drawn again."""
    lines = [f"line_{n} = {n}\n" for n in range(20)]
    screen = FakeScreen(40, 40)
    show(screen, ["```python\n", *lines, "```\n"], monkeypatch)
    assert screen.n_rewritten <= len(lines) + 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \n-#`1.|"), max_size=8), max_size=12))
def test_any_pieces_end_as_the_whole(pieces: list[str]) -> None:
    screen = FakeScreen(20, 30)
    with pytest.MonkeyPatch.context() as monkeypatch:
        show(screen, pieces, monkeypatch)
    # Spacing between blocks may differ if a block turns out to be empty.
    assert [row for row in screen.text.splitlines() if row] == [
        row for row in rendered("".join(pieces), 20).splitlines() if row
    ]


def test_a_slow_drawing_makes_way_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing that takes a second is followed by four seconds of rest, then comes what arrived meanwhile."""
    screen = FakeScreen(40, 24)
    monkeypatch.setattr(sys, "stdout", screen)
    times = iter([0.0, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0])
    timers: list[tuple[float, Callable[[], None]]] = []
    cancelled: list[int] = []

    def start_timer(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        timers.append((seconds, call))
        return lambda: cancelled.append(len(timers))

    live = LiveText(clock=lambda: next(times), start_timer=start_timer)
    for word in ("one ", "two ", "three "):
        live.add(word)
        assert screen.text == "one"
    ((seconds, draw),) = timers
    assert seconds == 3.0
    draw()
    assert screen.text == "one two three"
    live.add("four")
    live.finish()
    draw()  # a timer that comes too late
    assert screen.text == "one two three four"
    assert cancelled == []


def test_the_end_cancels_a_waiting_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(40, 24)
    monkeypatch.setattr(sys, "stdout", screen)
    times = iter([0.0, 1.0, 2.0])
    cancelled: list[bool] = []
    live = LiveText(clock=lambda: next(times), start_timer=lambda seconds, call: lambda: cancelled.append(True))
    live.add("one ")
    live.add("two")
    live.finish()
    live.finish()
    assert screen.text == "one two"
    assert cancelled == [True]


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_text_is_raw_without_styles(
    variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv(*variable)
    printer = AnswerPrinter(Screen())
    printer.show(TextPart("**a**"))
    printer.finish()
    assert capsys.readouterr().out == "**a**\n"


def test_text_on_a_terminal_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(80, 24)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    printer = AnswerPrinter(Screen())
    printer.show(TextPart("**It** is\x1b[2J a"))
    printer.show(LabelPart("cat", 0, 0.5))
    printer.show(TextPart("*cat*."))
    printer.finish()
    first, second, third = screen.text.splitlines()
    assert (first, third) == ("It is[2J a", "cat.")
    assert second.startswith("  cat")
