"""Cycles start by themselves: when it is quiet or at a time of the day, for enough new feedback, and never twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import phrasebook
from support.echo_learner import OWN_PLUGINS, Echo, correct, open_echo
from support.learning_child import learn_in_child, read_until, release
from support.scripted import ScriptedPlugin
from support.scripted_learner import DRINKS, NAME, WATCHDOG_S, open_assistant, teach

from smallai_assistant import Assistant, AssistantConfig, Feedback, hookimpl
from smallai_assistant.learning import schedule as schedule_module
from smallai_assistant.learning.cycle_history import CycleHistory
from smallai_assistant.learning.feedback_service import LearningStores
from smallai_assistant.learning.schedule import (
    IDLE_S,
    LearningSchedule,
    TaskStatus,
    last_moment,
    next_moment,
)
from smallai_assistant.learning_config import LearningConfig


class Clock:
    """A clock that a test sets ahead of the real one, with which feedback is stored."""

    def __init__(self) -> None:
        self._ahead = 0.0

    @property
    def now(self) -> float:
        return time.time() + self._ahead

    @now.setter
    def now(self, at: float) -> None:
        self._ahead = at - time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def assistant(tmp_path: Path, echo: Echo) -> Iterator[Assistant]:
    with open_echo(tmp_path / "data", echo) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


def schedule_of(assistant: Assistant, clock: Clock, **settings: Any) -> LearningSchedule:
    """A schedule beside the assistant's own, which looks only when the test wakes it.

    Its learner is the assistant's, which no public name reaches: an app has no reason to take it.
    """
    stores = LearningStores(assistant.store, assistant.feedback, assistant.adapters, CycleHistory(assistant.database))
    return LearningSchedule(assistant._learner, stores, assistant.tasks, LearningConfig(**settings), clock=clock)


def status_of(schedule: LearningSchedule) -> TaskStatus:
    [status] = schedule.status()
    return status


# -- idle --


def test_a_quiet_time_starts_a_cycle_once(assistant: Assistant, clock: Clock) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=20)
    correct(assistant)
    assert schedule.wake() == []  # somebody asked a moment ago
    assert status_of(schedule).waits_for == "quiet"
    clock.now += IDLE_S + 1
    assert status_of(schedule).waits_for == "nothing"
    assert schedule.wake() == ["echo"]
    status = status_of(schedule)
    assert status.serves == assistant.adapters.champion_id("echo") is not None
    assert (status.n_new, status.n_wanted, status.waits_for) == (0, 20, "feedback")
    assert status.last is not None
    assert (status.last.outcome, status.last.adapter_id) == ("promoted", status.serves)
    clock.now += IDLE_S + 1
    assert schedule.wake() == []


def test_too_little_new_feedback_starts_nothing(assistant: Assistant, clock: Clock) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=21)
    correct(assistant)
    clock.now += IDLE_S + 1
    assert schedule.wake() == []
    assert (status_of(schedule).n_new, status_of(schedule).waits_for) == (20, "feedback")


def test_personal_feedback_and_refused_consent_do_not_count(assistant: Assistant, clock: Clock) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=1)
    assistant.ask("say 1", task="echo", user_id="ann").rate(correction="SAY 1")
    turn = assistant.ask("say 2", task="echo").turn
    assistant.give_feedback(Feedback(turn.id, correction="SAY 2", may_train=False))
    clock.now += IDLE_S + 1
    assert schedule.wake() == []
    assert status_of(schedule).n_new == 0
    for user in ("bob", "cleo"):  # three people said the same now, which a version for everyone may learn
        assistant.ask("say 1", task="echo", user_id=user).rate(correction="SAY 1")
    assert status_of(schedule).n_new == 3


def test_a_refused_cycle_is_not_repeated_without_new_feedback(assistant: Assistant, echo: Echo, clock: Clock) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=20)
    echo.learns = False
    correct(assistant)
    clock.now += IDLE_S + 1
    assert schedule.wake() == ["echo"]
    last = status_of(schedule).last
    assert last is not None
    assert last.outcome == "refused"
    assert last.reasons
    clock.now += 10 * IDLE_S
    assert schedule.wake() == []
    # Nor by another process, which knows it from the database.
    assert schedule_of(assistant, clock, when="idle", min_new_feedback=1).wake() == []
    correct(assistant, first=20)
    clock.now += IDLE_S + 1
    assert schedule.wake() == ["echo"]


def test_a_failed_cycle_is_not_repeated_without_new_feedback(
    assistant: Assistant, echo: Echo, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=20)

    def fail(step: int) -> None:
        raise RuntimeError("the disk of doom")

    echo.at_step = fail
    correct(assistant)
    clock.now += IDLE_S + 1
    assert schedule.wake() == ["echo"]
    assert "started by itself and failed" in caplog.text
    last = status_of(schedule).last
    assert last is not None
    assert (last.outcome, last.error) == ("failed", "training_failed")
    assert "doom" in last.failure
    clock.now += 10 * IDLE_S
    assert schedule.wake() == []


def test_too_little_to_learn_from_waits_for_what_is_missing(assistant: Assistant, clock: Clock) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=3)
    correct(assistant, 3)
    clock.now += IDLE_S + 1
    assert schedule.wake() == ["echo"]
    status = status_of(schedule)
    assert status.last is not None
    assert (status.last.outcome, status.last.error, status.n_new) == ("too_little", "not_enough_data", 3)
    assert status.n_wanted == 3 + status.last.n_missing > 4
    correct(assistant, 1, first=3)
    clock.now += IDLE_S + 1
    assert schedule.wake() == []  # one more would fail again
    correct(assistant, status.last.n_missing - 1, first=4)
    clock.now += IDLE_S + 1
    assert schedule.wake() == ["echo"]


def test_an_assistant_that_was_just_opened_learns_later(assistant: Assistant, clock: Clock) -> None:
    correct(assistant)
    clock.now += 1e6
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=20)
    assert schedule.wake() == []
    clock.now += IDLE_S + 1
    assert schedule.wake() == ["echo"]


# -- at a time of the day --


def test_the_time_of_the_day_starts_a_cycle_once(assistant: Assistant, clock: Clock) -> None:
    correct(assistant)
    when = f"{datetime.fromtimestamp(clock.now + 3600):%H:%M}"
    schedule = schedule_of(assistant, clock, when=when, min_new_feedback=20)
    assert schedule.wake() == []
    assert (status_of(schedule).waits_for, status_of(schedule).next_at) == ("time", next_moment(when, clock.now))
    clock.now = next_moment(when, clock.now) + 5 * 3600  # the machine slept through it
    assert status_of(schedule).waits_for == "nothing"
    assert schedule.wake() == ["echo"]
    assert schedule.wake() == []
    assert status_of(schedule).next_at == next_moment(when, clock.now)


def test_what_came_after_the_time_waits_for_the_next_day(assistant: Assistant, clock: Clock) -> None:
    an_hour_ago = datetime.fromtimestamp(clock.now - 3600)
    schedule = schedule_of(assistant, clock, when=f"{an_hour_ago:%H:%M}", min_new_feedback=20)
    correct(assistant)
    clock.now += 60
    assert schedule.wake() == []
    status = status_of(schedule)
    assert status.waits_for == "time"
    assert status.next_at == next_moment(f"{an_hour_ago:%H:%M}", clock.now)
    clock.now = status.next_at
    assert schedule.wake() == ["echo"]


@pytest.mark.parametrize(("clock_time", "last_day"), [("03:30", 9), ("12:00", 9), ("18:45", 8)])
def test_moments_are_local_and_once_a_day(clock_time: str, last_day: int) -> None:
    hour, minute = map(int, clock_time.split(":"))
    now = datetime(2026, 3, 9, 12, 0).timestamp()
    last = datetime.fromtimestamp(last_moment(clock_time, now))
    following = datetime.fromtimestamp(next_moment(clock_time, now))
    assert (last.day, last.hour, last.minute) == (last_day, hour, minute)
    assert (following.day, following.hour, following.minute) == (last_day + 1, hour, minute)


# -- by hand, and beside others --


def test_by_hand_there_is_no_thread_and_no_cycle(assistant: Assistant, clock: Clock) -> None:
    assert all(thread.name != "learning-schedule" for thread in threading.enumerate())
    schedule = schedule_of(assistant, clock, when="manual", min_new_feedback=1)
    correct(assistant)
    clock.now += 1e6
    assert schedule.wake() == []
    status = status_of(schedule)
    assert (status.n_new, status.waits_for, status.next_at) == (20, "hand", None)


def test_a_cycle_by_hand_counts_as_the_last_one(assistant: Assistant, clock: Clock) -> None:
    schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=1)
    correct(assistant)
    report = assistant.learn("echo")
    clock.now += IDLE_S + 1
    assert schedule.wake() == []
    last = status_of(schedule).last
    assert last is not None
    assert last.adapter_id == report.adapter_id


def test_a_cycle_of_another_process_is_seen_and_waited_for(tmp_path: Path, clock: Clock) -> None:
    with open_assistant(tmp_path) as assistant:
        teach(assistant, DRINKS)
        schedule = schedule_of(assistant, clock, when="idle", min_new_feedback=1)
        clock.now += IDLE_S + 1
        with learn_in_child(tmp_path, held_step=1) as other:
            read_until(other, "held")
            status = status_of(schedule)
            assert status.running is not None
            assert (status.task, status.running.task, status.waits_for) == (NAME, NAME, "running")
            assert schedule.wake() == []
            release(other)
            read_until(other, "promoted")
        assert status_of(schedule).running is None
        assert schedule.wake() == []  # that cycle has learned it


def test_a_killed_cycle_does_not_run(tmp_path: Path, clock: Clock) -> None:
    with open_assistant(tmp_path) as assistant:
        teach(assistant, DRINKS)
        with learn_in_child(tmp_path, held_step=1) as other:
            read_until(other, "held")
            other.kill()
        assert status_of(schedule_of(assistant, clock)).running is None


class Promoted:
    """Tells a test that a version was promoted."""

    def __init__(self) -> None:
        self.event = threading.Event()

    @hookimpl
    def adapter_promoted(self) -> None:
        self.event.set()


def test_an_open_assistant_learns_on_a_thread(tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_module, "WAKE_S", 0.01)
    monkeypatch.setattr(schedule_module, "IDLE_S", -1e6)  # any time is quiet
    learning = LearningConfig(when="idle", min_new_feedback=20)
    config = AssistantConfig(data_dir=tmp_path / "data", device="cpu", disabled_plugins=OWN_PLUGINS, learning=learning)
    promoted = Promoted()
    with Assistant(config, plugins=[ScriptedPlugin(echo), promoted]) as assistant:
        correct(assistant)
        assert promoted.event.wait(WATCHDOG_S)
        assert assistant.adapters.champion_id("echo") is not None
    assert all(thread.name != "learning-schedule" for thread in threading.enumerate())


def test_closing_stops_a_cycle_that_began_by_itself(
    tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_module, "WAKE_S", 0.01)
    monkeypatch.setattr(schedule_module, "IDLE_S", -1e6)
    has_begun, is_closing = threading.Event(), threading.Event()

    def hold(step: int) -> None:
        has_begun.set()
        assert is_closing.wait(WATCHDOG_S)

    echo.at_step = hold
    learning = LearningConfig(when="idle", min_new_feedback=20)
    config = AssistantConfig(data_dir=tmp_path / "data", device="cpu", disabled_plugins=OWN_PLUGINS, learning=learning)
    assistant = Assistant(config, plugins=[ScriptedPlugin(echo)])
    correct(assistant)
    assert has_begun.wait(WATCHDOG_S)
    [status] = assistant.schedule.status()
    assert status.progress is not None
    assert status.waits_for == "running"
    closing = threading.Thread(target=assistant.close)
    closing.start()
    is_closing.set()
    closing.join(WATCHDOG_S)
    with open_echo(tmp_path / "data", Echo()) as again:
        assert again.adapters.champion_id("echo") is None
        assert again.schedule.status()[0].last is None  # it goes on later, as if it had not been tried


def test_a_cycle_of_ones_own_starts_by_itself(tmp_path: Path, clock: Clock) -> None:
    with phrasebook.open_phrasebook(tmp_path) as own:
        phrasebook.teach(own, None, {"rye": "a grain", "oak": "a tree", "tide": "the sea"})
        phrasebook.teach(own, "ann", {"code": "tulip99", "desk": "number four", "oak": "my street"})
        phrasebook.teach(own, "bob", {"pin": "1234"})
        schedule = schedule_of(own, clock, when="idle", min_new_feedback=18)
        [status] = schedule.status(phrasebook.NAME)
        assert (status.n_new, status.due) == (18, ("user:ann",))
        assert schedule.wake() == []  # nobody was quiet for long enough
        clock.now += IDLE_S + 1
        assert schedule.wake() == [phrasebook.NAME, phrasebook.NAME]
        assert phrasebook.ask(own, "ann", "whisper code") == "tulip99"
        assert phrasebook.ask(own, "bob", "whisper code") == phrasebook.UNKNOWN
        assert phrasebook.ask(own, "ann", "whisper rye") == phrasebook.ask(own, "bob", "whisper rye") == "a grain"
        clock.now += IDLE_S + 1
        assert schedule.wake() == []
        [of_ann], [of_bob] = (schedule.status(audience=f"user:{name}") for name in ("ann", "bob"))
        assert of_ann.last is not None
        assert (of_ann.last.outcome, of_ann.n_new, of_bob.n_new, of_bob.last) == ("promoted", 0, 6, None)
