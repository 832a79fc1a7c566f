"""Cycles beside other cycles, beside answers, and beside the end of the program."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support.learning_child import learn_in_child, read_until, release
from support.scripted_learner import (
    DRINKS,
    NAME,
    PLANTS,
    SEAS,
    WATCHDOG_S,
    Dictionary,
    HoldAt,
    Knobs,
    open_assistant,
    served_by,
    teach,
)

from smallai_assistant import Assistant, ModelRuntime, TextPart, Turn, errors


def test_two_threads_cannot_learn_at_once(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    task.knobs.on_step = first = HoldAt(1)
    job = opened.learn_in_background(NAME)
    first.wait()
    with pytest.raises(errors.Busy, match="another learning cycle"):
        opened.learn(NAME)
    with pytest.raises(errors.Busy):
        job.result(timeout_s=0.0)
    first.release()
    assert job.result(WATCHDOG_S).is_promoted
    assert not job.is_running


def test_background_cycle_can_be_cancelled(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    task.knobs.on_step = held = HoldAt(1)
    job = opened.learn_in_background(NAME)
    held.wait()
    job.cancel()
    held.release()
    with pytest.raises(errors.Cancelled):
        job.result(WATCHDOG_S)


def test_two_processes_cannot_learn_at_once(tmp_path: Path) -> None:
    with open_assistant(tmp_path) as assistant:
        teach(assistant, DRINKS)
        with learn_in_child(tmp_path, held_step=1) as other:
            read_until(other, "held")
            with pytest.raises(errors.Busy):
                assistant.learn(NAME)
            release(other)
            read_until(other, "promoted")
        assert served_by(assistant) is not None  # the other process's promotion is seen here
        with pytest.raises(errors.NotEnoughData):
            assistant.learn(NAME)


def test_streams_keep_their_version_during_a_promotion(opened: Assistant, task: Dictionary) -> None:
    """50 answers run while the first cycle trains and is promoted, 50 more while the second is."""
    teach(opened, DRINKS | PLANTS)
    task.knobs.word_s = 0.02
    words = "one two three four five six seven eight nine ten"
    opened.teach(NAME, "say something long", words)
    long = "tell me something long"
    adapters: list[set[str | None]] = []
    for fresh in (None, SEAS):
        if fresh:
            teach(opened, fresh)
            table = json.loads((opened.adapters.versions(NAME)[-1].folder / "table.json").read_text())
            assert table["long"] == words
        begun = threading.Barrier(51)
        turns: list[Turn] = []

        def converse(begun: threading.Barrier = begun, turns: list[Turn] = turns) -> None:
            response = opened.ask(long, task=NAME)
            parts = iter(response)
            first = next(parts)
            begun.wait(WATCHDOG_S)
            assert isinstance(first, TextPart)
            assert first.text + "".join(part.text for part in parts if isinstance(part, TextPart)) == f"{words} "
            turns.append(response.turn)

        threads = [threading.Thread(target=converse) for _ in range(50)]
        for thread in threads:
            thread.start()
        begun.wait(WATCHDOG_S)
        before = opened.adapters.champion_id(NAME)
        report = opened.learn(NAME)
        assert report.is_promoted
        for thread in threads:
            thread.join(WATCHDOG_S)
        assert len(turns) == 50
        assert {turn.adapter for turn in turns} == {before}
        adapters.append({served_by(opened)})
    assert len(adapters[0] | adapters[1]) == 2


def test_training_waits_for_an_answer(opened: Assistant, task: Dictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(opened, DRINKS)
    held, has_yielded, has_stepped = HoldAt(1), threading.Event(), threading.Event()

    def on_step(step: int) -> None:
        held(step)
        if step == 2:
            has_stepped.set()

    task.knobs.on_step, task.knobs.on_word = on_step, (answer := HoldAt(1))
    job = opened.learn_in_background(NAME)
    held.wait()
    parts = iter(opened.ask("what is tea", task=NAME))
    next(parts)
    answer.wait()
    wait_until_idle = ModelRuntime.wait_until_idle

    def recorded(self: ModelRuntime, **options: Any) -> None:
        has_yielded.set()
        wait_until_idle(self, **options)

    monkeypatch.setattr(ModelRuntime, "wait_until_idle", recorded)
    held.release()
    assert has_yielded.wait(WATCHDOG_S)
    assert not has_stepped.wait(0.2)  # an eternity for a step without work
    answer.release()
    list(parts)
    assert has_stepped.wait(WATCHDOG_S)
    assert job.result(WATCHDOG_S).is_promoted


def test_closing_stops_the_cycle(tmp_path: Path) -> None:
    stop, has_begun, raised = threading.Event(), threading.Event(), []

    def on_step(step: int) -> None:
        has_begun.set()
        assert stop.wait(WATCHDOG_S)  # `close` sets it

    with open_assistant(tmp_path, Dictionary(knobs=Knobs(on_step=on_step))) as assistant:
        teach(assistant, DRINKS)

        def run() -> None:
            try:
                assistant.learn(NAME, cancel=stop)
            except errors.AssistantError as error:
                raised.append(type(error))

        thread = threading.Thread(target=run)
        thread.start()
        assert has_begun.wait(WATCHDOG_S)
    thread.join(WATCHDOG_S)
    assert raised == [errors.Cancelled]
