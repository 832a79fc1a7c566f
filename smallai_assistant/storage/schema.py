"""The tables, and the migrations that bring an older database up to them."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text))

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(512)),
    sa.Column("created_at", sa.Double, nullable=False),
)

# `body` is JSON with ASCII escapes: any text survives, on any database.
turns = sa.Table(
    "turns",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("session_id", sa.String(64), sa.ForeignKey("sessions.id"), nullable=False, index=True),
    sa.Column("user_id", sa.String(512)),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("id", sa.String(512), primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
)

interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.String(512), nullable=False, index=True),
    sa.Column("item_id", sa.String(512), nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

# `state` is `active`, `retracted` (undone; stays in the log) or `erased` (the content is gone, the row says so).
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("key", sa.String(200), unique=True),
    sa.Column("turn_id", sa.String(64), sa.ForeignKey("turns.id"), nullable=False, index=True),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("source", sa.String(512), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(255), nullable=False, unique=True),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("report", sa.Text, nullable=False),
)

# Who serves; a row without an adapter is a task that was rolled back to its bare base.
champions = sa.Table(
    "champions",
    metadata,
    sa.Column("task", sa.String(128), primary_key=True),
    sa.Column("adapter_id", sa.String(255), sa.ForeignKey("adapters.id")),
)

# Every move of a champion, with the reason: the answer to "why did it change?".
champion_log = sa.Table(
    "champion_log",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("adapter_id", sa.String(255)),
    sa.Column("previous_id", sa.String(255)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

# Which adapter learned from which feedback.
learned = sa.Table(
    "learned",
    metadata,
    sa.Column("adapter_id", sa.String(255), sa.ForeignKey("adapters.id"), primary_key=True),
    sa.Column("feedback_id", sa.String(64), primary_key=True, index=True),
)


def _create_first(connection: sa.Connection) -> None:
    for table in (meta, sessions, turns, items, interactions):
        table.create(connection)


def _create_learning(connection: sa.Connection) -> None:
    for table in (feedback, adapters, champions, champion_log, learned):
        table.create(connection)


# One function a schema version; a database at version n gets those after the n-th, in one transaction.
MIGRATIONS: list[Callable[[sa.Connection], None]] = [_create_first, _create_learning]
