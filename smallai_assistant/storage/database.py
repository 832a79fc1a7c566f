"""The connection to the database, SQLite in the data directory or PostgreSQL by URL: durability, migrations, errors."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite

from smallai_assistant.errors import ConfigError, StoreError, StoreFull
from smallai_assistant.filesystem import sync_path
from smallai_assistant.storage.schema import MIGRATIONS, meta

log = logging.getLogger(__name__)
# Seconds that a writer waits for the others. An import of 10,000 rows, the longest transaction, takes a few.
LOCK_WAIT_S = 30


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite version can corrupt a WAL database if two connections write at the same time.

    Versions 3.7.0 to 3.51.2 are affected, except 3.50.7 and 3.44.6 and the later patch releases of these two branches
    (SQLite's release notes for 3.51.3).
    """
    if version < (3, 7, 0) or version >= (3, 51, 3):
        return False
    first_fixed = {(3, 50): 7, (3, 44): 6}.get((version[0], version[1]))
    return first_fixed is None or version[2] < first_fixed


class Database:
    """A connection pool whose commits are durable and whose failures are StoreErrors.

    Only one transaction writes at a time, on SQLite and on PostgreSQL. So the rows that a writer has read do not change
    before it writes, and rows become visible in the order of their `seq`.

    Args:
        data_dir: created with access for its owner only, if it is missing.
        url: `postgresql+psycopg://USER@HOST/NAME` or `sqlite:///FILE`; empty for `smallai.sqlite` in `data_dir`.

    Attributes:
        path: SQLite's file; None for a server.
        journal_mode: SQLite's, `wal` or `delete`; `server` for PostgreSQL.

    Raises:
        ConfigError: `data_dir` cannot be written, the URL is malformed or names another kind of database, or the
            database driver is not installed.
        StoreError: the schema is newer than this version of the program, or the database cannot be opened.
    """

    def __init__(self, data_dir: Path, url: str = "") -> None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds what people said
        except OSError as error:
            raise ConfigError(
                f"the data directory {data_dir} cannot be written: {error.strerror}",
                hint="set data_dir or SMALLAI_DATA_DIR to a folder of yours",
            ) from error
        self._is_closed = False
        self._writer = threading.Lock()
        self.engine = _make_engine(url, data_dir / "smallai.sqlite")
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        file = self.engine.url.database
        self.path = Path(file) if self.is_sqlite and file else None
        self.journal_mode = "server"
        if self.is_sqlite:
            self._set_up_sqlite()
        else:
            self._set_up_postgres()
        with _as_store_errors():
            self._migrate()

    def _set_up_sqlite(self) -> None:
        mode = "DELETE" if has_wal_reset_bug(sqlite3.sqlite_version_info) else "WAL"
        self.journal_mode = mode.lower()
        pragmas = (
            f"journal_mode={mode}",
            "synchronous=FULL",  # in WAL mode the default, NORMAL, can lose acknowledged commits in a power cut
            "foreign_keys=ON",  # SQLite ignores foreign keys by default
            f"busy_timeout={LOCK_WAIT_S * 1000}",
            "secure_delete=ON",  # deleted content is overwritten with zeros; otherwise it stays in free pages
        )

        @event.listens_for(self.engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            # The driver must not begin transactions by itself: `on_begin` below chooses the kind of BEGIN.
            connection.isolation_level = None
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(self.engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            # A transaction that begins as a reader cannot wait for the write lock later: SQLite refuses the upgrade
            # at once (SQLITE_BUSY) if another connection has written meanwhile.
            writes = connection.get_execution_options().get("writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    def _set_up_postgres(self) -> None:
        @event.listens_for(self.engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{LOCK_WAIT_S}s'")
                # With `off` the server acknowledges commits that its crash can lose. Stricter settings are kept.
                cursor.execute(
                    "SELECT set_config('synchronous_commit', 'on', false)"
                    " WHERE current_setting('synchronous_commit') = 'off'"
                )
            connection.commit()

        @event.listens_for(self.engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            if connection.get_execution_options().get("writes", False):
                # The lock ends with the transaction. A separate statement takes it: under READ COMMITTED the next
                # statement sees everything that the previous writer committed. The name of the schema is part of the
                # key, so that two installations on one server do not wait for each other.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('smallai ' || current_schema()))")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with _as_store_errors(), self._connect(writes=False) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; its changes are on disk when the block ends without an error.

        Raises:
            StoreFull: the disk is full; the transaction was rolled back.
            StoreError: the database failed for another reason, or other writers took longer than 30 s.
        """
        with _as_store_errors(), self._writer_lock(), self._connect(writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        """Queues the writers of this process: SQLite's own wait polls, and under load some writers never win it."""
        if not self._writer.acquire(timeout=LOCK_WAIT_S):
            raise StoreError(f"the database failed: another writer has held it for {LOCK_WAIT_S} s")
        try:
            yield
        finally:
            self._writer.release()

    @property
    def schema_version(self) -> int:
        """Number of `MIGRATIONS` that were applied to the database."""
        with self.read() as connection:
            return _schema_version(connection)

    def truncate_log(self) -> None:
        """Empties SQLite's write-ahead log, in which erased content can still be read. No effect in other modes."""
        if self.journal_mode == "wal":
            with _as_store_errors(), self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Closes all connections; later calls raise StoreError."""
        self._is_closed = True
        self.engine.dispose()

    def _connect(self, *, writes: bool) -> sa.Connection:
        if self._is_closed:
            raise StoreError("the database is closed", hint="open the assistant again")
        return self.engine.connect().execution_options(writes=writes)

    def _migrate(self) -> None:
        with self.read() as connection:  # usually the schema is current, and no process has to wait for a writer
            if _schema_version(connection) == len(MIGRATIONS):
                return
        with self.write() as connection:
            version = _schema_version(connection)  # another process may have migrated meanwhile
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"the database has schema {version}, this version of the program knows up to {len(MIGRATIONS)}",
                    hint="upgrade smallai-assistant, or use another data directory",
                )
            if version == len(MIGRATIONS):
                return
            if version and self.path is not None:
                self._back_up(version)
            elif version:
                log.warning(
                    "migrating the server's database from schema %d without a backup: back it up with pg_dump", version
                )
            for migrate in MIGRATIONS[version:]:
                migrate(connection)
            connection.execute(sa.delete(meta).where(meta.c.key == "schema_version"))
            connection.execute(sa.insert(meta).values(key="schema_version", value=str(len(MIGRATIONS))))

    def _back_up(self, version: int) -> None:
        """Copies SQLite's file into the same folder; the copy gets its final name when it is complete and on disk."""
        assert self.path is not None
        target = self.path.with_suffix(f".schema{version}.sqlite")
        begun = target.with_suffix(".begun")
        try:
            begun.unlink(missing_ok=True)
            with (
                contextlib.closing(sqlite3.connect(self.path)) as source,
                contextlib.closing(sqlite3.connect(begun)) as out,
            ):
                source.backup(out)
            sync_path(begun)
            os.replace(begun, target)
            sync_path(target.parent)
        except (OSError, sqlite3.Error) as error:
            begun.unlink(missing_ok=True)
            kind = StoreFull if _means_disk_full(error) else StoreError
            raise kind(f"{target.name} could not be written, nothing was migrated: {error}") from error


def _make_engine(url: str, default: Path) -> sa.Engine:
    try:
        parsed = sa.make_url(url) if url else sa.URL.create("sqlite", database=str(default))
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            return sa.create_engine(parsed)
        if parsed.get_backend_name() != "postgresql":
            raise sa.exc.ArgumentError(f"{parsed.get_backend_name()} is not supported")
        # `pool_pre_ping` notices a restarted server before a connection is used. The timeouts turn a silent server
        # into an error instead of a hang; the URL may set others.
        timeouts = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}  # s, s, ms
        given = {name: value for name, value in timeouts.items() if name not in parsed.query}
        return sa.create_engine(parsed, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=given)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise ConfigError(
            f"database_url cannot be used: {error}",
            hint="for PostgreSQL install the extra [postgres] and use postgresql+psycopg://USER@HOST/NAME",
        ) from error


def _schema_version(connection: sa.Connection) -> int:
    if not sa.inspect(connection).has_table("meta"):
        return 0
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
    return int(value or 0)


@contextmanager
def _as_store_errors() -> Iterator[None]:
    """Turns the errors of SQLAlchemy and of the drivers into StoreError, and a full disk into StoreFull."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        # A server's message has several lines, and our errors are one line on the screen.
        reason = "; ".join(line.strip() for line in str(error.orig).splitlines() if line.strip())
        if _means_disk_full(error.orig):
            raise StoreFull(f"the database could not be written: {reason}") from error
        raise StoreError(f"the database failed: {reason}", hint="see `smallai doctor`") from error
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the database failed: {error}", hint="see `smallai doctor`") from error
    except OSError as error:
        if _means_disk_full(error):
            raise StoreFull("the disk is full") from error
        raise


def _means_disk_full(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == "53100"  # disk_full (PostgreSQL documentation, appendix A)


def upsert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, key: str) -> None:
    """Inserts rows; a row with a known key replaces the stored one."""
    statement = _insert(connection, table)
    changes = {column.name: statement.excluded[column.name] for column in table.columns if column.name != key}
    connection.execute(statement.on_conflict_do_update(index_elements=[key], set_=changes), rows)


def insert_missing(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, key: str) -> None:
    """Inserts the rows whose key is not stored yet, and skips the others."""
    connection.execute(_insert(connection, table).on_conflict_do_nothing(index_elements=[key]), rows)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that can take ON CONFLICT: both databases have the clause, SQLAlchemy has one class per dialect."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
