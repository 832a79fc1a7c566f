"""`smallai turns`, `sessions erase` and `doctor --repair`."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Run, is_one_error_line
from support.damage import files_with, run_sql
from support.echo_learner import correct, open_echo

from smallai_assistant import Assistant, ImagePart
from smallai_assistant.cli.times import local_time


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Assistant]:
    with open_echo(tmp_path / "own") as opened:
        yield opened


def test_turns_are_listed_and_erased(run: Run, own: Assistant, tmp_path: Path) -> None:
    assert "no turn yet" in run("turns", "list", assistant=own).out
    session = own.session("ada")
    turns = [session.send(text, task="echo").turn for text in ("one", "SECRET two")]
    own.ask(ImagePart(data=b"picture"), task="echo").turn  # noqa: B018  (waits until it is stored)
    rows = run("turns", "list", "--json", "--session", session.id, assistant=own).rows
    assert [row["text"] for row in rows] == ["one", "SECRET two"]
    assert set(rows[0]) == {"id", "session_id", "user_id", "task", "created_at", "text", "answer"}
    assert "(a file)" in run("turns", "list", "--limit", 1, assistant=own).out
    done = run("turns", "erase", turns[1].id, assistant=own)
    assert (done.code, done.out) == (0, "erased 1 turn\n")
    assert files_with(tmp_path / "own", b"SECRET") == []
    again = run("turns", "erase", turns[1].id, "--json", assistant=own).row
    keys = ["erased", "turns", "media", "interactions", "adapters", "champions", "serving", "audiences"]
    keys += ["backups", "notices"]
    assert list(again) == keys
    assert run("sessions", "erase", session.id, assistant=own).out == "erased 1 turn\n"
    assert run("sessions", "list", "--json", assistant=own).rows[0]["user_id"] is None
    for words in (["turns", "erase", "nope"], ["sessions", "erase", "nope"], ["turns", "list", "--session", "nope"]):
        failed = run(*words, assistant=own)
        assert failed.code == 2
        assert is_one_error_line(failed.err), failed.err


def test_a_taught_picture_is_named_and_gone(run: Run, own: Assistant) -> None:
    given = own.teach("echo", ImagePart(data=b"picture"), "wombat").feedback
    assert run("feedback", "erase", given.id, assistant=own).out == "erased 1 feedback row, 1 turn, 1 file\n"
    assert "1 erased row left out" in run("feedback", "export", "-", assistant=own).err


def test_doctor_names_and_repairs_what_cannot_be_read(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_echo(data) as own:
        ids = correct(own, 3)
    run_sql(data / "smallai.sqlite", "UPDATE feedback SET created_at = 'never' WHERE id = ?", ids[0])
    for path in (data, data / "smallai.sqlite", data / "media"):
        path.mkdir(exist_ok=True) if path.suffix == "" else None
        path.chmod(0o755 if path.suffix == "" else 0o644)
    with open_echo(data) as own:
        rows = {row["name"]: row for row in run("doctor", "--json", assistant=own).rows}
    assert rows["row"]["status"] == "missing"
    assert ids[0] in rows["row"]["text"]
    assert rows["row"]["hint"] == "smallai doctor --repair"
    assert rows["rights"]["status"] == "note"
    assert "smallai.sqlite" in rows["rights"]["text"]
    assert stat.S_IMODE((data / "smallai.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE((data / "media").stat().st_mode) == 0o700
    done = run("--data-dir", data, "doctor", "--repair", "--json")
    repaired = [row["text"] for row in done.rows if row["name"] == "repair"]
    assert repaired[0] == f"moved to {data / 'set_aside/rows.jsonl'}"
    assert ids[0] in repaired[1]
    with open_echo(data) as own:
        names = {row["name"] for row in run("doctor", "--json", assistant=own).rows}
    assert "rows" in names
    again = run("--data-dir", data, "doctor", "--repair", "--json").rows[0]
    assert (again["name"], again["text"]) == ("repair", "everything in the database can be read")


def test_doctor_says_that_the_database_is_lost(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_echo(data) as own:
        own.ask(ImagePart(data=b"picture"), task="echo").turn  # noqa: B018  (waits until it is stored)
    (data / "smallai.sqlite").write_bytes(b"")
    failed = run("--data-dir", data, "sessions", "list")
    assert failed.code == 1
    assert "smallai.sqlite is empty" in failed.err
    assert "doctor --repair" in failed.err
    done = run("--data-dir", data, "doctor", "--repair", "--json")
    assert any("set_aside/media-" in row["text"] for row in done.rows)
    assert run("--data-dir", data, "sessions", "list").code == 0


@pytest.mark.parametrize("at", [1e300, float("nan"), -62135596800.0 - 86_400])
def test_a_time_that_no_zone_has_is_shown(at: float) -> None:
    assert local_time(at) == "at no time"
