"""One thread per model: steps take turns, calls run between them, closing stops the computation."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from smallai_assistant.engines.executor import ModelThread
from smallai_assistant.errors import Cancelled


@pytest.fixture
def thread() -> Iterator[ModelThread]:
    made = ModelThread("test")
    yield made
    made.close()


def test_streams_take_turns_step_by_step(thread: ModelThread) -> None:
    order: list[str] = []

    def steps(name: str) -> Iterator[str]:
        for _ in range(4):
            order.append(name)
            yield name

    is_blocked, gate = threading.Event(), threading.Event()

    def block() -> None:
        is_blocked.set()
        gate.wait(60)

    blocker = threading.Thread(target=lambda: thread.call(block))
    blocker.start()
    is_blocked.wait(60)  # the model's thread is busy, so all three streams begin together
    streams = [thread.stream(steps(name)) for name in "abc"]
    gate.set()
    blocker.join()
    assert [list(stream) for stream in streams] == [["a"] * 4, ["b"] * 4, ["c"] * 4]
    assert "".join(order) == "abc" * 4


def test_background_stream_waits_for_other_steps(thread: ModelThread) -> None:
    order: list[str] = []
    both_there = threading.Event()

    def steps(name: str) -> Iterator[str]:
        both_there.wait(60)
        for _ in range(4):
            order.append(name)
            yield name

    evaluation = thread.stream(steps("e"), in_background=True)
    answer = thread.stream(steps("a"))
    both_there.set()
    assert list(answer) == ["a"] * 4
    assert list(evaluation) == ["e"] * 4
    assert "".join(order).removeprefix("e") in ("aaaaeee", "aaaaeeee")  # one step may have begun before


def test_background_stream_is_not_starved(thread: ModelThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallai_assistant.engines.executor._BACKGROUND_PATIENCE_S", 0.05)
    is_done = threading.Event()

    def endless() -> Iterator[int]:
        while not is_done.is_set():
            yield 1

    answer = thread.stream(endless())
    reader = threading.Thread(target=lambda: list(answer))
    reader.start()
    assert list(thread.stream(iter("abc"), in_background=True)) == ["a", "b", "c"]
    assert reader.is_alive()
    is_done.set()
    reader.join(60)


def test_background_stream_runs_while_others_are_unread(thread: ModelThread) -> None:
    unread = thread.stream(iter(range(100)))
    assert list(thread.stream(iter("abc"), in_background=True)) == ["a", "b", "c"]
    assert list(unread) == list(range(100))


def test_calls_run_between_steps(thread: ModelThread) -> None:
    is_done = threading.Event()

    def endless() -> Iterator[int]:
        while not is_done.is_set():
            yield 1

    stream = thread.stream(endless())
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    assert thread.call(lambda: "now") == "now"
    assert reader.is_alive(), "the stream has not ended, so the call ran between two of its steps"
    is_done.set()
    reader.join(60)


def test_calls_run_on_the_model_thread(thread: ModelThread) -> None:
    names = set(thread.stream(iter([threading.current_thread().name])))
    outer = thread.call(lambda: threading.current_thread().name)
    inner = thread.call(lambda: thread.call(lambda: threading.current_thread().name))
    assert outer == inner == "model-test"
    assert names == {"MainThread"}


def test_close_ends_the_generator_on_the_thread(thread: ModelThread) -> None:
    closed_on: list[str] = []

    def steps() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_on.append(threading.current_thread().name)

    stream = thread.stream(steps())
    next(stream)
    stream.close()
    stream.close()
    assert closed_on == ["model-test"]
    assert list(stream) == []
    assert thread.n_streams == 0


def test_unread_stream_does_not_run_ahead(thread: ModelThread) -> None:
    made: list[int] = []

    def steps() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    stream = thread.stream(steps())
    assert list(thread.stream(iter(range(50)))) == list(range(50))  # meanwhile the unread stream had 50 turns
    assert len(made) < 20
    assert list(stream) == list(range(100))


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_errors_reach_the_caller_and_spare_the_thread(thread: ModelThread, error: BaseException) -> None:
    def fail() -> None:
        raise error

    def steps() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(type(error)):
        thread.call(fail)
    stream = thread.stream(steps())
    assert next(stream) == 1
    with pytest.raises(type(error)):
        next(stream)
    assert thread.call(lambda: 2) == 2


def test_close_ends_streams_and_later_calls_fail() -> None:
    thread = ModelThread("closing")

    def steps() -> Iterator[int]:
        while True:
            yield 1

    stream = thread.stream(steps())
    next(stream)
    thread.close()
    with pytest.raises(Cancelled, match="closed"):
        list(stream)
    with pytest.raises(Cancelled, match="closed"):
        thread.call(lambda: 1)
    with pytest.raises(Cancelled, match="closed"):
        thread.stream(iter([1]))


def test_fifty_streams_do_not_mix(thread: ModelThread) -> None:
    def steps(n: int) -> Iterator[int]:
        for _ in range(30):
            yield n

    results: dict[int, list[int]] = {}

    def read(n: int) -> None:
        results[n] = list(thread.stream(steps(n)))

    readers = [threading.Thread(target=read, args=(n,)) for n in range(50)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert results == {n: [n] * 30 for n in range(50)}
