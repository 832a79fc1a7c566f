"""Feedback takes effect at once, and a fault of a plugin never loses what was stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.adapters import add
from support.observed_learner import WATCHDOG_S, Learner, Observer

from smallai_assistant import (
    Assistant,
    Feedback,
    ImagePart,
    InvalidInput,
    JudgedTurn,
    Notice,
    Turn,
)
from smallai_assistant.errors import InputTooLarge, NotEnoughData, StoreError
from smallai_assistant.learning import feedback_service as feedback_service_module

FOUR = ("chat", "image", "speech", "recommend")
Open = Callable[[Observer], Assistant]


@pytest.fixture
def task() -> Learner:
    return Learner()


@pytest.fixture
def observer(task: Learner) -> Observer:
    return Observer(task)


@pytest.fixture
def open_it(tmp_path: Path, database_url: str) -> Iterator[Open]:
    """Opens an assistant on the test's data, and closes the one before: a restart."""
    opened: list[Assistant] = []

    def make(plugin: Observer) -> Assistant:
        for earlier in opened:
            earlier.close()
        opened.append(
            Assistant(
                data_dir=tmp_path / "data",
                models_dir=tmp_path / "models",
                database_url=database_url,
                plugins=[plugin],
                disabled_plugins=FOUR,
                device="cpu",
            )
        )
        return opened[-1]

    yield make
    for assistant in opened:
        assistant.close()


@pytest.fixture
def it(open_it: Open, observer: Observer) -> Assistant:
    return open_it(observer)


def answer(it: Assistant, text: str = "q") -> Turn:
    return it.ask(text, task="scripted").turn


# -- given --


def test_correction_is_known_also_after_a_restart(
    it: Assistant, task: Learner, observer: Observer, open_it: Open
) -> None:
    turn = answer(it)
    receipt = it.give_feedback(Feedback(turn.id, correction="a"))
    assert (receipt.is_new, receipt.effect, receipt.notices) == (True, "the next turn answers 'a'", ())
    assert receipt.feedback.task == "scripted"
    observer.wait_for(1)
    assert observer.heard == [receipt.feedback.id]
    assert answer(it).text == "a"
    fresh = Learner()
    again = open_it(Observer(fresh))
    assert fresh.told == ["rebuild"]
    assert answer(again).text == "a"


def test_same_key_is_learned_once(it: Assistant, task: Learner, observer: Observer) -> None:
    turn = answer(it)
    first = it.give_feedback(Feedback(turn.id, correction="a", key="k"))
    second = it.give_feedback(Feedback(turn.id, correction="b", key="k"))
    assert (second.is_new, second.feedback) == (False, first.feedback)
    assert answer(it).text == "a"
    it.close()  # everything was told
    assert task.told.count("learn_now") == len(observer.heard) == 1


def test_feedback_may_come_before_the_turn_is_stored(it: Assistant, observer: Observer) -> None:
    with it.database.write():  # the writer of turns has to wait
        response = it.ask("q", task="scripted")
        for _ in response:
            pass
        receipts: list[Any] = []
        is_stored = threading.Event()
        observer.act = lambda _: is_stored.set()
        thread = threading.Thread(target=lambda: receipts.append(response.rate(good=True)))
        thread.start()
        assert not is_stored.wait(0.3)
    thread.join(WATCHDOG_S)
    assert receipts[0].is_new


def test_feedback_on_an_unknown_turn_is_refused(it: Assistant, task: Learner, observer: Observer) -> None:
    with pytest.raises(InvalidInput, match="no turn"):
        it.give_feedback(Feedback("nope", is_good=True))
    assert it.feedback.rows() == []
    it.close()  # everything was told
    assert observer.heard == []
    assert "learn_now" not in task.told


