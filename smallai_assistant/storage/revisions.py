"""Counters in the database: what a process keeps in memory of it carries one, and is checked with it at use."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from smallai_assistant.storage.database import upsert
from smallai_assistant.storage.schema import meta

# Counts the erasures: a conversation that is open drops its turns that were erased.
ERASURES = "erasures"
# The key of `meta` has 64 characters. Two tasks that share the first 40 share a counter: that costs a needless rebuild.
_TASK_CHARS = 40


# Made once: every answer reads counters, and making the statement takes longer than the database takes to answer it.
_READ = sa.select(meta.c.key, meta.c.value).where(meta.c.key.in_(sa.bindparam("keys", expanding=True)))


def feedback_key(task: str) -> str:
    """The counter of a task: every write that changes what its fast memory must hold adds one."""
    return f"feedback_revision:{task[:_TASK_CHARS]}"


def increment(connection: sa.Connection, key: str) -> int:
    """Adds one to a counter and returns it. It is read and then written: only one transaction writes at a time."""
    value = current(connection, [key])[0] + 1
    upsert(connection, meta, [{"key": key, "value": str(value)}], key="key")
    return value


def current(connection: sa.Connection, keys: Sequence[str]) -> list[int]:
    """The values of counters; 0 for one that was never incremented."""
    rows = connection.execute(_READ, {"keys": list(keys)}).all()
    found = {row.key: int(row.value) for row in rows}
    return [found.get(key, 0) for key in keys]
