"""The connection to the database, SQLite in the data directory or PostgreSQL by URL: durability, migrations, errors."""

from __future__ import annotations

import errno
import logging
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
from smallai_assistant.storage.row_reader import RowReader
from smallai_assistant.storage.schema import MIGRATIONS, meta
from smallai_assistant.storage.sqlite_file import back_up, backups_of, check_not_lost, holders, make_private

log = logging.getLogger(__name__)
# Seconds that a writer waits for the others. An import of 10,000 rows, the longest transaction, takes a few.
LOCK_WAIT_S = 30
# Seconds that a reader waits. A writer keeps readers out only while it copies its pages into the file.
READ_WAIT_S = 5


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
        data_dir: the folder of everything that belongs to the database.
        path: SQLite's file; None for a server.
        journal_mode: SQLite's, `wal` or `delete`; `server` for PostgreSQL.
        reader: reads rows, and knows those that cannot be read.
        tightened: files and folders that others could read until now.

    Raises:
        ConfigError: `data_dir` cannot be written, the URL is malformed or names another kind of database, or the
            database driver is not installed.
        StoreError: the schema is newer than this version of the program, the database cannot be opened, or its file
            is gone and its adapters and media are still there.
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
        self.path = Path(file) if self.is_sqlite and file and file != ":memory:" else None
        self.data_dir = data_dir
        self.journal_mode = "server"
        self.reader = RowReader()
        self.tightened: list[Path] = []
        if self.path is not None:
            check_not_lost(self.path, data_dir)
            self.tightened = make_private(self.path, data_dir)
        if self.is_sqlite:
            self._set_up_sqlite()
        else:
            self._set_up_postgres()
        with self._as_store_errors():
            self._migrate()

    def _set_up_sqlite(self) -> None:
        mode = "DELETE" if has_wal_reset_bug(sqlite3.sqlite_version_info) else "WAL"
        self.journal_mode = mode.lower()
        pragmas = (
            f"journal_mode={mode}",
            "synchronous=FULL",  # in WAL mode the default, NORMAL, can lose acknowledged commits in a power cut
            "foreign_keys=ON",  # SQLite ignores foreign keys by default
            f"busy_timeout={READ_WAIT_S * 1000:.0f}",
            # In the rollback journal mode, a writer that runs out of cache keeps readers out until its end: 100 MB of
            # changed pages are more than an import of 10,000 rows.
            "cache_spill=25000",
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
            wait_s = LOCK_WAIT_S if writes else READ_WAIT_S
            # The pool lends a connection to readers and writers; the pragma is sent only if the other kind had it.
            if connection.info.get("wait_s", READ_WAIT_S) != wait_s:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={wait_s * 1000:.0f}")
                connection.info["wait_s"] = wait_s
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
        """A transaction that only reads.

        Raises:
            StoreError: the database failed, or a writer kept readers out for 5 s.
        """
        with self._as_store_errors(), self._connect(writes=False) as connection:
            connection.begin()
            try:
                yield connection
            finally:
                connection.rollback()  # not a commit, which fails once a damaged page was met

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; its changes are on disk when the block ends without an error.

        Raises:
            StoreFull: the disk is full; the transaction was rolled back.
            StoreError: the database failed for another reason, or other writers took longer than 30 s.
        """
        with (
            self._as_store_errors(LOCK_WAIT_S),
            self._writer_lock(),
            self._connect(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        """Queues the writers of this process: SQLite's own wait polls, and under load some writers never win it."""
        if not self._writer.acquire(timeout=LOCK_WAIT_S):
            raise StoreError(
                f"the database is locked: another thread of this process has written to it for {LOCK_WAIT_S} s"
            )
        try:
            yield
        finally:
            self._writer.release()

    @property
    def schema_version(self) -> int:
        """Number of `MIGRATIONS` that were applied to the database."""
        with self.read() as connection:
            return _schema_version(connection)

    def truncate_log(self) -> bool:
        """Empties SQLite's write-ahead log, in which erased content can still be read. No effect in other modes.

        Returns:
            False if a reader still needs the log after 5 s.
        """
        if self.journal_mode != "wal":
            return True
        with self._as_store_errors(), self.engine.connect() as connection:
            is_busy: int = connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not is_busy

    def remove_backups(self) -> list[Path]:
        """Deletes the copies that migrations made: what is erased must not stay in them. Returns their paths."""
        removed = backups_of(self.path) if self.path is not None else []
        for path in removed:
            path.unlink(missing_ok=True)
        return removed

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
        assert self.path is not None
        target = self.path.with_suffix(f".schema{version}.sqlite")
        try:
            back_up(self.path, target)
        except (OSError, sqlite3.Error) as error:
            kind = StoreFull if _means_disk_full(error) else StoreError
            raise kind(f"{target.name} could not be written, nothing was migrated: {error}") from error

    @contextmanager
    def _as_store_errors(self, wait_s: float | None = None) -> Iterator[None]:
        """Turns the errors of SQLAlchemy and of the drivers into StoreError, and a full disk into StoreFull.

        Args:
            wait_s: how long a transaction has waited if the database is locked; None: as long as a reader.
        """
        try:
            yield
        except sa.exc.DBAPIError as error:
            # A server's message has several lines, and our errors are one line on the screen.
            reason = "; ".join(line.strip() for line in str(error.orig).splitlines() if line.strip())
            if _means_disk_full(error.orig):
                raise StoreFull(f"the database could not be written: {reason}") from error
            if self.path is not None and _means_locked(error.orig):
                waited = f"this process has waited {wait_s or READ_WAIT_S:g} s"
                raise StoreError(
                    f"the database is locked: {waited} for {holders(self.path)}",
                    hint="wait for it to end, or end it",
                ) from error
            raise StoreError(f"the database failed: {reason}", hint="see `smallai doctor`") from error
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the database failed: {error}", hint="see `smallai doctor`") from error
        except OSError as error:
            if _means_disk_full(error):
                raise StoreFull("the disk is full") from error
            raise


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
    except Exception as error:  # the parser of URLs lets through what its steps raise, such as a port of letters
        raise ConfigError(
            f"database_url cannot be used: {error}",
            hint="for PostgreSQL install the extra [postgres] and use postgresql+psycopg://USER@HOST/NAME",
        ) from error


def _schema_version(connection: sa.Connection) -> int:
    if not sa.inspect(connection).has_table("meta"):
        return 0
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
    return int(value or 0)


def _means_disk_full(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == "53100"  # disk_full (PostgreSQL documentation, appendix A)


def _means_locked(error: BaseException | None) -> bool:
    # The low byte is the kind of the error; the others say more about it.
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def upsert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, key: str | list[str]) -> None:
    """Inserts rows; a row with a known key, or known keys together, replaces the stored one."""
    statement, keys = _insert(connection, table), [key] if isinstance(key, str) else key
    changes = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes), rows)


def insert_missing(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, key: str) -> None:
    """Inserts the rows whose key is not stored yet, and skips the others."""
    connection.execute(_insert(connection, table).on_conflict_do_nothing(index_elements=[key]), rows)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that can take ON CONFLICT: both databases have the clause, SQLAlchemy has one class per dialect."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
