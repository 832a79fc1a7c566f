"""Which version serves whom, and the log of every move. All functions work in the caller's transaction.

Each audience of a task has a champion and a log of its own: everyone, a group, one person.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput
from smallai_assistant.storage.database import upsert
from smallai_assistant.storage.revisions import feedback_key, increment
from smallai_assistant.storage.schema import adapters, champion_log, champions
from smallai_assistant.validation import EVERYONE, how_personal

# `damaged`: a file of the champion was not what its hash says. `erased`: a version learned from feedback that was
# erased, served or not; `previous_id` names it.
MoveKind = Literal["promote", "rollback", "damaged", "erased"]
_COLUMNS = ("kind", "adapter_id", "previous_id", "reason", "at")


def champion_of(connection: sa.Connection, task: str, audience: str = EVERYONE) -> str | None:
    """The id of the audience's own version that serves; None for what serves everyone, or the bare base."""
    query = sa.select(champions.c.adapter_id).where(champions.c.task == task, champions.c.audience == audience)
    found = connection.scalar(query)
    return None if found is None else str(found)


def champions_of(connection: sa.Connection, task: str, audiences: Collection[str]) -> dict[str, str | None]:
    """The champion of each of these audiences that ever had one, the most personal audience first."""
    query = sa.select(champions.c.audience, champions.c.adapter_id)
    query = query.where(champions.c.task == task, champions.c.audience.in_(sorted(audiences)))
    rows = sorted(connection.execute(query).all(), key=lambda row: how_personal(row.audience), reverse=True)
    return {row.audience: row.adapter_id for row in rows}


def retired_by_champions(connection: sa.Connection, task: str) -> dict[str, frozenset[str]]:
    """The feedback that each champion answers by itself, by the audience that it serves."""
    query = sa.select(champions.c.audience, adapters.c.retired_ids).join(adapters)
    rows = connection.execute(query.where(champions.c.task == task, adapters.c.retired_ids.is_not(None))).all()
    return {row.audience: frozenset(json.loads(row.retired_ids)) for row in rows}


def move(
    connection: sa.Connection,
    task: str,
    adapter_id: str | None,
    kind: MoveKind,
    reason: str,
    *,
    audience: str = EVERYONE,
) -> str | None:
    """Lets a version serve, and logs it. Returns the id of the version that served before."""
    previous = champion_of(connection, task, audience)
    row = {"task": task, "audience": audience, "adapter_id": adapter_id}
    upsert(connection, champions, [row], key=["task", "audience"])
    note(connection, task, kind, adapter_id=adapter_id, previous_id=previous, reason=reason, audience=audience)
    # Another version has learned other rows, so the fast memory holds others, in every process.
    increment(connection, feedback_key(task))
    return previous


def note(
    connection: sa.Connection,
    task: str,
    kind: MoveKind,
    *,
    adapter_id: str | None,
    previous_id: str | None,
    reason: str,
    audience: str = EVERYONE,
) -> None:
    """Adds an entry to the log."""
    at = datetime.now(UTC).timestamp()
    row = {"task": task, "kind": kind, "adapter_id": adapter_id, "previous_id": previous_id, "reason": reason, "at": at}
    connection.execute(sa.insert(champion_log).values(row | {"audience": audience}))


def entries(connection: sa.Connection, task: str, audience: str = EVERYONE) -> list[dict[str, Any]]:
    """The log of an audience, oldest first: kind, adapter_id, previous_id, reason, at (seconds since 1970)."""
    query = _log_of(task, audience).order_by(champion_log.c.seq)
    return [{name: getattr(row, name) for name in _COLUMNS} for row in connection.execute(query)]


def last_entry(connection: sa.Connection, task: str, audience: str = EVERYONE) -> dict[str, Any] | None:
    """The last entry of the log of an audience; None if it never had a version of its own."""
    row = connection.execute(_log_of(task, audience).order_by(champion_log.c.seq.desc()).limit(1)).one_or_none()
    return None if row is None else {name: getattr(row, name) for name in _COLUMNS}


def _log_of(task: str, audience: str) -> sa.Select[Any]:
    return sa.select(champion_log).where(champion_log.c.task == task, champion_log.c.audience == audience)


def place_of(connection: sa.Connection, adapter_id: str) -> tuple[str, str]:
    """The task and the audience of a version.

    Raises:
        InvalidInput: there is no version with that id.
    """
    query = sa.select(adapters.c.task, adapters.c.audience).where(adapters.c.id == adapter_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise missing_adapter(connection, adapter_id)
    return row.task, row.audience


def forget_audience(connection: sa.Connection, audience: str) -> None:
    """Deletes who served an audience, and the log of it: they name the person. Its versions are gone already."""
    for table in (champions, champion_log):
        connection.execute(sa.delete(table).where(table.c.audience == audience))


def missing_adapter(connection: sa.Connection, adapter_id: str) -> InvalidInput:
    """The error of an id that no version has; it tells if an erasure took the version."""
    query = sa.select(champion_log.c.reason)
    query = query.where(champion_log.c.kind == "erased", champion_log.c.previous_id == adapter_id)
    if (reason := connection.scalar(query.limit(1))) is not None:
        return InvalidInput(f"the adapter {adapter_id} is gone: {reason}", hint="train again with `smallai learn`")
    return InvalidInput(f"there is no adapter {adapter_id!r}", hint="see `smallai adapters list`")


def previous_of(
    connection: sa.Connection, task: str, audience: str = EVERYONE, *, but: Collection[str] = ()
) -> str | None:
    """The version that a rollback brings back; None for the bare base. Two rollbacks go back two promotions.

    Args:
        but: versions that must not serve.
    """
    # The log is replayed on a stack: a promotion pushes, everything else pops down to the version that it names.
    served: list[str | None] = [None]
    for entry in entries(connection, task, audience):
        now = entry["adapter_id"]
        if now == served[-1]:
            continue
        if entry["kind"] != "promote" and now in served:
            while served[-1] != now:
                served.pop()
        else:
            served.append(now)
    # Versions on the stack may have been removed since.
    known = sa.select(adapters.c.id).where(adapters.c.task == task, adapters.c.audience == audience)
    existing = set(connection.scalars(known)) - set(but)
    return next((version for version in reversed(served) if version in existing and version != served[-1]), None)
