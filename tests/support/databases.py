"""The databases that tests run on: SQLite, and a real PostgreSQL server.

SMALLAI_TEST_POSTGRES_URL names a server. Without it, one is started from the installed binaries, once a session, on a
Unix socket. Without binaries the tests are skipped; in continuous integration (CI=true) they fail.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from smallai_assistant.storage.database import Database

HOW_TO_INSTALL = "no PostgreSQL server: apt-get install postgresql, or set SMALLAI_TEST_POSTGRES_URL"
GIVEN_URL = os.environ.get("SMALLAI_TEST_POSTGRES_URL", "")  # read at import: a fixture deletes SMALLAI_* for each test
_START_S = 60.0


class NoServer(Exception):
    """No server is given, and no binaries are installed to start one."""


class Cluster:
    """A PostgreSQL server in a temporary folder, with the default settings of durability."""

    def __init__(self) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
        found = shutil.which("initdb") if not binaries else str(binaries[-1] / "initdb")
        if found is None or not Path(found).exists():
            raise NoServer(HOW_TO_INSTALL)
        self._bin = Path(found).resolve().parent
        self._user = _user()  # initdb and the server refuse to run as root
        # Directly in the temporary folder: the path of a Unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="smallai-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        initdb = [self._bin / "initdb", "-D", self.folder / "data", "-U", "smallai", "--auth=trust", "--no-sync"]
        self._run([*map(str, initdb), "--encoding=UTF8", "--locale=C.UTF-8"])
        self.start()

    @property
    def url(self) -> str:
        """The URL of its database `postgres`."""
        return f"postgresql+psycopg://smallai@/postgres?host={self.folder}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = [f"unix_socket_directories={self.folder}", "listen_addresses=", "shared_buffers=32MB"]
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(word for setting in settings for word in ("-c", setting))],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C reaches only the tests, which then stop the server
                **self._as_user(),
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)  # the server tells nobody when it is ready

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT is an orderly end; SIGQUIT is a crash, from which it recovers at its next start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_S)
            self._process = None

    def remove(self) -> None:
        """Stops the server and deletes its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        engine = sa.create_engine(self.url)
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False
        finally:
            engine.dispose()

    def _as_user(self) -> dict[str, str]:
        return {} if self._user is None else {"user": self._user}

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, **self._as_user())
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


def _user() -> str | None:
    """The user that the server runs as; None for the user of the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@contextlib.contextmanager
def temporary_server() -> Iterator[str]:
    """The URL of a server: the given one, or one that runs during the block.

    Raises:
        NoServer: none is given, and no binaries are installed to start one.
    """
    if GIVEN_URL:
        yield GIVEN_URL
        return
    cluster = Cluster()
    try:
        yield cluster.url
    finally:
        cluster.remove()


@contextlib.contextmanager
def temporary_schema(server: str) -> Iterator[str]:
    """The URL of an empty schema on a server; it is dropped at the end of the block."""
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        yield sa.make_url(server).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(False)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    finally:
        engine.dispose()


@contextlib.contextmanager
def or_skip() -> Iterator[None]:
    """Skips the test if there is no server; in continuous integration the test fails."""
    try:
        yield
    except NoServer as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, one for the whole session."""
    with contextlib.ExitStack() as stack:
        with or_skip():
            url = stack.enter_context(temporary_server())
        yield url


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server that the test may stop and crash."""
    with or_skip():
        started = Cluster()
    yield started
    started.remove()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty schema on PostgreSQL."""
    with temporary_schema(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; the test runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'smallai.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An empty database; the test runs once on each kind."""
    opened = Database(tmp_path, database_url)
    yield opened
    opened.close()
