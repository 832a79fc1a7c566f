"""Migration 4: stored feedback gets its audience. Files of earlier versions get it when they are imported."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.echo_learner import open_echo

from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.schema import MIGRATIONS, feedback, sessions, turns
from smallai_assistant.storage.turn_store import TurnStore

BODY = {
    "role": "user",
    "request": [{"type": "text", "text": "q"}],
    "response": [],
    **dict.fromkeys(("model", "adapter", "error")),
    "notices": [],
    "details": {},
    "timings": {},
}
GIVEN = {"is_good": True, "correction": None, "comment": "", "signal": None, "value": None, "item": None}
GIVEN |= {"is_explicit": True, "may_train": True}


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the third schema: a turn of ada, a turn of nobody, feedback on each, and a broken row."""
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:3])
        database = Database(tmp_path, database_url)
        with database.write() as connection:
            for name, user in (("a", "ada"), ("n", None)):
                connection.execute(sa.insert(sessions).values(id=name, user_id=user, created_at=1.0))
                turn = {"id": name, "session_id": name, "user_id": user, "task": "x", "created_at": 1.0}
                connection.execute(sa.insert(turns).values(turn | {"body": json.dumps(BODY)}))
                row = {"id": f"of {name}", "turn_id": name, "task": "x", "source": user or "local", "created_at": 2.0}
                connection.execute(sa.insert(feedback).values(row | {"state": "active", "body": json.dumps(GIVEN)}))
            row = {"id": "broken", "turn_id": "a", "task": "x", "source": "ada", "created_at": 2.0}
            connection.execute(sa.insert(feedback).values(row | {"state": "active", "body": "["}))
            row = {"id": "gone", "turn_id": "a", "task": "x", "source": "ada", "created_at": 2.0}
            connection.execute(sa.insert(feedback).values(row | {"state": "erased", "body": "{}"}))
        database.close()
    return tmp_path


def test_feedback_on_a_turn_with_a_user_is_for_that_user(
    folder: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        database = Database(folder, database_url)
    store = TurnStore(database, folder / "media")
    rows = {row.feedback.id: row for row in FeedbackStore(database, store).judged_turns("x")}
    assert {key: (row.feedback.audience, row.audience) for key, row in rows.items()} == {
        "of a": ("user", "user:ada"),
        "of n": ("everyone", "everyone"),
    }
    assert "1 rows about turns with a user reach that user only" in caplog.text
    store.close()
    database.close()


def test_an_export_carries_audiences_and_an_old_one_gets_them(tmp_path: Path) -> None:
    file, old = tmp_path / "feedback.jsonl", tmp_path / "old.jsonl"
    with open_echo(tmp_path / "first") as own:
        own.ask("a", task="echo", user_id="ada").rate(correction="A")
        own.ask("b", task="echo", user_id="ada").rate(correction="B", audience="group:lab")
        own.ask("c", task="echo").rate(correction="C")
        own.export_feedback(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["feedback"]["audience"] for line in lines[1:]] == ["user", "group:lab", "everyone"]
    for line in lines[1:]:
        del line["feedback"]["audience"]
    old.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name, source, wanted in (
        ("second", file, ["user", "group:lab", "everyone"]),
        ("third", old, ["user", "user", "everyone"]),
    ):
        with open_echo(tmp_path / name) as own:
            own.import_feedback(source)
            assert [row.feedback.audience for row in own.feedback.rows() if row.feedback] == wanted
            assert own.ask("a", task="echo", user_id="ada").text == "A"
            assert own.ask("a", task="echo", user_id="bob").text == "a"
