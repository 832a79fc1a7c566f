"""Migrations: once, with a backup, also if several processes open an older database at the same time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from smallai_assistant import Item, Message, TextPart, Turn
from smallai_assistant.errors import StoreError, StoreFull
from smallai_assistant.feedback import Feedback
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.schema import MIGRATIONS
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.types import now

OPEN = """
import sys
from pathlib import Path
from smallai_assistant.storage.database import Database
sys.stdin.read()
database = Database(Path(sys.argv[1]), sys.argv[2])
print(database.schema_version)
"""


def make_first_schema(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creates a database with the schema of the first release, with a turn and an item."""
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:1])
        database = Database(folder, url)
        assert database.schema_version == 1
        store = TurnStore(database, folder / "media")
        turn = Turn("t1", "s1", "ann", "scripted", Message((TextPart("hi"),)), (TextPart("ho"),), now())
        store.add_turn(turn).result()
        store.close()
        ItemStore(database).add_items([Item("a", "A")])
        database.close()


def check_migrated(folder: Path, url: str) -> None:
    database = Database(folder, url)
    store = TurnStore(database, folder / "media")
    assert database.schema_version == len(MIGRATIONS)
    assert store.turn("t1").text == "ho"
    assert [item.id for item in ItemStore(database).items()] == ["a"]
    FeedbackStore(database, store).add(Feedback("t1", is_good=True))
    store.close()
    database.close()


def test_the_first_schema_is_migrated_and_backed_up(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_first_schema(tmp_path, database_url, monkeypatch)
    check_migrated(tmp_path, database_url)
    if "sqlite" not in database_url:
        assert "pg_dump" in caplog.text
        return
    backup = sqlite3.connect(tmp_path / "smallai.schema1.sqlite")
    assert backup.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("1",)
    assert backup.execute("SELECT id FROM turns").fetchall() == [("t1",)]
    assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    backup.close()


@pytest.mark.parametrize("is_old", [True, False], ids=["old", "empty"])
def test_processes_at_once_migrate_only_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, is_old: bool
) -> None:
    if is_old:
        make_first_schema(tmp_path, database_url, monkeypatch)
    command = [sys.executable, "-c", OPEN, str(tmp_path), database_url]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:  # each has imported everything and waits for the end of its standard input
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    done = [process.communicate(timeout=100) for process in processes]
    assert [out for out, _ in done] == [f"{len(MIGRATIONS)}\n"] * 4
    n_migrated = sum("migrating" in err for _, err in done)
    assert n_migrated == (is_old and "postgres" in database_url)
    if is_old:
        check_migrated(tmp_path, database_url)


def test_a_failed_migration_leaves_nothing(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_first_schema(tmp_path, database_url, monkeypatch)

    def fail(connection: sa.Connection) -> None:
        MIGRATIONS[1](connection)
        connection.exec_driver_sql("nonsense")

    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", [MIGRATIONS[0], fail])
        with pytest.raises(StoreError, match="nonsense"):
            Database(tmp_path, database_url)
    check_migrated(tmp_path, database_url)


@pytest.mark.parametrize(("name", "kind"), [("ENOSPC", StoreFull), ("EIO", StoreError)])
def test_without_a_backup_nothing_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[StoreError]
) -> None:
    import errno
    import os

    make_first_schema(tmp_path, "", monkeypatch)

    def fail(_: object) -> None:
        raise OSError(getattr(errno, name), "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(kind, match="nothing was migrated"):
            Database(tmp_path)
    assert not list(tmp_path.glob("*.schema1*"))
    check_migrated(tmp_path, "")
