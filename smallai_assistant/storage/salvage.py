"""Copies what can be read out of a SQLite file with damaged pages, and puts it in the file's place."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from smallai_assistant.errors import StoreError
from smallai_assistant.storage.revisions import ERASURES, feedback_key
from smallai_assistant.storage.row_reader import UnreadableRow

_LOCK_WAIT_S = 30
_N_AT_ONCE = 256  # rows that are read together; a damaged page holds at most some dozens


def is_readable(path: Path) -> bool:
    """Whether SQLite can open the file and read its schema."""
    try:
        with contextlib.closing(_open(path)) as connection:
            _tables(connection)
    except sqlite3.DatabaseError as error:
        # A busy database is readable.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return True


def salvage(path: Path, kept: Path) -> list[UnreadableRow]:
    """Replaces the content of a database by the rows that can be read, if some cannot. Other processes wait.

    Args:
        kept: a copy of the damaged file goes here, if there is any damage.

    Returns:
        The rows that are lost.

    Raises:
        StoreError: the file is locked, or nothing of a table can be read.
    """
    copy = path.with_suffix(".salvaged")
    copy.unlink(missing_ok=True)
    try:
        with contextlib.closing(_open(path)) as live:
            # The lock outlives the transaction: nobody writes between the reading and the replacement.
            live.execute("PRAGMA locking_mode=EXCLUSIVE")
            live.execute("BEGIN EXCLUSIVE")
            live.execute("COMMIT")
            lost = [UnreadableRow(table, row_id, "", "its page is damaged") for table, row_id in _damage(live)]
            if not lost:
                return []
            _private_copy(path, kept)
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
            with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as new:
                new.execute("BEGIN")
                for table, create in _tables(live):
                    new.execute(create)
                    _copy_rows(live, new, table)
                for (create,) in live.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"):
                    new.execute(create)
                _renew_counters(new)
                new.execute("COMMIT")
                new.backup(live)
            return lost
    except sqlite3.Error as error:
        raise StoreError(f"{path.name} could not be repaired: {error}", hint="put it back from a backup") from error
    finally:
        copy.unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=_LOCK_WAIT_S)


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [(str(name), str(create)) for name, create in connection.execute(query)]


def _damage(live: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """The table and the row id of each row that cannot be read."""
    for table, _ in _tables(live):
        try:
            for _row in live.execute(f'SELECT * FROM "{table}"'):  # noqa: S608  (a name of the schema)
                pass
        except (sqlite3.DatabaseError, OverflowError):
            _, lost = _read(live, table)
            yield from ((table, row_id) for row_id in lost)


def _copy_rows(live: sqlite3.Connection, new: sqlite3.Connection, table: str) -> None:
    rows, _ = _read(live, table)
    for row in rows:
        marks = ", ".join("?" for _ in row)
        # OR IGNORE: damage may have doubled a key.
        new.execute(f'INSERT OR IGNORE INTO "{table}" VALUES ({marks})', row)  # noqa: S608


def _read(live: sqlite3.Connection, table: str) -> tuple[list[tuple[Any, ...]], list[int]]:
    """The rows of a table, and the ids of those that cannot be read."""
    rows: list[tuple[Any, ...]] = []
    lost: list[int] = []
    ids = _row_ids(live, table)
    parts = [ids[start : start + _N_AT_ONCE] for start in range(0, len(ids), _N_AT_ONCE)][::-1]
    while parts:
        part = parts.pop()
        try:
            # A single row by equality: at the end of a range SQLite already looks at the next row, on the next page.
            where = "rowid = ?" if len(part) == 1 else "rowid BETWEEN ? AND ?"
            query = f'SELECT * FROM "{table}" WHERE {where} ORDER BY rowid'  # noqa: S608
            rows += live.execute(query, part[:1] if len(part) == 1 else (part[0], part[-1])).fetchall()
        except sqlite3.DatabaseError:
            if len(part) == 1:
                lost.append(part[0])
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]  # the first half is popped first
    return rows, lost


def _row_ids(live: sqlite3.Connection, table: str) -> Sequence[int]:
    """The ids of all rows. An index holds them too: the table's own tree may be damaged above them."""
    found: set[int] = set()
    names = [row[1] for row in live.execute(f'PRAGMA index_list("{table}")')]
    for source in (f'"{table}" NOT INDEXED', *(f'"{table}" INDEXED BY "{name}"' for name in names)):
        with contextlib.suppress(sqlite3.DatabaseError):
            for (row_id,) in live.execute(f"SELECT rowid FROM {source}"):  # noqa: S608
                found.add(row_id)
    return sorted(found)


def _renew_counters(new: sqlite3.Connection) -> None:
    """Sets the counters of writes ahead of everything that a running process has seen: its memory is out of date."""
    now = int(time.time())  # no counter of single writes is that large
    keys = [key for (key,) in new.execute("SELECT key FROM meta WHERE key LIKE '%revision%'")]
    with contextlib.suppress(sqlite3.OperationalError):  # the first schema has no feedback
        keys += [feedback_key(task) for (task,) in new.execute("SELECT DISTINCT task FROM feedback")]
    for key in {*keys, ERASURES}:
        new.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(now)))


def _private_copy(path: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(path, target)
