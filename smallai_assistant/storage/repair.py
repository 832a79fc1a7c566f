"""Moves what cannot be read out of a database, so that all the rest is whole again; for `smallai doctor --repair`.

What is moved lies in the folder `set_aside` of the data directory afterwards: nothing is thrown away here. A later
erasure deletes the rows that it names there too, and the copy of a damaged file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import StoreError
from smallai_assistant.filesystem import sync_path, write_atomically
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.revisions import ERASURES, feedback_key, increment
from smallai_assistant.storage.row_reader import UnreadableRow, key_column
from smallai_assistant.storage.salvage import is_readable, salvage
from smallai_assistant.storage.schema import feedback, interactions, items, sessions, turns
from smallai_assistant.storage.sqlite_file import KEPT_FOLDERS, SET_ASIDE, check_not_lost
from smallai_assistant.storage.turn_store import TurnStore

ROWS, DAMAGED = "rows.jsonl", "damaged.sqlite"
_TABLES = {table.name: table for table in (feedback, turns, items, interactions)}  # feedback first: it refers to turns


@dataclass(slots=True)
class Repair:
    """What a repair did.

    Attributes:
        folder: the folder that holds what was moved.
        moved: the rows that were moved, with the reasons. Those of damaged pages are lost; the copy of the file is all
            that there is of them.
        files: names of what was moved or copied as a whole.
    """

    folder: Path
    moved: list[UnreadableRow] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def repair(data_dir: Path, url: str = "") -> Repair:
    """Takes out of the database what cannot be read. Other processes may run: they wait.

    If the database is lost and its adapters and media are still there, they are moved away, and a new one begins.

    Raises:
        StoreError: the database cannot be opened or written.
    """
    done = Repair(data_dir / SET_ASIDE)
    path = data_dir / "smallai.sqlite"
    if not url:
        done.files += _move_lost(path, data_dir, done.folder)
        if path.is_file():
            done.moved += salvage(path, done.folder / DAMAGED)
            done.files += [DAMAGED] if done.moved else []
    database = Database(data_dir, url)
    try:
        found = find_unreadable(database)
        if found:
            _keep(done.folder, ({**_head(row), "row": _content(database, row)} for row in found))
            _delete(database, found)
            done.files.append(ROWS)
            done.moved += found
    finally:
        database.close()
    return done


def find_unreadable(database: Database) -> list[UnreadableRow]:
    """Reads every row as its readers do. Returns those that cannot be read, and feedback whose turn is gone."""
    store = TurnStore(database, database.data_dir / "media")
    try:
        store.turns(None)
        given = FeedbackStore(database, store).rows()
    finally:
        store.close()
    item_store = ItemStore(database)
    item_store.items()
    item_store.interactions()
    found = list(database.reader.found.values())
    unreadable = {row.id for row in found if row.table == turns.name}
    with database.read() as connection:
        known = set(connection.scalars(sa.select(turns.c.id))) - unreadable
        keys = {row.id: row.seq for row in connection.execute(sa.select(feedback.c.id, feedback.c.seq))}
    return found + [
        UnreadableRow(feedback.name, keys[row.id], row.id, f"its turn {row.turn_id} cannot be read")
        for row in given
        if row.turn_id not in known
    ]


def forget_set_aside(data_dir: Path, ids: Collection[str]) -> list[str]:
    """Deletes what an erasure must not leave behind: rows that name one of these ids, and the copy of a damaged file.

    Returns:
        The names of the files that were deleted or shortened.

    Raises:
        StoreError: a file cannot be read or written.
    """
    rows, damaged = data_dir / SET_ASIDE / ROWS, data_dir / SET_ASIDE / DAMAGED
    changed = []
    try:
        if damaged.exists():  # nobody can tell what is in it
            damaged.unlink()
            changed.append(damaged.name)
        if rows.exists():
            lines = rows.read_text(encoding="ascii").splitlines(keepends=True)
            kept = [line for line in lines if not any(row_id in line for row_id in ids)]
            if len(kept) < len(lines):
                write_atomically(rows, "".join(kept).encode())
                changed.append(rows.name)
    except OSError as error:
        raise StoreError(f"{SET_ASIDE} could not be cleared: {error.strerror}") from error
    return changed


def _move_lost(path: Path, data_dir: Path, folder: Path) -> list[str]:
    """Moves a file away that is not a database, and the files of a database that is gone. Returns their new names."""
    moving = [path] if path.is_file() and path.stat().st_size and not is_readable(path) else []
    try:
        if not moving:
            check_not_lost(path, data_dir)
            return []
    except StoreError:
        path.unlink(missing_ok=True)  # it is empty
    moving += [data_dir / name for name in KEPT_FOLDERS if (data_dir / name).is_dir()]
    moving += [file for suffix in ("-journal", "-wal", "-shm") if (file := path.with_name(path.name + suffix)).exists()]
    folder.mkdir(mode=0o700, exist_ok=True)
    names = []
    for source in moving:
        target = folder / f"{source.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        shutil.move(source, target)
        names.append(target.name)
    sync_path(folder)
    sync_path(data_dir)
    return names


def _head(row: UnreadableRow) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {"table": row.table, "key": row.key, "id": row.id, "reason": row.reason[:1000], "set_aside_at": at}


def _content(database: Database, row: UnreadableRow) -> dict[str, Any]:
    """The columns of a row as they are. What is not text in UTF-8 is kept byte by byte, in escapes."""
    table = _TABLES[row.table]
    columns: list[sa.ColumnElement[Any]] = list(table.columns)
    if database.is_sqlite:  # its driver raises for a text that is not UTF-8
        columns = [sa.cast(column, sa.LargeBinary).label(column.name) for column in table.columns]
    try:
        with database.read() as connection:
            found = connection.execute(sa.select(*columns).where(key_column(table) == row.key)).mappings().one()
    except StoreError as error:  # a damaged page of a server
        return {"cannot be read": error.message}
    return {
        name: value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for name, value in found.items()
    }


def _keep(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Adds rows to the file, on disk before they are deleted from the database."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / ROWS, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    sync_path(folder)


def _delete(database: Database, found: list[UnreadableRow]) -> None:
    with database.write() as connection:
        tasks = set(connection.scalars(sa.select(feedback.c.task).distinct()))
        for name, table in _TABLES.items():
            for key in (row.key for row in found if row.table == name):
                connection.execute(sa.delete(table).where(key_column(table) == key))
        _restore_sessions(connection)
        # Every process has a memory that was made of these rows.
        for counter in [*map(feedback_key, sorted(tasks)), "items_revision", "interactions_revision", ERASURES]:
            increment(connection, counter)


def _restore_sessions(connection: sa.Connection) -> None:
    """Makes the sessions that turns name and that are lost."""
    missing = turns.c.session_id.not_in(sa.select(sessions.c.id))
    first = sa.func.min(turns.c.created_at)
    query = sa.select(turns.c.session_id, sa.func.max(turns.c.user_id), first).where(missing)
    connection.execute(
        sa.insert(sessions).from_select(["id", "user_id", "created_at"], query.group_by(turns.c.session_id))
    )
