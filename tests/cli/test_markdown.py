"""Markdown as lines for a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallai_assistant.cli.markdown import render, start_of_last_block, without_undecided_line

MARKUP = st.text(st.sampled_from("ab \n-*_`#>|1.:[]()~&;=\\<\t"), max_size=60)


def shown(text: str, width: int = 40) -> list[str]:
    """The rendered lines without their styles."""
    return [re.sub(r"\x1b\[[\d;]*m", "", line.text) for line in render(text, width)]


def test_words_are_not_broken_at_the_edge() -> None:
    lines = shown("one two three four five six seven eight nine ten", 14)
    assert lines == ["one two three", "four five six", "seven eight", "nine ten"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("**bold** and `code`", ["bold and code"]),
        ("# Title\n\ntext", ["Title", "", "text"]),
        ("- one\n- two", [" • one", " • two"]),
        ("9. nine\n10. ten", [" 9. nine", "10. ten"]),
        ("1984. It was cold.", ["1984. It was cold."]),
        ("> said", ["▌ said"]),
        ("Roses are red\nViolets are blue", ["Roses are red", "Violets are blue"]),
        ("```python\nx = 1\n\n  y\n```", ["─── python", "x = 1", "", "  y", "───"]),
        ("```\nplain", ["───", "plain", "───"]),
        ("|a|b|\n|-|-|\n|1|2|", ["a  b", "────", "1  2"]),
        ("<div>hi</div>", ["<div>hi</div>"]),
        ("[text](https://example.org)", ["text (https://example.org)"]),
        ("![cat](cat.png)", ["!cat (cat.png)"]),
        ("[name]: https://example.org", ["[name]: https://example.org"]),
        ("", []),
    ],
)
def test_render(text: str, lines: list[str]) -> None:
    assert shown(text) == lines


def test_code_is_highlighted_and_words_have_styles() -> None:
    (line,) = render("a **b**", 40)
    assert line.text == "a \x1b[1mb\x1b[0m"
    assert line.n_cells == 3
    code = render("```python\ndef f(): return 1\n```", 40)[1].text
    assert len(set(re.findall(r"\x1b\[[\d;]+m", code))) > 2


@given(st.text() | MARKUP)
def test_nothing_commands_the_terminal(text: str) -> None:
    for line in render(text, 20):
        bare = re.sub(r"\x1b\[[\d;]*m", "", line.text)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", bare)
        assert line.n_cells <= 20


def test_entities_cannot_smuggle_control_characters() -> None:
    (line,) = shown("a&#x1b;[2J&#x202e;b")
    assert "\x1b" not in line
    assert "\u202e" not in line


@given(MARKUP)
def test_no_word_is_lost(text: str) -> None:
    letters = re.sub(r"[^ab]", "", text)
    # The first line of a code block names a language, which need not be shown as it is.
    if "```" not in text and "~~~" not in text:
        assert sorted(re.sub(r"[^ab]", "", "".join(shown(text, 30)))) == sorted(letters)


@given(MARKUP, MARKUP)
def test_finished_blocks_stay_as_they_are(text: str, more: str) -> None:
    start = start_of_last_block(text)
    assert 0 <= start <= len(text)
    whole = "\n".join(filter(None, shown(text + more)))
    assert whole.startswith("\n".join(filter(None, shown(text[:start]))))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("one", 0),
        ("one\n\ntwo", 0),  # "two" may become anything
        ("one\n\ntwo\n", 5),
        ("- one\n\n- two\n", 0),
        ("one\n#", 0),
        ("```\na\n\nb\n", 0),
        ("```\na\n```\nb\n", 10),
    ],
)
def test_start_of_last_block(text: str, start: int) -> None:
    assert start_of_last_block(text) == start


@pytest.mark.parametrize(
    ("text", "decided"),
    [
        ("one\n-", "one"),
        ("one\n- ", "one"),
        ("one\n12.", "one"),
        ("```", ""),
        ("a - b -", "a - b -"),
        ("one\n-x", "one\n-x"),
    ],
)
def test_undecided_lines_wait(text: str, decided: str) -> None:
    assert without_undecided_line(text) == decided
