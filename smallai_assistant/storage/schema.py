"""The tables, and the migrations that bring an older database up to them.

Most tables have two identifiers. `seq` grows in the order of the commits, with gaps on PostgreSQL; the public `id` is
random and says nothing about the order. Times are seconds since 1970 (UTC) as a double: SQLite has no type for times,
and the fraction must survive. `validation.check_storable` enforces the lengths of texts, which SQLite ignores.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput
from smallai_assistant.validation import EVERYONE, MAX_AHEAD, MAX_AUDIENCE_CHARS, canonical_key

log = logging.getLogger(__name__)

ERASED = "{}"  # the body of an erased feedback or turn
# Begins the keys of `meta` that say why a cycle failed: the error of a plugin may quote what is erased later.
FAILURE_PREFIX = "cycle_failure:"
metadata = sa.MetaData()
# `schema_version` is how many migrations were applied. The other keys are counters of writes, see `revisions`, what an
# erasure has yet to delete, see `erasure`, and the last learning cycles, see `cycle_history`.
meta = sa.Table("meta", metadata, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text))


def _audience_column(*, primary_key: bool = False) -> sa.Column[str]:
    """Whom a version serves, as `JudgedTurn.audience` says it."""
    return sa.Column(
        "audience", sa.String(MAX_AUDIENCE_CHARS), nullable=False, server_default=EVERYONE, primary_key=primary_key
    )


sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(512)),  # NULL: nobody said whose session it is
    sa.Column("created_at", sa.Double, nullable=False),
)

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("session_id", sa.String(64), sa.ForeignKey("sessions.id"), nullable=False, index=True),
    # Also in `sessions`; here it says who asked without a join, and an export needs no second table. NULL for an erased
    # turn.
    sa.Column("user_id", sa.String(512)),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    # JSON with ASCII escapes: any text survives in any database. PostgreSQL's JSON type refuses \u0000 and lone
    # surrogates, and no query looks inside. `ERASED`: the content is gone, and the row stays so that an import cannot
    # bring it back.
    sa.Column("body", sa.Text, nullable=False),
)

items = sa.Table(
    "items",
    metadata,
    # Given by the user's own catalogue, such as a URL: longer than the ids that this program makes.
    sa.Column("id", sa.String(512), primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),  # JSON, as `turns.body`
)

interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.String(512), nullable=False, index=True),
    # Not a foreign key: interactions with a removed item still say something about the user, and a log may be imported
    # before the items.
    sa.Column("item_id", sa.String(512), nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    # The caller's idempotency key, optional: a call that is repeated with it stores nothing new.
    sa.Column("key", sa.String(200), unique=True),
    sa.Column("turn_id", sa.String(64), sa.ForeignKey("turns.id"), nullable=False, index=True),
    sa.Column("task", sa.String(128), nullable=False, index=True),  # of the turn, so that a task's rows need no join
    sa.Column("source", sa.String(512), nullable=False, index=True),  # who gave it: a user's id, so as long as one
    # `active`; `retracted`: undone, the row stays in the log; `erased`: the content is gone and `body` is `{}`. The row
    # of an erased feedback stays so that an import or a repeated call cannot bring it back.
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

# A new feedback asks when the latest one of its task was said.
said_at = sa.Index("ix_feedback_task_created_at", feedback.c.task, feedback.c.created_at)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    # Also the name of the adapter's folder, so no longer than a file name may be.
    sa.Column("id", sa.String(255), nullable=False, unique=True),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    # The manifest holds the hashes of the adapter's files. This hash lies outside the folder, so whoever changes a file
    # and its manifest together is still found out.
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("report", sa.Text, nullable=False),  # JSON of the learning report
    # Also in the report, as JSON: a rebuild of a memory reads those of a thousand personal versions. NULL: none.
    sa.Column("retired_ids", sa.Text),
    _audience_column(),
)

# Which adapter serves whom. A row with NULL says that the task was rolled back to what serves everyone, or to its base
# model; no row says that it never had a champion.
champions = sa.Table(
    "champions",
    metadata,
    sa.Column("task", sa.String(128), primary_key=True),
    _audience_column(primary_key=True),
    sa.Column("adapter_id", sa.String(255), sa.ForeignKey("adapters.id")),
)

# Every change of a champion, with the reason: the answer to "why did it change?".
champion_log = sa.Table(
    "champion_log",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("task", sa.String(128), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    # Not foreign keys: the log outlives the adapters that it names. NULL is the base model.
    sa.Column("adapter_id", sa.String(255)),
    sa.Column("previous_id", sa.String(255)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    _audience_column(),
)

# Which adapter learned from which feedback: an erasure must find the adapters that hold what is erased.
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


def _normalize_keys(connection: sa.Connection) -> None:
    """Gives stored keys the one form that they have since (`canonical_key`), and takes times back that lie ahead.

    Stored keys are compared in SQL, so the rows themselves must have that form.
    """
    for table, name in (
        (sessions, "user_id"),
        (turns, "user_id"),
        (interactions, "user_id"),
        (interactions, "item_id"),
        (feedback, "source"),
        (items, "id"),
    ):
        column = table.c[name]
        for old in connection.scalars(sa.select(column).where(column.is_not(None)).distinct()).all():
            try:
                new = canonical_key(name, old)
            except InvalidInput:  # blank, or text that no door lets in any more; it stays as it is
                continue
            if new == old:
                continue
            # An item's id is unique: the item with the canonical spelling stays.
            if table is items and connection.scalar(sa.select(sa.true()).where(items.c.id == new)):
                connection.execute(sa.delete(items).where(items.c.id == old))
            else:
                connection.execute(sa.update(table).where(column == old).values({name: new}))
    said_at.create(connection, checkfirst=True)  # a database that is made now has it already
    now = time.time()
    for times in (feedback.c.created_at, interactions.c.at):
        ahead = times > now + MAX_AHEAD.total_seconds()
        connection.execute(sa.update(times.table).where(ahead).values({times.name: now}))


def _name_audiences(connection: sa.Connection) -> None:
    """Gives stored feedback its audience: what was said about a turn with a user stays with that user."""
    query = sa.select(feedback.c.seq, feedback.c.body, turns.c.user_id).join(turns, turns.c.id == feedback.c.turn_id)
    n_personal = 0
    for row in connection.execute(query.where(feedback.c.body != ERASED)).all():
        try:
            body = json.loads(row.body)
            known = body.setdefault("audience", "user" if row.user_id is not None else "everyone")
        except (ValueError, RecursionError, AttributeError):  # no reader can read it either; `RowReader` names it
            continue
        n_personal += known == "user"
        connection.execute(sa.update(feedback).where(feedback.c.seq == row.seq).values(body=json.dumps(body)))
    if n_personal:
        log.warning(
            "feedback now has an audience: %d rows about turns with a user reach that user only; rows about turns "
            "without a user reach everyone",
            n_personal,
        )


def _key_champions_by_audience(connection: sa.Connection) -> None:
    """Gives versions, champions and the log of champions the audience that they had so far: everyone."""
    inspector = sa.inspect(connection)
    for table, column in (
        (adapters, adapters.c.audience),
        (adapters, adapters.c.retired_ids),
        (champion_log, champion_log.c.audience),
    ):
        if column.name not in {found["name"] for found in inspector.get_columns(table.name)}:
            declared = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {declared}"))
    if "audience" not in {found["name"] for found in inspector.get_columns(champions.name)}:
        # SQLite cannot change a primary key, and there is one row for each task.
        rows = connection.execute(sa.text("SELECT task, adapter_id FROM champions")).all()
        connection.execute(sa.text("DROP TABLE champions"))
        champions.create(connection)
        for row in rows:
            connection.execute(sa.insert(champions).values(task=row.task, adapter_id=row.adapter_id))
    for row in connection.execute(sa.select(adapters.c.id, adapters.c.report)).all():
        try:
            retired = json.loads(row.report).get("retired_ids") or ()
        except (ValueError, RecursionError, AttributeError):  # a report that nobody can read retires nothing
            continue
        known = json.dumps(list(retired)) if retired else None
        connection.execute(sa.update(adapters).where(adapters.c.id == row.id).values(retired_ids=known))


# One function for each schema version. A database at version n gets the functions after the n-th in one transaction.
# A released function never changes: a later version adds one.
MIGRATIONS: list[Callable[[sa.Connection], None]] = [
    _create_first,
    _create_learning,
    _normalize_keys,
    _name_audiences,
    _key_champions_by_audience,
]
