"""A PostgreSQL server can be gone, come back, crash, be full or set up carelessly; and many write at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import databases
from support.databases import Cluster
from support.turns import a_turn

from smallai_assistant import Interaction, Item
from smallai_assistant.errors import ConfigError, StoreError, StoreFull
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.schema import interactions, meta
from smallai_assistant.storage.turn_store import TurnStore


def test_a_server_that_is_back_is_used_again(tmp_path: Path, cluster: Cluster) -> None:
    database = Database(tmp_path, cluster.url)
    store = TurnStore(database, tmp_path / "media")
    first = store.add_turn(a_turn("first")).result()
    cluster.stop()
    with pytest.raises(StoreError, match="the database failed") as caught:
        store.turn(first.id)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError):
        store.add_turn(a_turn("lost")).result()
    with pytest.raises(StoreError):
        Database(tmp_path, cluster.url)
    cluster.start()
    assert store.turn(first.id).text == "first"
    assert store.add_turn(a_turn("second")).result().text == "second"
    store.close()
    database.close()


def test_acknowledged_turns_survive_a_server_crash(tmp_path: Path, cluster: Cluster) -> None:
    database = Database(tmp_path, cluster.url)
    store = TurnStore(database, tmp_path / "media")
    acknowledged: list[str] = []
    failed, has_begun = threading.Event(), threading.Event()

    def write() -> None:
        while not failed.is_set():
            try:
                acknowledged.append(store.add_turn(a_turn(str(len(acknowledged)))).result().id)
                if len(acknowledged) > 5:
                    has_begun.set()
            except StoreError:
                failed.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert has_begun.wait(60)
    cluster.stop(signal.SIGQUIT)
    writer.join(60)
    assert failed.is_set()
    cluster.start()
    assert store.turns_by_id(acknowledged).keys() == set(acknowledged)
    store.close()
    database.close()


def test_a_full_disk_of_the_server_is_told(tmp_path: Path, postgres_url: str) -> None:
    database = Database(tmp_path, postgres_url)
    store = ItemStore(database)
    store.add_items([Item("a", "A")])
    with database.write() as connection:  # raises the error that the server reports when a file cannot grow
        connection.exec_driver_sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE disk_full USING MESSAGE = 'could not extend file'; END $$"
        )
        connection.exec_driver_sql("CREATE TRIGGER full_disk BEFORE UPDATE ON meta EXECUTE FUNCTION full_disk()")
    with pytest.raises(StoreFull, match="could not extend"):
        store.add_items([Item("b", "B")])
    assert [item.id for item in store.items()] == ["a"]
    database.close()


def test_a_careless_server_is_still_used_durably(tmp_path: Path, cluster: Cluster) -> None:
    engine = sa.create_engine(cluster.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER ROLE smallai SET synchronous_commit = off")
        connection.exec_driver_sql("ALTER ROLE smallai SET default_transaction_isolation = 'repeatable read'")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "off"
    engine.dispose()
    database = Database(tmp_path, cluster.url)
    with database.read() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
    database.close()


def test_an_address_without_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the database failed"):
        Database(tmp_path, f"postgresql+psycopg://nobody@/x?host={tmp_path}")


@pytest.mark.parametrize("url", ["mysql://x@y/z", "nonsense", "postgresql+psycopg2://x@y/z", "postgresql+none://x@y/z"])
def test_another_database_is_a_config_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="database_url"):
        Database(tmp_path, url)


def test_a_url_without_a_driver_takes_psycopg(tmp_path: Path, postgres_url: str) -> None:
    for name in ("postgres", "postgresql"):
        database = Database(tmp_path, postgres_url.replace("postgresql+psycopg", name))
        assert database.engine.dialect.driver == "psycopg"
        database.close()


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_a_server_tests_are_skipped(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install postgresql"), databases.or_skip():
        raise databases.NoServer(databases.HOW_TO_INSTALL)


# -- on both databases --


def test_gaps_in_the_numbers_hide_no_interaction(database: Database) -> None:
    store = ItemStore(database)
    store.add_interactions([Interaction("u", "a", at=1.0)])
    row = {"user_id": "u", "item_id": "x", "weight": 1.0, "at": 2.0}
    with contextlib.suppress(KeyError), database.write() as connection:
        connection.execute(sa.insert(interactions), [row] * 3)
        raise KeyError
    store.add_interactions([Interaction("u", "b", at=3.0), Interaction("u", "c", at=2.0)])
    assert [interaction.item for interaction in store.interactions(after=1)] == ["c", "b"]
    assert [interaction.item for interaction in store.interactions(after=2)] == ["c"]
    assert store.interactions(after=3) == []


def test_concurrent_writers_do_not_overwrite_each_other(database: Database) -> None:
    store = ItemStore(database)
    threads = [
        threading.Thread(target=lambda n=n: [store.add_items([Item(f"{n}-{i}", "t")]) for i in range(20)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.revision()[0] == 80  # the counter is read, incremented, written: no increment is lost
    assert len(store.items()) == 80


@pytest.mark.parametrize("is_same", [True, False], ids=["thread", "process"])
def test_a_writer_fails_after_waiting_too_long(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    monkeypatch.setattr(database_module, "LOCK_WAIT_S", 1)
    database = Database(tmp_path, database_url)
    other = database if is_same else Database(tmp_path, database_url)  # a second pool, as in another process
    store = ItemStore(database)
    errors: list[str] = []

    def write() -> None:
        try:
            store.add_items([Item("a", "A")])
        except StoreError as error:
            errors.append(str(error))

    with other.write() as connection:
        connection.execute(sa.insert(meta).values(key="held", value=""))
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(30)
        assert len(errors) == 1
        assert ("1 s" if is_same else "lock") in errors[0]
        assert store.items() == []  # readers do not wait
    store.add_items([Item("a", "A")])
    for opened in {database, other}:
        opened.close()


def test_a_closed_database_is_not_written(database: Database) -> None:
    store = ItemStore(database)
    database.close()
    for call in (store.items, lambda: store.add_items([Item("a", "A")])):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_an_error_undoes_the_whole_transaction(database: Database) -> None:
    def write_twice() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(meta).values(key="b", value=""))
            connection.execute(sa.insert(meta), [{"key": "a", "value": ""}] * 2)

    with pytest.raises(StoreError, match=r"(?i)unique"):
        write_twice()
    with database.read() as connection:
        assert connection.scalars(sa.select(meta.c.key)).all() == ["schema_version"]
