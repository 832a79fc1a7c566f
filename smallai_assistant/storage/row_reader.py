"""Reads rows so that one that cannot be read does not hide the others.

A row may hold what an older version of the program let in, and a page of the file may be damaged. Such a row is set
aside: it is named in the log and by `smallai doctor`, and all others are read.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")
Row = sa.Row[Any]
log = logging.getLogger(__name__)
_IDS_PER_STATEMENT = 400  # a statement binds up to two values for each; older builds of SQLite allow 999
_N_SHOWN = 200  # characters of a reason: it may quote the row


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that was set aside.

    Attributes:
        key: its `seq`; its `id` in a table without one.
        id: its public id; empty if that cannot be read either.
    """

    table: str
    key: int | str
    id: str
    reason: str


class RowReader:
    """Reads the rows of one database. Thread-safe.

    Attributes:
        found: the rows that could not be read so far, each once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.found: dict[tuple[str, int | str], UnreadableRow] = {}

    def select(
        self,
        connection: sa.Connection,
        table: sa.Table,
        where: Mapping[str, Any],
        *,
        but: Mapping[str, Any] | None = None,
        between: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Rows of a table, in the order of its key. A damaged page costs its own rows only.

        Args:
            where: column -> value that the row must have.
            but: column -> value that it must not have.
            between: the first and the last `seq`.
            limit: keeps the last ones; with `between` the first ones.
        """
        key = key_column(table)
        query = sa.select(table)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        for name, value in (but or {}).items():
            query = query.where(table.c[name] != value)
        is_backwards = between is None
        query = query.order_by(key.desc()) if between is None else query.where(key.between(*between)).order_by(key)
        try:
            rows = list(connection.execute(query.limit(limit) if limit is not None else query).all())
            return rows[::-1] if is_backwards else rows
        except sa.exc.DBAPIError as error:
            if not means_damage(error):
                raise
        rows = self._scan(connection, table, between)
        fits = [
            row
            for row in rows
            if all(getattr(row, name) == value for name, value in where.items())
            and all(getattr(row, name) != value for name, value in (but or {}).items())
        ]
        if limit is None:
            return fits
        return fits[-limit:] if is_backwards else fits[:limit]

    def read(self, table: sa.Table, rows: Iterable[Row], make: Callable[[Row], T]) -> list[T]:
        """The values that `make` makes of rows, without those that it cannot read."""
        made = []
        for row in rows:
            try:
                made.append(make(row))
            # Whatever was let in once may raise anything here, a RecursionError too.
            except Exception as error:
                key = getattr(row, key_column(table).name)
                row_id = str(getattr(row, "id", ""))
                self._note(UnreadableRow(table.name, key, row_id, f"{type(error).__name__}: {error}"))
        return made

    def _scan(self, connection: sa.Connection, table: sa.Table, between: tuple[int, int] | None) -> list[Row]:
        """Reads a table by its key alone, and halves each range that fails until only the bad rows are left out."""
        key = key_column(table)
        # An index holds the keys too. The table's own tree may be damaged above them.
        order = table.c.id if "id" in table.c else table.c.user_id
        names = {key.name: key, order.name: order}
        keys = connection.execute(sa.select(*names.values()).order_by(order)).all()
        wanted = sorted(
            (row for row in keys if between is None or between[0] <= getattr(row, key.name) <= between[1]),
            key=lambda row: getattr(row, key.name),
        )
        rows: list[Row] = []
        ranges = [wanted]
        while ranges:
            part = ranges.pop()
            if not part:
                continue
            first, last = getattr(part[0], key.name), getattr(part[-1], key.name)
            # A single row by equality: at the end of a range SQLite already looks at the next row, on the next page.
            found = sa.select(table).where(key == first if len(part) == 1 else key.between(first, last))
            try:
                rows += connection.execute(found.order_by(key)).all()
            except sa.exc.DBAPIError as error:
                if not means_damage(error):
                    raise
                if len(part) == 1:
                    self._note(UnreadableRow(table.name, first, str(getattr(part[0], "id", "")), str(error.orig)))
                else:
                    # The first half is popped first, so that the rows come out in order.
                    ranges += [part[len(part) // 2 :], part[: len(part) // 2]]
        return rows

    def _note(self, row: UnreadableRow) -> None:
        with self._lock:
            if (row.table, row.key) in self.found:
                return  # said already: a task reads its rows at every answer
            self.found[row.table, row.key] = row
        log.error(
            "a row of %s cannot be read and is set aside: %s %s: %s (see `smallai doctor`)",
            row.table,
            row.key,
            row.id,
            row.reason[:_N_SHOWN],
        )


def key_column(table: sa.Table) -> sa.Column[Any]:
    """The column that orders a table: `seq`, or the id of a table without one."""
    return table.c.seq if "seq" in table.c else table.c.id


def means_damage(error: sa.exc.DBAPIError) -> bool:
    """Whether a part of the file cannot be read, as opposed to a busy database or a full disk."""
    reason = error.orig
    if not isinstance(reason, sqlite3.Error):
        # Data or an index is corrupted (PostgreSQL documentation, appendix A).
        return getattr(reason, "sqlstate", None) in ("XX001", "XX002")
    code = getattr(reason, "sqlite_errorcode", None) or 0
    # The low byte is the kind of the error. Python decodes text itself, and its error has no code of SQLite.
    return code & 0xFF == sqlite3.SQLITE_CORRUPT or str(reason).startswith("Could not decode to UTF-8")


def chunks(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """The ids in pieces that fit one statement."""
    return (ids[start : start + _IDS_PER_STATEMENT] for start in range(0, len(ids), _IDS_PER_STATEMENT))


def rows_or_one_by_one(
    connection: sa.Connection, table: sa.Table, ids: Sequence[str], query: sa.Select[Any]
) -> list[Row]:
    """The rows of `query` with these ids, also if one of them lies on a damaged page."""
    try:
        return list(connection.execute(query.where(table.c.id.in_(ids))).all())
    except sa.exc.DBAPIError as error:
        if not means_damage(error):
            raise
        if len(ids) <= 1:
            return []  # a scan of the table names it
    half = len(ids) // 2
    return [
        *rows_or_one_by_one(connection, table, ids[:half], query),
        *rows_or_one_by_one(connection, table, ids[half:], query),
    ]
