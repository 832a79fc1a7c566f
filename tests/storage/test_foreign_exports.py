"""Files of strangers: byte order marks, pipes, bombs and odd times are read, refused or bounded, never half done."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.echo_learner import correct, open_echo

from smallai_assistant import Assistant, ImagePart, InvalidInput
from smallai_assistant.storage import feedback_file
from smallai_assistant.storage.feedback_file import MAX_ROW_BYTES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An export of two corrections and a taught picture."""
    with open_echo(tmp_path / "from") as own:
        correct(own, 2)
        own.teach("echo", ImagePart(data=b"picture" * 100), "wombat")
        own.export_feedback(tmp_path / "file.jsonl")
    return tmp_path / "file.jsonl"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Assistant]:
    with open_echo(tmp_path / "to") as opened:
        yield opened


def is_untouched(there: Assistant) -> bool:
    """Whether nothing of a refused file is left."""
    folder = there.store.media_dir
    media = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return not media and not there.feedback.rows() and not there.store.session_list()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\n \n" + data.replace(b"\n", b"\n\n\t\n") + b"\n\n",
        lambda data: data.replace(b": ", b":").replace(b", ", b","),
    ],
    ids=["mark", "carriage returns", "blank lines", "dense"],
)
def test_what_editors_add_is_no_content(file: Path, there: Assistant, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))
    done = there.import_feedback(file)
    assert (done.n_feedback, done.n_media, done.n_without_media) == (3, 1, 0)
    assert there.ask("say 1", task="echo").text == "SAY 1"
    again = there.import_feedback(file)
    assert (again.n_feedback, again.n_known) == (0, 3)


def test_a_pipe_is_imported(file: Path, there: Assistant, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(file.read_bytes()))
    writer.start()
    assert there.import_feedback(tmp_path / "pipe").n_feedback == 3
    writer.join(30)
    assert len([path for path in there.store.media_dir.rglob("*") if path.is_file()]) == 1


def with_row(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the last row of an export."""
    lines = file.read_text().splitlines()
    row = json.loads(lines[-1])
    change(row)
    file.write_text("\n".join([*lines[:-1], json.dumps(row)]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("created_at", "0001-01-01T00:00:00+14:00"),
        ("created_at", "9999-12-31T23:59:59-14:00"),
        ("created_at", "1969-12-31T00:00:00+00:00"),
        ("created_at", 10**30),
        ("source", ""),
        ("source", "\u2003"),
        ("source", ["a"]),
        ("value", 10**300),
        ("item", {"a": 1}),
        ("id", "x" * 65),
        ("may_train", "yes"),
        ("correction", 7),
    ],
)
def test_a_row_that_could_not_be_read_is_refused(file: Path, there: Assistant, name: str, value: Any) -> None:
    with_row(file, lambda row: row["feedback"].update({name: value}))
    with pytest.raises(InvalidInput, match=r"line 5: ") as caught:
        there.import_feedback(file)
    assert len(str(caught.value)) < 400
    assert is_untouched(there)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("details", nested(700)),
        ("details", nested(201)),
        ("timings", {"total_s": 10**400}),
        ("created_at", "0001-01-01T00:00:00+14:00"),
        ("response", [{"type": [[[]]]}]),
        ("response", [{"type": "label", "label": "x", "id": 10**30, "score": 1.0}]),
        ("user_id", " "),
        ("notices", [["a"]]),
    ],
)
def test_a_turn_that_could_not_be_read_is_refused(file: Path, there: Assistant, name: str, value: Any) -> None:
    with_row(file, lambda row: row["turn"].update({name: value}))
    with pytest.raises(InvalidInput, match=r"line 5: "):
        there.import_feedback(file)
    assert is_untouched(there)


def test_details_as_deep_as_allowed_come_back(file: Path, there: Assistant) -> None:
    with_row(file, lambda row: row["turn"].update(details=nested(200)))
    assert there.import_feedback(file).n_feedback == 3
    assert there.export_feedback(file).n_unreadable == 0
    with open_echo(file.parent / "third") as third:
        assert third.import_feedback(file).n_feedback == 3


@pytest.mark.parametrize(
    "line",
    [
        b"[" + b"[]," * 20_000_000 + b"[]]",  # 60 MB that would be gigabytes of lists
        b'{"a": "' + b"x" * (MAX_ROW_BYTES + 1) + b'"}',
        b'{"media": "' + b"0" * 64 + b'", "data": "' + b"A" * 80_000_000 + b'"}',  # wrong bytes of a large picture
        b"{" + b'"a":{' * 5_000_000,
    ],
    ids=["lists", "text", "picture", "levels"],
)
def test_one_large_line_costs_little(file: Path, there: Assistant, line: bytes) -> None:
    with file.open("ab") as out:
        out.write(line)
    del line
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="line 6: "):
        there.import_feedback(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 260_000_000  # the line itself, its pieces, and the bytes of the picture
    assert is_untouched(there)


def test_a_picture_that_no_row_needs_does_not_stay(file: Path, there: Assistant) -> None:
    data = b"another picture"
    row = {"media": hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()}
    with file.open("a") as out:
        out.write(json.dumps(row))
    done = there.import_feedback(file)
    assert (done.n_feedback, done.n_media) == (3, 1)
    assert len([path for path in there.store.media_dir.rglob("*") if path.is_file()]) == 1


def test_a_page_holds_a_bounded_number_of_bytes(file: Path, there: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    from smallai_assistant.storage import feedback_transfer

    monkeypatch.setattr(feedback_transfer, "_PAGE_BYTES", 1)
    assert there.import_feedback(file).n_feedback == 3


def test_the_limit_of_a_line_holds_any_request() -> None:
    assert MAX_ROW_BYTES > 12 * 1_000_000  # a million characters, as ASCII escapes of twelve bytes
    assert feedback_file.MAX_MEDIA_LINE_BYTES > 64 * 2**20 * 4 // 3