@pytest.mark.parametrize(
    "error",
    [
        ValueError("broken"),
        NotEnoughData("too little"),
        SystemExit(3),
        RecursionError(),
        type("Panic", (BaseException,), {})("panic"),
    ],
)
def test_unlearned_feedback_is_stored_and_reported(
    it: Assistant, task: Learner, error: BaseException, open_it: Open
) -> None:
    turn = answer(it)
    task.fails["learn_now"] = error
    receipt = it.give_feedback(Feedback(turn.id, correction="a"))
    assert receipt.is_new
    [notice] = receipt.notices
    assert notice.code == "not_learned_yet"
    assert str(error) in notice.text
    assert "Traceback" not in notice.text
    assert [row.id for row in it.feedback.rows()] == [receipt.feedback.id]
    assert answer(open_it(Observer(Learner()))).text == "a"  # the next start knows


def test_effect_must_be_a_sentence(it: Assistant, task: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = answer(it)
    monkeypatch.setattr(task, "learn_now", lambda _: None)
    receipt = it.give_feedback(Feedback(turn.id, is_good=True))
    assert receipt.effect == ""
    assert "must return a sentence" in receipt.notices[0].text


def test_interrupt_while_learning_loses_nothing(it: Assistant, task: Learner) -> None:
    turn = answer(it)
    task.fails["learn_now"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        it.give_feedback(Feedback(turn.id, is_good=True))
    assert len(it.feedback.rows()) == 1


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(1)])
def test_raising_observer_changes_nothing(it: Assistant, observer: Observer, error: BaseException) -> None:
    def fail(_: Feedback) -> None:
        raise error

    observer.act = fail
    receipt = it.give_feedback(Feedback(answer(it).id, correction="a"))
    assert (receipt.is_new, receipt.notices) == (True, ())
    observer.wait_for(1)
    assert answer(it).text == "a"


def test_observer_may_give_feedback(it: Assistant, observer: Observer) -> None:
    turn = answer(it)
    observer.act = lambda given: (
        it.give_feedback(Feedback(turn.id, comment="seen", key=f"seen {given.id}")) if not given.comment else None
    )  # type: ignore[assignment]
    it.give_feedback(Feedback(turn.id, is_good=True))
    observer.wait_for(2)
    assert [row.feedback.comment for row in it.feedback.rows() if row.feedback] == ["", "seen"]


def test_closed_assistant_takes_no_feedback(it: Assistant) -> None:
    turn = answer(it)
    it.close()
    with pytest.raises(StoreError, match="closed"):
        it.give_feedback(Feedback(turn.id, is_good=True))


# -- taught --


def test_taught_example_is_known(it: Assistant, open_it: Open) -> None:
    receipt = it.teach("scripted", "q", "a")
    assert receipt.effect
    assert answer(it).text == "a"
    picture = it.teach("scripted", ImagePart(data=b"picture"), "owl")
    again = open_it(Observer(Learner()))
    judged_turns = {judged_turn.feedback.id: judged_turn for judged_turn in again.feedback.judged_turns("scripted")}
    assert judged_turns[receipt.feedback.id].turn.details == {"taught": True}
    [part] = judged_turns[picture.feedback.id].turn.request.parts
    assert isinstance(part, ImagePart)
    assert part.read() == b"picture"
    assert answer(again).text == "a"


@pytest.mark.parametrize(
    ("name", "content", "label", "kind"),
    [
        ("scriptde", "q", "a", InvalidInput),
        ("scripted", "", "a", InvalidInput),
        ("scripted", "q", " ", InvalidInput),
        ("scripted", "q", "x" * 20_001, InputTooLarge),
        ("scripted", ["q", ImagePart(data=b"x")], "a", InvalidInput),
        ("scripted", ImagePart(Path("missing.png")), "a", InvalidInput),
        ("scripted", ImagePart(Path(__file__)), "a", InputTooLarge),
    ],
)
def test_unteachable_example_stores_nothing(
    it: Assistant, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, label: str, kind: type[InvalidInput]
) -> None:
    monkeypatch.setattr(feedback_service_module, "MAX_KEPT_MEDIA_BYTES", 1000)
    with pytest.raises(kind):
        it.teach(name, content, label)
    assert it.store.session_list() == []
    assert it.feedback.rows() == []


# -- taken back, erased --


