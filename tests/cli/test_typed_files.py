"""The files that a line of the chat names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallai_assistant.cli.typed_files import TypedMessage, find_files, lone_path, split_path

PICTURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    [
        ("a.png", "a.png", ""),
        ("a.png what's this?", "a.png", "what's this?"),
        ("'b c.png' what?", "b c.png", "what?"),
        ('"b c.png"', "b c.png", ""),
        (r"b\ c.png what?", "b c.png", "what?"),
        ("b c.png what?", "b c.png", "what?"),
        ("b c.png", "b c.png", ""),
        ("it's.png and", "it's.png", "and"),
        ("none.png x y", "none.png", "x y"),
        ("~/a.png hm", str(Path("~/a.png").expanduser()), "hm"),
    ],
)
def test_split_path(text: str, name: str, rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.png", "b c.png", "it's.png"):
        (tmp_path / file).write_bytes(b"")
    assert split_path(text, usage="") == (Path(name), rest)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, and the home, with pictures, a recording and a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("cat.jpg", "my cat.jpg", "it's.png", "my"):
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "memo.wav").write_bytes(b"RIFF0000WAVE")
    (tmp_path / "notes.txt").write_text("notes")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "text", "names"),
    [
        ("./cat.jpg", "", ["cat.jpg"]),
        ("cat.jpg", "", ["cat.jpg"]),
        ("what is on ./cat.jpg", "what is on", ["cat.jpg"]),
        ("what is on ./cat.jpg?", "what is on?", ["cat.jpg"]),
        ("What is this? ~/cat.jpg", "What is this?", ["cat.jpg"]),
        ("{folder}/cat.jpg and {folder}/memo.wav", "and", ["cat.jpg", "memo.wav"]),
        ("'my cat.jpg' please", "please", ["my cat.jpg"]),
        ('describe "{folder}/my cat.jpg".', "describe.", ["my cat.jpg"]),
        (r"describe {folder}/my\ cat.jpg now", "describe now", ["my cat.jpg"]),
        ("describe {folder}/my cat.jpg now", "describe now", ["my cat.jpg"]),
        (r"'{folder}/it'\''s.png'", "", ["it's.png"]),
        ("./it's.png isn't it?", "isn't it?", ["it's.png"]),
        ("file://{folder}/my%20cat.jpg", "", ["my cat.jpg"]),
        ("first line\n./cat.jpg\nlast line", "first line\n\nlast line", ["cat.jpg"]),
        ("don't look at ./notes.txt", "don't look at ./notes.txt", []),
        ("./none.jpg", "./none.jpg", []),
        ("a 'quote that is not closed ./cat.jpg", "a 'quote that is not closed", ["cat.jpg"]),
        ("my cat", "my cat", []),
        ("https://example.org/cat.jpg", "https://example.org/cat.jpg", []),
        ("~nobody-here/cat.jpg / ./ .. /\0", "~nobody-here/cat.jpg / ./ .. /\0", []),
    ],
)
def test_find_files(folder: Path, line: str, text: str, names: list[str]) -> None:
    found = find_files(line.format(folder=folder))
    assert found.text == text
    assert [Path(part.name).name for part in found.files] == names


@given(st.text())
def test_text_without_files_stays_as_it_is(text: str) -> None:
    assert find_files(text) == TypedMessage(text.strip(), ())


def test_a_long_text_costs_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    monkeypatch.setattr(Path, "is_file", lambda path: bool(looks.append(path)))
    text = "see /a/b 'x y.png " * 50_000
    assert find_files(text).text == text.strip()
    assert len(looks) < 10_000


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("/tmp/none.png", "/tmp/none.png"),
        ("'./my cat.jpg'", "my cat.jpg"),
        (r"/tmp/my\ cat.jpg", "/tmp/my cat.jpg"),
        ("file:///tmp/my%20cat.jpg", "/tmp/my cat.jpg"),
        ("/tmp/none.png please", None),
        ("Node.js", None),
        ("it's", None),
        ("", None),
    ],
)
def test_lone_path(line: str, path: str | None) -> None:
    assert lone_path(line) == (None if path is None else Path(path))
