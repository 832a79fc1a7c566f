"""Migration 3: stored keys get their one form, and times that lie ahead are taken back."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path

import pytest
import sqlalchemy as sa

from smallai_assistant.feedback import Feedback
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.schema import MIGRATIONS, feedback, interactions, items, sessions, turns
from smallai_assistant.storage.turn_store import TurnStore

ZOE, OLD_ZOE = unicodedata.normalize("NFC", "Zoë"), unicodedata.normalize("NFD", " Zoë")
BODY = {
    "role": "user",
    "request": [{"type": "text", "text": "q"}],
    "response": [{"type": "label", "label": "cat", "id": 1, "score": 0.5}],
    **dict.fromkeys(("model", "adapter", "error")),
    "notices": [],
    "details": {},
    "timings": {},
}
GIVEN = {"is_good": None, "correction": unicodedata.normalize("NFD", "Käfer "), "comment": "", "signal": "click"}
GIVEN |= {"value": None, "item": f"{OLD_ZOE} 1", "is_explicit": True, "may_train": True}
YEAR_2126 = 4_922_000_000.0


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the second schema, whose rows were stored before keys had one form."""
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", MIGRATIONS[:2])
        database = Database(tmp_path, database_url)
        with database.write() as connection:
            connection.execute(sa.insert(sessions).values(id="s", user_id=OLD_ZOE, created_at=1.0))
            connection.execute(
                sa.insert(turns).values(
                    id="t", session_id="s", user_id=OLD_ZOE, task="x", created_at=1.0, body=json.dumps(BODY)
                )
            )
            connection.execute(
                sa.insert(feedback).values(
                    id="f",
                    turn_id="t",
                    task="x",
                    source=OLD_ZOE,
                    state="active",
                    created_at=YEAR_2126,
                    body=json.dumps(GIVEN),
                )
            )
            rows = [
                {"id": f"{OLD_ZOE} 1", "title": "old"},
                {"id": f"{ZOE} 1", "title": "new"},
                {"id": " b", "title": "b"},
            ]
            connection.execute(sa.insert(items), [row | {"text": "", "metadata": "{}"} for row in rows])
            connection.execute(
                sa.insert(interactions),
                [
                    {"user_id": OLD_ZOE, "item_id": " b", "weight": 1.0, "at": 5.0},
                    {"user_id": ZOE, "item_id": "b", "weight": 1.0, "at": YEAR_2126},
                ],
            )
        database.close()
    return tmp_path


def test_old_keys_match_new_ones(folder: Path, database_url: str) -> None:
    database = Database(folder, database_url)
    assert database.schema_version == len(MIGRATIONS) >= 3
    store, item_store = TurnStore(database, folder / "media"), ItemStore(database)
    feedback_store = FeedbackStore(database, store)
    assert store.user_of_session("s") == store.turn("t").user_id == ZOE
    assert [(item.id, item.title) for item in item_store.items()] == [(f"{ZOE} 1", "new"), ("b", "b")]
    assert {row.item for row in item_store.interactions_of(OLD_ZOE)} == {"b"}
    assert [row.at for row in item_store.interactions_of(ZOE)] == [5.0, pytest.approx(time.time(), abs=600)]
    [judged_turn] = feedback_store.judged_turns("x")
    given = judged_turn.feedback
    assert (given.source, given.item, given.correction) == (ZOE, f"{ZOE} 1", unicodedata.normalize("NFC", "Käfer"))
    assert given.created_at.timestamp() == pytest.approx(time.time(), abs=600)
    feedback_store.add(Feedback("t", correction="later"))
    assert feedback_store.judged_turns("x")[-1].feedback.correction == "later"
    store.close()
    database.close()
    if "sqlite" in database_url:
        assert (folder / "smallai.schema2.sqlite").stat().st_mode & 0o077 == 0
