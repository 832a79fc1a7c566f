"""Which version serves a task, and the log of every move. All functions work in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput
from smallai_assistant.storage.database import upsert
from smallai_assistant.storage.revisions import feedback_key, increment
from smallai_assistant.storage.schema import adapters, champion_log, champions

# `damaged`: a file of the champion was not what its hash says. `erased`: a version learned from feedback that was
# erased, served or not; `previous_id` names it.
MoveKind = Literal["promote", "rollback", "damaged", "erased"]
_COLUMNS = ("kind", "adapter_id", "previous_id", "reason", "at")


def champion_of(connection: sa.Connection, task: str) -> str | None:
    """The id of the version that serves; None for the bare base."""
    found = connection.scalar(sa.select(champions.c.adapter_id).where(champions.c.task == task))
    return None if found is None else str(found)


def move(connection: sa.Connection, task: str, adapter_id: str | None, kind: MoveKind, reason: str) -> str | None:
    """Lets a version serve, and logs it. Returns the id of the version that served before."""
    previous = champion_of(connection, task)
    upsert(connection, champions, [{"task": task, "adapter_id": adapter_id}], key="task")
    note(connection, task, kind, adapter_id=adapter_id, previous_id=previous, reason=reason)
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
) -> None:
    """Adds an entry to the log."""
    at = datetime.now(UTC).timestamp()
    row = {"task": task, "kind": kind, "adapter_id": adapter_id, "previous_id": previous_id, "reason": reason, "at": at}
    connection.execute(sa.insert(champion_log).values(row))


def entries(connection: sa.Connection, task: str) -> list[dict[str, Any]]:
    """The log of a task, oldest first: kind, adapter_id, previous_id, reason, at (seconds since 1970)."""
    query = sa.select(champion_log).where(champion_log.c.task == task).order_by(champion_log.c.seq)
    return [{name: getattr(row, name) for name in _COLUMNS} for row in connection.execute(query)]


def last_entry(connection: sa.Connection, task: str) -> dict[str, Any] | None:
    """The last entry of the log of a task; None if nothing ever served it."""
    query = sa.select(champion_log).where(champion_log.c.task == task).order_by(champion_log.c.seq.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else {name: getattr(row, name) for name in _COLUMNS}


def task_of(connection: sa.Connection, adapter_id: str) -> str:
    """The task of a version.

    Raises:
        InvalidInput: there is no version with that id.
    """
    task = connection.scalar(sa.select(adapters.c.task).where(adapters.c.id == adapter_id))
    if task is None:
        raise missing_adapter(connection, adapter_id)
    return str(task)


def missing_adapter(connection: sa.Connection, adapter_id: str) -> InvalidInput:
    """The error of an id that no version has; it tells if an erasure took the version."""
    query = sa.select(champion_log.c.reason)
    query = query.where(champion_log.c.kind == "erased", champion_log.c.previous_id == adapter_id)
    if (reason := connection.scalar(query.limit(1))) is not None:
        return InvalidInput(f"the adapter {adapter_id} is gone: {reason}", hint="train again with `smallai learn`")
    return InvalidInput(f"there is no adapter {adapter_id!r}", hint="see `smallai adapters list`")


def previous_of(connection: sa.Connection, task: str, *, but: Collection[str] = ()) -> str | None:
    """The version that a rollback brings back; None for the bare base. Two rollbacks go back two promotions.

    Args:
        but: versions that must not serve.
    """
    # The log is replayed on a stack: a promotion pushes, everything else pops down to the version that it names.
    served: list[str | None] = [None]
    for entry in entries(connection, task):
        now = entry["adapter_id"]
        if now == served[-1]:
            continue
        if entry["kind"] != "promote" and now in served:
            while served[-1] != now:
                served.pop()
        else:
            served.append(now)
    # Versions on the stack may have been removed since.
    existing = set(connection.scalars(sa.select(adapters.c.id).where(adapters.c.task == task))) - set(but)
    return next((version for version in reversed(served) if version in existing and version != served[-1]), None)
