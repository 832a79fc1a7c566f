"""One database: SQLite in the data directory, or any by URL. Opening, durability, migrations, errors."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from smallai_assistant.errors import ConfigError, StoreError, StoreFull

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


def _create_first(connection: sa.Connection) -> None:
    for table in (meta, sessions, turns, items, interactions):
        table.create(connection)


# One function a schema version; a database at version n gets those after the n-th, in one transaction.
MIGRATIONS: list[Callable[[sa.Connection], None]] = [_create_first]


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite can corrupt a WAL database that two connections write at once.

    3.7.0 to 3.51.2 are affected, but for the fixed 3.50.7 and 3.44.6 and what follows them in their lines
    (SQLite's release notes for 3.51.3).
    """
    if version < (3, 7, 0) or version >= (3, 51, 3):
        return False
    first_fixed = {(3, 50): 7, (3, 44): 6}.get((version[0], version[1]))
    return first_fixed is None or version[2] < first_fixed


class Database:
    """A connection pool that commits durably and speaks in our errors.

    Args:
        url: an SQLAlchemy URL; empty for `smallai.sqlite` in `data_dir`.

    Raises:
        ConfigError: `data_dir` cannot be written, or the URL is malformed or its driver missing.
        StoreError: the schema is newer than this version, or the database cannot be opened.
    """

    def __init__(self, data_dir: Path, url: str = "") -> None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the data directory {data_dir} cannot be written: {error.strerror}",
                hint="set data_dir or SMALLAI_DATA_DIR to a folder of yours",
            ) from error
        self.path = None if url else data_dir / "smallai.sqlite"
        try:
            self.engine = sa.create_engine(url or f"sqlite:///{self.path}")
        except (sa.exc.ArgumentError, ImportError) as error:
            raise ConfigError(
                f"database_url cannot be used: {error}",
                hint="for PostgreSQL install the extra [postgres] and use postgresql+psycopg://USER@HOST/NAME",
            ) from error
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.journal_mode = "server"
        if self.is_sqlite:
            self._set_up_sqlite()
        with _typed_errors():
            self._migrate()

    def _set_up_sqlite(self) -> None:
        mode = "DELETE" if has_wal_reset_bug(sqlite3.sqlite_version_info) else "WAL"
        self.journal_mode = mode.lower()

        @event.listens_for(self.engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's
            for pragma in (f"journal_mode={mode}", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(self.engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            # A writer that starts as a reader cannot wait for its turn: SQLite answers BUSY at once.
            writes = connection.get_execution_options().get("writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with _typed_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction; what it wrote is on disk when the block is left without an error.

        Raises:
            StoreFull: the disk is full; nothing of the transaction is kept.
            StoreError: any other failure of the database.
        """
        with _typed_errors(), self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    @property
    def schema_version(self) -> int:
        """How many of `MIGRATIONS` the database has had."""
        with self.read() as connection:
            return _schema_version(connection)

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.write() as connection:
            version = _schema_version(connection)
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"the database has schema {version}, this version knows {len(MIGRATIONS)}",
                    hint="upgrade smallai-assistant, or use another data directory",
                )
            if version == len(MIGRATIONS):
                return
            if version and self.path is not None:
                self._back_up(version)
            for migrate in MIGRATIONS[version:]:
                migrate(connection)
            connection.execute(sa.delete(meta).where(meta.c.key == "schema_version"))
            connection.execute(sa.insert(meta).values(key="schema_version", value=str(len(MIGRATIONS))))

    def _back_up(self, version: int) -> None:
        assert self.path is not None
        target = self.path.with_suffix(f".schema{version}.sqlite")
        with (
            contextlib.closing(sqlite3.connect(self.path)) as source,
            contextlib.closing(sqlite3.connect(target)) as out,
        ):
            source.backup(out)


def _schema_version(connection: sa.Connection) -> int:
    if not sa.inspect(connection).has_table("meta"):
        return 0
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
    return int(value or 0)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip()
        if "full" in reason or "No space left" in reason:
            raise StoreFull(f"the database could not be written: {reason}") from error
        raise StoreError(f"the database failed: {reason}", hint="see `smallai doctor`") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFull("the disk is full") from error
        raise


def upsert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, key: str) -> None:
    """Inserts rows, replacing those with the same key."""
    statement = _insert(connection, table)
    changes = {column.name: statement.excluded[column.name] for column in table.columns if column.name != key}
    connection.execute(statement.on_conflict_do_update(index_elements=[key], set_=changes), rows)


def insert_missing(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, key: str) -> None:
    """Inserts the rows whose key is not there yet."""
    connection.execute(_insert(connection, table).on_conflict_do_nothing(index_elements=[key]), rows)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """SQLite and PostgreSQL share the ON CONFLICT clause, SQLAlchemy has it per dialect."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
