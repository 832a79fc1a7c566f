"""An export holds all that another installation needs to learn from it; an import is complete or changes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.databases import temporary_schema
from support.turns import a_turn

from smallai_assistant import AudioPart, Feedback, ImagePart, InvalidInput, LabelPart, Message, TextPart, Turn
from smallai_assistant.errors import InputTooLarge, StoreError
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.feedback_transfer import FeedbackTransfer, Transfer
from smallai_assistant.storage.schema import feedback, sessions, turns
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.types import Notice, new_id, now

PICTURE = bytes(range(256)) * 40


class Place:
    """A data directory with its stores."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.database = Database(folder, url)
        self.turns = TurnStore(self.database, folder / "media")
        self.feedback = FeedbackStore(self.database, self.turns)
        self.transfer = FeedbackTransfer(self.database, folder / "media")

    def close(self) -> None:
        self.turns.close()
        self.database.close()

    def add(self, *feedback: dict[str, Any], parts: tuple[Any, ...] = (TextPart("hi"),), user: str = "ann") -> Turn:
        turn = Turn(
            id=new_id(),
            session_id=f"session of {user}",
            user_id=user,
            task="scripted",
            request=Message(parts),
            response=(TextPart("ho"), LabelPart("owl", 3, 0.5)),
            created_at=now(),
            model="m",
            adapter="a",
            notices=(Notice("n", "text"),),
            details={"x": [1, None, {"y": float("nan")}]},
            timings={"total_s": 0.5},
        )
        self.turns.add_turn(turn).result()
        for fields in feedback:
            self.feedback.add(Feedback(turn.id, source=user, **fields))
        return turn


@pytest.fixture
def here(tmp_path: Path, database_url: str) -> Iterator[Place]:
    place = Place(tmp_path / "here", database_url)
    yield place
    place.close()


@pytest.fixture
def there(tmp_path: Path, request: pytest.FixtureRequest, database_url: str) -> Iterator[Place]:
    """An empty place on the same kind of database."""
    if "sqlite" in database_url:
        place = Place(tmp_path / "there")
        yield place
        place.close()
        return
    with temporary_schema(request.getfixturevalue("postgres_server")) as url:
        place = Place(tmp_path / "there", url)
        yield place
        place.close()


def n_rows(place: Place) -> tuple[int, int, int]:
    with place.database.read() as connection:
        counted = [
            connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in (feedback, turns, sessions)
        ]
    return counted[0] or 0, counted[1] or 0, counted[2] or 0


