"""The database knows how the last cycle of each task ended, and nothing that was erased since."""

from __future__ import annotations

import pytest

from smallai_assistant.errors import Cancelled, InvalidInput, NotEnoughData, PluginError
from smallai_assistant.learning.cycle_history import CycleHistory
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.erasure import erase_rows

TASK, SECRET = "text-generation", "the code is tulip99"


@pytest.fixture
def history(database: Database) -> CycleHistory:
    return CycleHistory(database, lambda: 1000.0)


def fail(history: CycleHistory, error: BaseException, task: str = TASK) -> None:
    with pytest.raises(type(error)), history.recorded(task):
        raise error


def test_a_failure_is_kept_with_its_code(history: CycleHistory) -> None:
    assert history.last(TASK) is None
    fail(history, PluginError("it broke"))
    last = history.last(TASK)
    assert last is not None
    assert (last.at, last.outcome, last.error, last.failure) == (1000.0, "failed", "plugin_error", "it broke")
    fail(history, NotEnoughData("too few", n_missing=7))
    last = history.last(TASK)
    assert last is not None
    assert (last.outcome, last.n_missing) == ("too_little", 7)
    assert history.last("another task") is None


def test_tasks_whose_names_begin_alike_are_told_apart(history: CycleHistory) -> None:
    long = "t" * 100
    fail(history, InvalidInput("one"), f"{long}1")
    fail(history, InvalidInput("two"), f"{long}2")
    first, second = history.last(f"{long}1"), history.last(f"{long}2")
    assert first is not None
    assert second is not None
    assert (first.failure, second.failure) == ("one", "two")


@pytest.mark.parametrize("error", [Cancelled("stopped"), KeyboardInterrupt()])
def test_a_stopped_cycle_leaves_no_record(history: CycleHistory, error: BaseException) -> None:
    fail(history, error)
    assert history.last(TASK) is None
    assert history.running() is None


def test_a_cycle_runs_until_its_end(history: CycleHistory) -> None:
    def work() -> None:
        running = history.running()
        assert running is not None
        assert (running.task, running.at) == (TASK, 1000.0)
        raise InvalidInput("wrong")

    with pytest.raises(InvalidInput), history.recorded(TASK):
        work()
    assert history.running() is None


def test_an_erasure_drops_what_an_error_said(history: CycleHistory, database: Database) -> None:
    fail(history, PluginError(SECRET))
    with database.write() as connection:
        erase_rows(connection)
    last = history.last(TASK)
    assert last is not None
    assert (last.outcome, last.error, last.failure) == ("failed", "plugin_error", "")


def test_an_erasure_during_a_cycle_keeps_its_error_out(history: CycleHistory, database: Database) -> None:
    def work() -> None:
        with database.write() as connection:
            erase_rows(connection)
        raise PluginError(SECRET)

    with pytest.raises(PluginError), history.recorded(TASK):
        work()
    last = history.last(TASK)
    assert last is not None
    assert (last.error, last.failure) == ("plugin_error", "")
