"""The promises of the stores: durable writes, typed errors, migrations."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.turns import a_turn

from smallai_assistant import Interaction, InvalidInput, Item
from smallai_assistant.errors import ConfigError, InputTooLarge, StoreError, StoreFull
from smallai_assistant.filesystem import write_atomically
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database, has_wal_reset_bug
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.turn_store import TurnStore


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_wal_needs_a_sound_sqlite_version(version: tuple[int, ...], affected: bool) -> None:
    assert has_wal_reset_bug(version) is affected


def test_sqlite_is_opened_for_durability(tmp_path: Path) -> None:
    database = Database(tmp_path)
    expected = "delete" if has_wal_reset_bug(sqlite3.sqlite_version_info) else "wal"
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == expected
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_an_unwritable_data_directory_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data directory"):
        Database(tmp_path / "file" / "data")


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u@h:port/x", "postgresql://u:p@[::1/x", "mysql://h/x"])
def test_a_wrong_url_is_a_config_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="database_url"):
        Database(tmp_path, url)


def test_a_newer_schema_is_refused_an_older_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Database(tmp_path)
    ItemStore(first).add_items([Item("a", "A")])
    version = first.schema_version
    first.close()

    def add_column(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN extra TEXT")

    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", [*database_module.MIGRATIONS, add_column])
        second = Database(tmp_path)
        assert second.schema_version == version + 1
        assert [item.id for item in ItemStore(second).items()] == ["a"]
        second.close()
        assert (tmp_path / f"smallai.schema{version}.sqlite").is_file()
    with pytest.raises(StoreError, match=f"schema {version + 1}"):
        Database(tmp_path)


def test_a_failing_migration_leaves_the_old_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Database(tmp_path)
    version = first.schema_version
    first.close()

    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN extra TEXT")
        connection.exec_driver_sql("nonsense")

    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", [*database_module.MIGRATIONS, fail])
        with pytest.raises(StoreError):
            Database(tmp_path)
    again = Database(tmp_path)
    assert again.schema_version == version
    with again.read() as connection:
        assert "extra" not in {column["name"] for column in sa.inspect(connection).get_columns("items")}
    again.close()


def test_a_full_disk_keeps_the_old_state(tmp_path: Path) -> None:
    database = Database(tmp_path)
    store = ItemStore(database)
    store.add_items([Item("a", "A")])
    pages = sqlite3.connect(database.path or "").execute("PRAGMA page_count").fetchone()[0]

    @sa.event.listens_for(database.engine, "begin")
    def shrink(connection: sa.Connection) -> None:  # SQLite reports its page limit as a full disk
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    with pytest.raises(StoreFull):
        store.add_items([Item(str(n), "x" * 10_000) for n in range(200)])
    assert [item.id for item in store.items()] == ["a"]
    database.close()


def test_turns_of_many_threads_are_all_stored(tmp_path: Path, database: Database) -> None:
    store = TurnStore(database, tmp_path / "media")
    futures = []

    def write(name: str) -> None:
        futures.extend(store.add_turn(a_turn(f"{name}{n}", session_id=name)) for n in range(25))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for future in futures:
        future.result(10)
    for name in "abcd":
        assert [turn.request.text for turn in store.turns(name)] == [f"{name}{n}" for n in range(25)]
    assert len(store.session_list()) == 4
    store.close()
    with pytest.raises(StoreError):
        store.add_turn(a_turn()).result()


def test_acknowledged_turns_survive_kill_9(tmp_path: Path, database_url: str) -> None:
    script = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from support.turns import a_turn
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.turn_store import TurnStore
folder = Path(sys.argv[1])
store = TurnStore(Database(folder, sys.argv[2]), folder / "media")
while True:
    print(store.add_turn(a_turn()).result().id, flush=True)
"""
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), database_url], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout.readlines() if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        database = Database(tmp_path, database_url)
        store = TurnStore(database, tmp_path / "media")
        for turn_id in acknowledged:
            assert store.turn(turn_id).text == "hi"
        store.close()
        database.close()


def test_items_and_interactions(database: Database) -> None:
    store = ItemStore(database)
    assert store.revision() == (0, 0, 0)
    store.add_items([Item("a", "A", "text", {"year": 1979}), Item("b", "B")])
    store.add_items([Item("a", "A2")])
    assert [(item.id, item.title) for item in store.items()] == [("a", "A2"), ("b", "B")]
    store.add_interactions(
        [Interaction("u", "b", at=2.0), Interaction("u", "a", at=1.0), Interaction("v", "a", at=1.0)]
    )
    assert [interaction.item for interaction in store.interactions_of("u")] == ["a", "b"]
    assert len(store.interactions(after=2)) == 1
    before = store.revision()
    assert store.remove_items(["a", "zzz"]) == 1
    assert store.revision()[0] != before[0]
    assert [item.id for item in store.items()] == ["b"]
    assert len(store.interactions()) == 3


@pytest.mark.parametrize("weight", [float("nan"), -1e300, 0.0, 1e300, float("inf"), True])
def test_bad_weights_are_refused(weight: float) -> None:
    with pytest.raises(InvalidInput):
        Interaction("u", "i", weight)


@pytest.mark.parametrize(("item_id", "title"), [("", "x"), (" ", "x"), ("a\x00b", "x"), ("a", "\ud800"), (3, "x")])
def test_bad_items_are_refused(item_id: str, title: str) -> None:
    with pytest.raises(InvalidInput):
        Item(item_id, title)


def test_a_long_item_text_is_refused() -> None:
    with pytest.raises(InputTooLarge):
        Item("a", "t", "x" * 1_000_000)


def test_a_failed_atomic_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f"
    write_atomically(target, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFull):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