def test_everything_comes_back_elsewhere(here: Place, there: Place, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    parts = (TextPart("what\ud800 is it"), ImagePart(data=PICTURE), AudioPart(data=b"sound"))
    here.add({"is_good": True, "key": "k"}, {"correction": "owl", "may_train": False}, parts=parts)
    here.add({"signal": "stars", "value": 3.0, "item": "i"}, parts=(ImagePart(data=PICTURE),), user="bob")
    erased = here.feedback.rows()[0].id
    here.feedback.erase([erased])
    retracted = here.feedback.rows()[1].id
    here.feedback.retract(retracted)

    out = here.transfer.export_to(file)
    assert out == Transfer(n_feedback=2, n_turns=2, n_media=2, n_erased=1, tasks={"scripted"})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(tmp_path) not in file.read_text()

    back = there.transfer.import_from(file)
    assert back == Transfer(n_feedback=2, n_turns=2, n_media=2, tasks={"scripted"})
    before = [row for row in here.feedback.rows() if row.state != "erased"]
    assert there.feedback.rows() == before
    for row in before:
        old, new = here.turns.turn(row.turn_id), there.turns.turn(row.turn_id)
        assert repr(old).replace(str(here.folder), str(there.folder)) == repr(new)  # NaN is not equal to itself
    [judged_turn] = there.feedback.judged_turns("scripted")
    [picture] = judged_turn.turn.request.parts
    assert isinstance(picture, ImagePart)
    assert picture.read() == PICTURE
    assert [row["id"] for row in there.turns.session_list()] == [row["id"] for row in here.turns.session_list()]

    again = there.transfer.import_from(file)
    assert (again.n_feedback, again.n_turns, again.n_known) == (0, 0, 2)
    there.feedback.erase([retracted])
    assert there.transfer.import_from(file).n_known == 2  # an import does not bring erased feedback back
    assert there.feedback.get(retracted).feedback is None


def test_an_export_of_one_task_and_without_media(here: Place, there: Place, tmp_path: Path) -> None:
    here.add({"is_good": True}, parts=(ImagePart(data=PICTURE),))
    assert here.transfer.export_to(tmp_path / "other", task="other") == Transfer()
    out = here.transfer.export_to(tmp_path / "bare", with_media=False)
    assert (out.n_media, out.n_without_media) == (0, 1)
    assert base64.b64encode(PICTURE) not in (tmp_path / "bare").read_bytes()
    assert there.transfer.import_from(tmp_path / "bare").n_without_media == 1
    [judged_turn] = there.feedback.judged_turns("scripted")
    assert judged_turn.turn.request.parts == (ImagePart(data=b""),)


def test_missing_or_damaged_media_are_left_out(here: Place, tmp_path: Path) -> None:
    here.add({"is_good": True}, parts=(ImagePart(data=b"one"), ImagePart(data=b"two")))
    one, two = (here.folder / "media" / d[:2] / d for d in (hashlib.sha256(b).hexdigest() for b in (b"one", b"two")))
    one.unlink()
    two.write_bytes(b"twO")
    out = here.transfer.export_to(tmp_path / "out")
    assert (out.n_media, out.n_without_media) == (0, 2)


def test_known_and_repeated_rows_are_counted(here: Place, there: Place, tmp_path: Path) -> None:
    file = tmp_path / "out"
    here.add({"is_good": True, "key": "k"}, {"is_good": False})
    here.transfer.export_to(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[-1]]) + "\n")
    there.add({"is_good": False, "key": "k"})
    back = there.transfer.import_from(file)
    assert (back.n_feedback, back.n_known) == (1, 2)
    assert n_rows(there) == (2, 2, 1)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A function that changes one value of a row, given by its path; the value `del_` removes it."""

    def apply(row: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = row
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        if value is del_:
            del place[last]
        else:
            place[last] = value

    return apply


del_ = object()
BAD = [
    ("feedback.signal", "stars"),
    ("feedback.is_good", 1),
    ("feedback.comment", "x" * 20_000),
    ("feedback.source", ""),
    ("feedback.source", "\0"),
    ("feedback.id", ""),
    ("feedback.id", del_),
    ("feedback.id", "x" * 65),
    ("feedback.may_train", "no"),
    ("feedback.created_at", "0000"),
    ("feedback.turn_id", "another"),
    ("feedback", []),
    ("state", "erased"),
    ("state", []),
    ("turn", None),
    ("turn.id", 5),
    ("turn.session_id", ""),
    ("turn.user_id", "\ud800"),
    ("turn.user_id", "x" * 600),
    ("turn.user_id", "eve"),  # the session is ann's
    ("turn.task", "x" * 200),
    ("turn.created_at", "9999-12-31T23:59:59-23:59"),
    ("turn.created_at", 12),
    ("turn.role", "system"),
    ("turn.extra", 1),
    ("turn.model", del_),
    ("turn.model", 5),
    ("turn.notices", [["a"]]),
    ("turn.details", []),
    ("turn.timings", {"a": "b"}),
    ("turn.request", []),
    ("turn.request", {}),
    ("turn.request.0.type", "url"),
    ("turn.request.0.type", []),
    ("turn.request.0.text", 5),
    ("turn.request.0.text", "x" * 1_000_001),
    ("turn.request.1.path", "/etc/passwd"),
    ("turn.request.1.media", "../../../../etc/passwd"),
    ("turn.request.1.media", 5),
    ("turn.response.1.score", "high"),
    ("turn.response.1.id", True),
    ("media", "x"),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=[f"{path}={str(value)[:12]!r}" for path, value in BAD])
def test_one_bad_line_imports_nothing(tmp_path: Path, path: str, value: Any) -> None:
    file = exported(tmp_path, n=9)
    lines = file.read_text().splitlines()
    assert len(lines) == 11  # the header, the picture, nine rows
    row = json.loads(lines[4])
    change(path, value)(row)
    lines[4] = json.dumps(row)
    file.write_text("\n".join(lines))
    check_refused(tmp_path, file, "line 5")


def exported(tmp_path: Path, *, n: int) -> Path:
    place = Place(tmp_path / "from")
    for _ in range(n):
        place.add({"is_good": True}, parts=(TextPart("a"), ImagePart(data=PICTURE)))
    place.transfer.export_to(tmp_path / "file")
    place.close()
    return tmp_path / "file"


def check_refused(tmp_path: Path, file: Path, where: str) -> None:
    place = Place(tmp_path / "to")
    with pytest.raises(InvalidInput, match=rf"{where}: ") as caught:
        place.transfer.import_from(file)
    assert len(str(caught.value)) < 500
    assert caught.value.hint
    assert n_rows(place) == (0, 0, 0)
    place.close()


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (1, b'{"format": "other", "version": 1}'),
        (1, b'{"format": "smallai-feedback", "version": 2}'),
        (1, b'{"format": "smallai-feedback", "version": "1"}'),
        (2, b'{"media": "00", "data": "aGk="}'),
        (2, b'{"media": "00", "data": "?"}'),
        (2, b'{"media": "00"}'),
        (2, b'{"media": 1, "data": []}'),
        (2, b'{"media": "00", "data": "aGk=", "more": 1}'),
        (3, b"[]"),
        (3, b'{"feedback": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}"),
        (3, b"[" + b"[]," * 300_000 + b"[]]"),
        (3, b"{"),
        (3, b"\xff\xfe"),
        (3, b"[" * 100_000),
        (3, b'{"feedback": ' + b"9" * 10_000 + b"}"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: int, content: bytes) -> None:
    file = exported(tmp_path, n=2)
    lines = file.read_bytes().splitlines()
    lines[line - 1] = content
    file.write_bytes(b"\n".join(lines))
    check_refused(tmp_path, file, f"line {line}")


def test_a_changed_picture_is_refused(tmp_path: Path) -> None:
    file = exported(tmp_path, n=1)
    text = file.read_text()
    data = base64.b64encode(PICTURE).decode()
    file.write_text(text.replace(data, base64.b64encode(PICTURE[:-1] + b"x").decode()))
    check_refused(tmp_path, file, "line 2")
    assert not list((tmp_path / "to" / "media").rglob("*"))


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallai_assistant.storage.feedback_file.MAX_MEDIA_LINE_BYTES", 20_000)
    file = exported(tmp_path, n=1)
    with file.open("ab") as out:
        out.write(b" " * 100_000)
    place = Place(tmp_path / "to")
    with pytest.raises(InputTooLarge, match="line 4: "):
        place.transfer.import_from(file)
    place.close()


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_or_written(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path / "to")
    with pytest.raises(InvalidInput, match=name):
        place.transfer.import_from(tmp_path / name)
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidInput, match="empty"):
        place.transfer.import_from(tmp_path / "empty")
    with pytest.raises(StoreError, match="could not be written"):
        place.transfer.export_to(tmp_path / "no" / "folder")
    place.close()


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported(tmp_path, n=1)
    old = file.read_bytes()
    place = Place(tmp_path / "from")
    place.add({"is_good": True})

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(StoreError, match="No space left"):
            place.transfer.export_to(file)
    assert file.read_bytes() == old
    assert not list(tmp_path.glob(".*"))
    place.close()


def test_ten_thousand_rows_let_other_writers_work(here: Place, there: Place, tmp_path: Path) -> None:
    turn = here.add()
    here.feedback.add_all([Feedback(turn.id, is_good=True) for _ in range(10_000)])
    here.transfer.export_to(tmp_path / "file")
    stored: list[Turn] = []
    failed: list[BaseException | None] = []
    done, has_stored = threading.Event(), threading.Event()

    def write() -> None:
        while not done.is_set():
            future = there.turns.add_turn(a_turn("meanwhile"))
            failed.append(future.exception(60))  # a writer that waits over 30 s gives up with a StoreError
            stored.append(future.result())
            has_stored.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert has_stored.wait(60)
    assert there.transfer.import_from(tmp_path / "file").n_feedback == 10_000
    done.set()
    writer.join()
    assert failed == [None] * len(stored)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
)
def test_any_line_is_refused_or_imported(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / new_id()
    folder.mkdir()
    file = exported(folder, n=1)
    file.write_bytes(file.read_bytes() + content)
    place = Place(folder / "to")
    if content.strip():  # a blank line is no content
        with pytest.raises(InvalidInput, match="line "):
            place.transfer.import_from(file)
        assert n_rows(place) == (0, 0, 0)
    place.close()
