"""The data are their owner's alone, and nobody waits long for a lock without knowing why."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.echo_learner import open_echo

from smallai_assistant import ImagePart
from smallai_assistant.errors import StoreError
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(autouse=True)
def _wide_umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_new_data_are_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_echo(data) as own:
        own.ask(ImagePart(data=b"x"), task="echo").turn  # noqa: B018  (waits until it is stored)
        assert own.database.tightened == []
    assert mode(data) == 0o700
    assert mode(data / "smallai.sqlite") == 0o600
    [picture] = [path for path in (data / "media").rglob("*") if path.is_file()]
    assert mode(picture) == 0o600


def test_existing_data_are_tightened_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    Database(data).close()
    (data / "media").mkdir()
    (data / "adapters").mkdir()
    (data / "chat_history").write_text("")
    for path in (data, data / "media", data / "adapters"):
        path.chmod(0o755)
    for name in ("smallai.sqlite", "chat_history"):
        (data / name).chmod(0o644)
    database = Database(data)
    assert {path.name for path in database.tightened} == {"data", "media", "adapters", "smallai.sqlite", "chat_history"}
    assert {mode(data / name) for name in ("media", "adapters")} == {0o700}
    assert {mode(data / name) for name in ("smallai.sqlite", "chat_history")} == {0o600}
    database.close()
    again = Database(data)
    assert again.tightened == []
    again.close()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "shared"
    Database(data).close()
    (data / "photos").mkdir()
    data.chmod(0o755)
    (data / "photos").chmod(0o755)
    (tmp_path / "target").write_text("")
    (tmp_path / "target").chmod(0o644)
    (data / "chat_history").symlink_to(tmp_path / "target")
    Database(data).close()
    assert (mode(data), mode(data / "photos"), mode(tmp_path / "target")) == (0o755, 0o755, 0o644)
    elsewhere = tmp_path / "other.sqlite"
    sqlite3.connect(elsewhere).close()
    elsewhere.touch(mode=0o644)
    elsewhere.chmod(0o644)
    Database(tmp_path / "data", f"sqlite:///{elsewhere}").close()
    assert mode(elsewhere) == 0o644


def test_a_folder_that_all_users_share_keeps_its_rights(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    Database(shared).close()
    assert mode(shared) == 0o1777
    assert mode(shared / "smallai.sqlite") == 0o600


@pytest.mark.parametrize("name", ["dev/null", "folder"])
def test_a_file_that_is_no_database_keeps_its_rights(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir(mode=0o755)
    path = Path("/dev/null") if name == "dev/null" else tmp_path / name
    before = mode(path)
    with contextlib.suppress(StoreError):
        Database(tmp_path / "data", f"sqlite:///{path}").close()
    assert mode(path) == before


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_reader_says_for_whom_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "READ_WAIT_S", 0.2)
    monkeypatch.setattr(database_module, "LOCK_WAIT_S", 0.3)
    database = Database(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "smallai.sqlite")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for transaction, waited in ((database.read, "0.2 s"), (database.write, "0.3 s")):
            with pytest.raises(StoreError) as caught, transaction() as connection:
                connection.exec_driver_sql("SELECT * FROM meta")
            assert f"has waited {waited}" in caught.value.message
            if database.journal_mode == "delete" and Path("/proc/locks").exists():
                assert f"the process {holder.pid} (" in caught.value.message
        assert holder.stdin is not None
        holder.stdin.close()
    with database.read() as connection:  # and afterwards all is well
        assert connection.exec_driver_sql("SELECT count(*) FROM meta").scalar()
    database.close()
