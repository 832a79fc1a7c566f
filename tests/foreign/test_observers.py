"""Observers: nothing of ours waits for them, and their events stay in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from smallai_assistant.foreign import observers as module
from smallai_assistant.foreign.observers import Observers


@pytest.fixture
def faults() -> dict[str, str]:
    return {}


@pytest.fixture
def observers(faults: dict[str, str]) -> Iterator[Observers]:
    made = Observers(faults.__setitem__)
    yield made
    made.close(patience_s=0)


def test_events_of_a_plugin_are_told_in_order_on_its_own_thread(observers: Observers) -> None:
    told: dict[str, list[tuple[int, str]]] = {"a": [], "b": []}
    for number in range(200):
        for name, rows in told.items():
            observers.tell(name, "h", lambda n=number, r=rows: r.append((n, threading.current_thread().name)))
    observers.close(patience_s=30)
    for name, rows in told.items():
        assert rows == [(number, f"observer: {name}") for number in range(200)]


def test_what_an_observer_raises_ends_its_call_only(observers: Observers, faults: dict[str, str]) -> None:
    told = threading.Event()

    def fail(error: BaseException) -> None:
        raise error

    for error in (RuntimeError("no"), SystemExit(1), KeyboardInterrupt()):
        observers.tell("a", "h", lambda error=error: fail(error))
    observers.tell("a", "h", told.set)
    assert told.wait(30)
    assert faults == {}


def test_one_that_hangs_is_named_and_disturbs_no_other(
    observers: Observers, faults: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release, told = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(60)

    observers.tell("slow", "turn_finished", hang)
    observers.tell("quick", "turn_finished", told.set)
    assert told.wait(30)
    assert begun.wait(30)
    observers.check()
    assert faults == {}
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.0)
    observers.check()
    assert faults == {"slow": "its turn_finished takes longer than 0 s"}
    for _ in range(3):
        observers.tell("slow", "feedback_given", hang)
    assert faults == {"slow": "its feedback_given takes longer than 0 s; 3 events were not told"}
    release.set()


def test_one_that_is_too_slow_drops_and_counts(observers: Observers, faults: dict[str, str]) -> None:
    release = threading.Event()
    for _ in range(300):
        observers.tell("slow", "h", lambda: release.wait(60))
    assert faults["slow"].startswith("its h is too slow: 256 events wait for it; 4")
    release.set()


def test_close_waits_once_for_all_and_abandons(observers: Observers, faults: dict[str, str]) -> None:
    release, told = threading.Event(), threading.Event()
    for name in ("a", "b", "c"):
        observers.tell(name, "h", lambda: release.wait(60))
        observers.tell(name, "h", told.set)
    observers.close(patience_s=0.2)
    assert set(faults) == {"a", "b", "c"}
    assert faults["a"] == "its h had not ended 2 s after the assistant was closed; 1 events were not told"
    release.set()
    assert not told.wait(0.1)
    observers.tell("a", "h", told.set)
    observers.close()
    assert not told.is_set()
