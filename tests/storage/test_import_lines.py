"""Every import reads its lines in one way: once from outside, in bounded memory, from files and from pipes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smallai_assistant import InvalidInput
from smallai_assistant.errors import InputTooLarge
from smallai_assistant.storage import import_lines
from smallai_assistant.storage.import_lines import MAX_VALUES, ImportLines, depth, parse_object


def read(path: Path, limit: int = 1000) -> list[tuple[int, bytes]]:
    with ImportLines(path) as lines:
        return [(lines.number, line) for line in lines.full(limit)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", [(1, b"a\n"), (2, b"b\n")]),
        (b"\xef\xbb\xbfa\n\n \t\r\nb", [(1, b"a\n"), (4, b"b")]),
        (b"a\r\nb\r\n", [(1, b"a\r\n"), (2, b"b\r\n")]),
        (b"a\rb\n", [(1, b"a\rb\n")]),  # a carriage return alone ends no line
        (b"", []),
        (b"\xef\xbb\xbf\n\n", []),
    ],
)
def test_lines_are_numbered_and_blank_ones_skipped(
    tmp_path: Path, content: bytes, expected: list[tuple[int, bytes]]
) -> None:
    (tmp_path / "f").write_bytes(content)
    assert read(tmp_path / "f") == expected


def test_a_line_crosses_the_pieces_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_lines, "_CHUNK_BYTES", 7)
    (tmp_path / "f").write_bytes(b"first line\nsecond\n\nlast one is long")
    assert read(tmp_path / "f") == [(1, b"first line\n"), (2, b"second\n"), (4, b"last one is long")]


def test_a_long_line_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\n" + b"x" * 5000 + b"\nb\n")
    with ImportLines(tmp_path / "f") as lines, pytest.raises(InputTooLarge, match="longer than 1,000"):
        list(lines.full(1000))
    assert lines.number == 2


def test_blank_lines_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_lines, "_MAX_BLANK_LINES", 10)
    (tmp_path / "f").write_bytes(b"\n" * 12)
    with pytest.raises(InvalidInput, match="blank lines"):
        read(tmp_path / "f")


@pytest.fixture
def write_pipe(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """Makes a named pipe into which a thread writes once somebody reads."""
    threads: list[threading.Thread] = []

    def make(content: bytes) -> Path:
        path = tmp_path / f"pipe{len(threads)}"
        os.mkfifo(path)

        def write() -> None:
            with contextlib.suppress(BrokenPipeError):
                path.write_bytes(content)

        thread = threading.Thread(target=write)
        thread.start()
        threads.append(thread)
        return path

    yield make
    for thread in threads:
        thread.join(30)


def test_a_pipe_is_read_once_and_iterated_often(write_pipe: Callable[[bytes], Path]) -> None:
    content = b"\xef\xbb\xbfa\n\n" + b"b" * 200_000
    with ImportLines(write_pipe(content)) as lines:
        assert lines.size == 0
        assert lines.first_bytes().startswith(b"a")
        first = [(lines.number, line) for line in lines.full(10**6)]
        assert first == [(lines.number, line) for line in lines.full(10**6)]
        assert first == [(1, b"a\n"), (3, b"b" * 200_000)]


def test_a_pipe_that_is_refused_is_not_read_to_its_end(write_pipe: Callable[[bytes], Path]) -> None:
    with ImportLines(write_pipe(b"a\n" * 100_000)) as lines:
        assert next(lines.full(100)) == b"a\n"
    # Then the pipe is closed, and its writer ends with an error: the fixture waits for it.


def test_a_pipe_without_a_writer_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_lines, "_WRITER_COMES_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path / "pipe") == []


def test_a_silent_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_lines, "SILENCE_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    with pytest.raises(InvalidInput, match="nothing came for"):
        read(tmp_path / "pipe")
    os.close(writer)


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/"), Path("/nowhere/at/all"), Path("a\0b")])
def test_what_is_no_file_is_refused_at_once(path: Path) -> None:
    with pytest.raises(InvalidInput):
        read(path)


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        (b'{"a": 1', InvalidInput, "not JSON"),
        (b"[1]", InvalidInput, "not a JSON object"),
        (b'{"a": "\xff"}', InvalidInput, "not UTF-8"),
        (b'{"a": ' + b"9" * 5_000 + b"}", InvalidInput, "not JSON"),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", InputTooLarge, "nested"),
        (b'{"a": ' + b"[" * 10**6, InputTooLarge, "values"),
        (b'{"a": [' + b"[]," * 300_000 + b"[]]}", InputTooLarge, "values"),
        (b'{"a": "' + b'\\"' * 10**6, InvalidInput, "not JSON"),  # an open string of a million escaped quotes
        (b'"' * 10**6, InputTooLarge, "values"),
    ],
)
def test_a_line_is_bounded_before_it_is_parsed(line: bytes, kind: type[InvalidInput], text: str) -> None:
    tracemalloc.start()
    with pytest.raises(kind, match=text):
        parse_object(line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


def test_commas_and_brackets_of_a_text_are_no_values() -> None:
    text = "[1, 2], {3: 4}\n" * (MAX_VALUES // 8)
    assert parse_object(json.dumps({"text": text}).encode()) == {"text": text}


@pytest.mark.parametrize(("value", "levels"), [(1, 0), ([], 1), ({"a": [1, {"b": ()}]}, 4), ("[[[", 0)])
def test_depth(value: Any, levels: int) -> None:
    assert depth(value) == levels


def test_depth_of_a_hundred_thousand_levels() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert depth(value) == 100_001
    while value:  # freed step by step: the interpreter would recurse
        value = value[0]
