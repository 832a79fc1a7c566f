"""One database: SQLite in the data directory, or PostgreSQL by URL. Opening, durability, migrations, errors."""

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
_LOCK_WAIT_S = 30


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

    One writer at a time, on SQLite and on PostgreSQL: what a transaction reads before it writes stays true, and rows
    become visible in the order of their `seq`.

    Args:
        url: `postgresql+psycopg://USER@HOST/NAME` or `sqlite:///FILE`; empty for `smallai.sqlite` in `data_dir`.

    Attributes:
        path: the file of SQLite, None for a server.

    Raises:
        ConfigError: `data_dir` cannot be written, or the URL is malformed, of another database, or its driver missing.
        StoreError: the schema is newer than this version, or the database cannot be opened.
    """

    def __init__(self, data_dir: Path, url: str = "") -> None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # what people said is for its owner alone
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
        with _typed_errors():
            self._migrate()

    def _set_up_sqlite(self) -> None:
        mode = "DELETE" if has_wal_reset_bug(sqlite3.sqlite_version_info) else "WAL"
        self.journal_mode = mode.lower()
        # What is erased is overwritten with zeros, not only unlinked.
        pragmas = (
            f"journal_mode={mode}",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={_LOCK_WAIT_S * 1000}",
            "secure_delete=ON",
        )

        @event.listens_for(self.engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(self.engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            # A writer that starts as a reader cannot wait for its turn: SQLite answers BUSY at once.
            writes = connection.get_execution_options().get("writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    def _set_up_postgres(self) -> None:
        @event.listens_for(self.engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{_LOCK_WAIT_S}s'")
                # `off` would acknowledge what a crash of the server can lose; the stricter settings stay as they are.
                cursor.execute(
                    "SELECT set_config('synchronous_commit', 'on', false)"
                    " WHERE current_setting('synchronous_commit') = 'off'"
                )
            connection.commit()

        @event.listens_for(self.engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            if connection.get_execution_options().get("writes", False):
                # Ends with the transaction. It is taken in a statement of its own: READ COMMITTED gives the next
                # one a view that holds what the writer before has committed.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('smallai ' || current_schema()))")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with _typed_errors(), self._connect(writes=False) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction; what it wrote is on disk when the block is left without an error.

        Raises:
            StoreFull: the disk is full; nothing of the transaction is kept.
            StoreError: any other failure of the database.
        """
        with _typed_errors(), self._turn(), self._connect(writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Lets the writers of this process wait in a queue: SQLite's own wait is a poll that the unlucky never win."""
        if not self._writer.acquire(timeout=_LOCK_WAIT_S):
            raise StoreError(f"the database failed: another writer has been at it for {_LOCK_WAIT_S} s")
        try:
            yield
        finally:
            self._writer.release()

    @property
    def schema_version(self) -> int:
        """How many of `MIGRATIONS` the database has had."""
        with self.read() as connection:
            return _schema_version(connection)

    def forget_log(self) -> None:
        """Empties SQLite's write-ahead log, where what was erased can still be read."""
        if self.journal_mode == "wal":
            with _typed_errors(), self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._is_closed = True
        self.engine.dispose()

    def _connect(self, *, writes: bool) -> sa.Connection:
        if self._is_closed:
            raise StoreError("the database is closed", hint="open the assistant again")
        return self.engine.connect().execution_options(writes=writes)

    def _migrate(self) -> None:
        with self.read() as connection:  # most often nothing is to be done, and nobody has to wait
            if _schema_version(connection) == len(MIGRATIONS):
                return
        with self.write() as connection:
            version = _schema_version(connection)  # another process may have been first
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"the database has schema {version}, this version knows {len(MIGRATIONS)}",
                    hint="upgrade smallai-assistant, or use another data directory",
                )
            if version == len(MIGRATIONS):
                return
            if version and self.path is not None:
                self._back_up(version)
            elif version:
                log.warning("migrating the server's database from schema %d: its backups are pg_dump's work", version)
            for migrate in MIGRATIONS[version:]:
                migrate(connection)
            connection.execute(sa.delete(meta).where(meta.c.key == "schema_version"))
            connection.execute(sa.insert(meta).values(key="schema_version", value=str(len(MIGRATIONS))))

    def _back_up(self, version: int) -> None:
        """Copies the file of SQLite beside itself; the copy has its name once it is whole and on disk."""
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
            kind = StoreFull if _is_full(error) else StoreError
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
        # A server that was restarted is noticed before the next use; one that is silent gives an error, no hang.
        patience = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}  # s, s, ms
        given = {name: value for name, value in patience.items() if name not in parsed.query}
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
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = "; ".join(line.strip() for line in str(error.orig).splitlines() if line.strip())
        if _is_full(error.orig):
            raise StoreFull(f"the database could not be written: {reason}") from error
        raise StoreError(f"the database failed: {reason}", hint="see `smallai doctor`") from error
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the database failed: {error}", hint="see `smallai doctor`") from error
    except OSError as error:
        if _is_full(error):
            raise StoreFull("the disk is full") from error
        raise


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == "53100"  # disk_full (PostgreSQL's appendix A)


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