def test_undone_feedback_is_forgotten_permanently(it: Assistant, task: Learner, open_it: Open) -> None:
    first = it.teach("scripted", "q", "a").feedback
    second = it.teach("scripted", "q", "b").feedback
    assert answer(it).text == "b"
    receipt = it.undo_feedback(second.id)
    assert (receipt.effect, receipt.notices) == ("taken back", ())
    assert answer(it).text == "a"
    assert task.told[-2:] == ["forget", "rebuild"]
    it.undo_feedback(first.id)
    with pytest.raises(InvalidInput):
        it.undo_feedback("nope")
    assert answer(open_it(Observer(Learner()))).text == "?"


def test_erasure_names_adapters_that_learned_from_it(it: Assistant) -> None:
    first, second = (it.teach("scripted", text, "a").feedback.id for text in ("q", "r"))
    old = add(it.adapters, "old", task="scripted", ids=[first])
    champion = add(it.adapters, "new", task="scripted", ids=[first, second])
    it.adapters.promote(champion.id)
    assert f"{champion.id} learned from it and still serves" in it.undo_feedback(second).effect
    with pytest.raises(InvalidInput):
        it.erase_feedback([first, "nope"])
    assert answer(it).text == "a"
    erased = it.erase_feedback([first, first])
    assert erased.feedback_ids == (first,)
    assert erased.adapter_ids == (old.id, champion.id)
    assert erased.champions == (champion.id,)
    assert answer(it).text == "?"
    assert it.feedback.judged_turns("scripted") == []


@pytest.mark.parametrize("step", ["forget", "rebuild"])
def test_task_that_cannot_forget_is_reported(it: Assistant, task: Learner, step: str) -> None:
    ids = [it.teach("scripted", text, "a").feedback.id for text in ("q", "r")]
    task.fails[step] = RuntimeError("broken")
    for notices in (it.undo_feedback(ids[0]).notices, it.erase_feedback([ids[1]]).notices):
        assert [notice.code for notice in notices] == ["not_forgotten_yet"]
        assert "scripted" in notices[0].text
    assert [row.state for row in it.feedback.rows()] == ["retracted", "erased"]


# -- rebuilt --


def test_failing_rebuild_does_not_stop_the_start(it: Assistant, open_it: Open) -> None:
    it.teach("scripted", "q", "a")
    task = Learner()
    task.fails["rebuild"] = RuntimeError("broken")
    again = open_it(Observer(task))
    assert "broken" in again.broken_plugins["scripted"]
    response = again.ask("q", task="scripted")
    assert response.text == "?"
    assert isinstance(response.notices[0], Notice)


def test_task_without_context_does_not_stop_the_start(open_it: Open) -> None:
    task = Learner()
    task.setup = lambda context: None  # type: ignore[method-assign]
    assert "context" in open_it(Observer(task)).broken_plugins["scripted"]


def test_retired_feedback_is_not_rebuilt(it: Assistant) -> None:
    first = it.teach("scripted", "q", "a").feedback.id
    it.teach("scripted", "r", "b")
    adapter = add(it.adapters, task="scripted", ids=[first])
    it.adapters.judge(adapter.id, "approved", {"retired_ids": [first]})
    it.adapters.promote(adapter.id)
    it._feedback_service.rebuild("scripted")  # private: what a promotion does, without a cycle
    assert (answer(it, "q").text, answer(it, "r").text) == ("?", "b")
    assert answer(it).adapter == adapter.id


def test_feedback_during_a_rebuild_is_kept(
    it: Assistant, task: Learner, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = answer(it)
    has_read, has_arrived, real = threading.Event(), threading.Event(), task.rebuild

    def slowly(judged_turns: Sequence[JudgedTurn]) -> None:
        has_read.set()
        assert has_arrived.wait(WATCHDOG_S)  # the feedback is stored, and these judged turns do not hold it
        real(judged_turns)

    monkeypatch.setattr(task, "rebuild", slowly)
    observer.act = lambda _: has_arrived.set()
    rebuilding = threading.Thread(target=lambda: it._feedback_service.rebuild("scripted"))
    rebuilding.start()
    assert has_read.wait(WATCHDOG_S)
    it.give_feedback(Feedback(turn.id, correction="a"))
    rebuilding.join(WATCHDOG_S)
    assert answer(it).text == "a"
