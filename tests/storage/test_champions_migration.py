"""Migration 5: champions, their log and the versions get the audience that they served so far, which is everyone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.schema import MIGRATIONS

# What migration 2 made before audiences were known.
OLD = (
    "DROP TABLE champions",
    "DROP TABLE champion_log",
    "DROP TABLE learned",
    "DROP TABLE adapters",
    "CREATE TABLE adapters (seq INTEGER PRIMARY KEY, id VARCHAR(255) NOT NULL UNIQUE, task VARCHAR(128) NOT NULL, "
    "status VARCHAR(16) NOT NULL, manifest_sha256 VARCHAR(64) NOT NULL, report TEXT NOT NULL)",
    "CREATE TABLE champions (task VARCHAR(128) PRIMARY KEY, adapter_id VARCHAR(255) REFERENCES adapters (id))",
    "CREATE TABLE champion_log (seq INTEGER PRIMARY KEY, task VARCHAR(128) NOT NULL, kind VARCHAR(16) NOT NULL, "
    "adapter_id VARCHAR(255), previous_id VARCHAR(255), reason TEXT NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE TABLE learned (adapter_id VARCHAR(255) REFERENCES adapters (id), feedback_id VARCHAR(64), "
    "PRIMARY KEY (adapter_id, feedback_id))",
)


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the fourth schema: a task with a champion, and one that was rolled back to its base."""
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:4])
        database = Database(tmp_path, database_url)
        with database.write() as connection:
            for statement in OLD:
                connection.execute(sa.text(statement))
            insert = sa.text("INSERT INTO adapters VALUES (:seq, :id, :task, 'approved', '', :report)")
            report = json.dumps({"retired_ids": ["f1"]})
            for seq, name, text in ((1, "a1", "{}"), (2, "a2", report), (3, "a3", "[")):
                connection.execute(insert, {"seq": seq, "id": name, "task": "x", "report": text})
            connection.execute(sa.text("INSERT INTO champions VALUES ('x', 'a2'), ('y', NULL)"))
            log = "INSERT INTO champion_log VALUES (1, 'x', 'promote', 'a1', NULL, 'r', 1.0), "
            connection.execute(sa.text(f"{log} (2, 'x', 'promote', 'a2', 'a1', 'r', 2.0)"))
        database.close()
    return tmp_path


def test_what_served_goes_on_serving_everyone(folder: Path, database_url: str) -> None:
    database = Database(folder, database_url)
    store = AdapterStore(database, folder / "adapters")
    assert store.champion_id("x") == "a2"
    assert store.champion_ids("x", {"everyone", "user:ann"}) == {"everyone": "a2"}
    assert store.champion_ids("y", {"everyone"}) == {"everyone": None}
    assert store.previous_id("x") == "a1"
    assert [entry["adapter_id"] for entry in store.log("x")] == ["a1", "a2"]
    assert store.retired_ids("x") == {"everyone": frozenset({"f1"})}
    assert store.champion_id("x", "user:ann") is None
    database.close()
