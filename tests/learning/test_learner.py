"""The whole loop on a task without a model: taught, known at once, learned, judged, promoted, taken back."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scripted import ScriptedPlugin, make_task
from support.scripted_learner import NAME, UNKNOWN, Dictionary, Knobs, open_assistant, questions, teach

from smallai_assistant import Adapter, Assistant, Feedback, Task, Turn, errors, hookimpl
from smallai_assistant.learning.evaluation import Reason, ReasonKind, is_held_out
from smallai_assistant.learning.learner import CycleOptions
from smallai_assistant.learning.promotion import Promoter
from smallai_assistant.learning.report import CycleReport
from smallai_assistant.types import TextPart

TESTS = Path(__file__).parents[1]
DRINKS = {"tea": "a hot drink of leaves", "milk": "a white drink of cows"}
PLANTS = {"rye": "a grain for bread", "oak": "a tree of hard wood"}
SEAS = {"fog": "a cloud on the ground", "tide": "the sea that comes and goes"}


@pytest.fixture
def task() -> Dictionary:
    return Dictionary()


@pytest.fixture
def opened(tmp_path: Path, task: Dictionary) -> Iterator[Assistant]:
    with open_assistant(tmp_path, task) as assistant:
        yield assistant


def ask(assistant: Assistant, question: str) -> str:
    return assistant.ask(question, task=NAME).text.strip()


def served_by(assistant: Assistant, question: str = "what of tea") -> str | None:
    return assistant.ask(question, task=NAME).turn.adapter


def learned(assistant: Assistant, words: dict[str, str]) -> str:
    """Teaches the words and runs a cycle; returns the adapter that now serves."""
    teach(assistant, words)
    report = assistant.learn(NAME)
    assert report.is_promoted, report.summary()
    return report.adapter_id


# -- the loop --


def test_the_whole_loop(opened: Assistant, task: Dictionary) -> None:
    wrong = opened.ask("please say tea", task=NAME)
    assert wrong.text.strip() == UNKNOWN
    receipt = wrong.rate(correction=DRINKS["tea"])
    assert receipt.effect == "tea means 'a hot drink of leaves' from now on."
    assert ask(opened, "and what of tea") == DRINKS["tea"]

    ids = [receipt.feedback.id, *teach(opened, DRINKS | PLANTS)]
    told: list[tuple[str, float]] = []
    report = opened.learn(NAME, on_progress=lambda what, fraction: told.append((what, fraction)))
    assert report.outcome == "promoted"
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)
    assert told[0][1] == 0.0
    assert told[-1] == ("done", 1.0)
    (target, protected) = report.slices
    assert (target.kind, target.before, target.after) == ("target", 0.0, 1.0)
    assert target.low > 0
    assert (protected.name, protected.kind, protected.change) == ("numbers", "protected", 0.0)
    assert report.metric == "exact answers"
    assert report.parent_id is report.baseline_id is None
    assert report.training.n_new == len(report.training.losses) > target.n
    assert report.feedback.n_judged_turns == report.training.n_new + target.n
    assert {change.after for change in report.changes} <= {*DRINKS.values(), *PLANTS.values()}
    assert report.adapter_id in report.summary()

    adapter = opened.adapters.get(report.adapter_id)
    assert (adapter.status, adapter.kind, dict(adapter.base)) == ("approved", "table", {"model": "paper", "version": 1})
    assert json.loads((adapter.folder / "table.json").read_text()) == DRINKS | PLANTS
    assert adapter.report == json.loads(json.dumps(report.to_json()))
    assert adapter.report["outcome"] == "promoted"
    # What it learned from and what it was judged by are apart, and together all there is.
    assert set(adapter.feedback_ids) | set(report.held_out_ids) == set(ids)
    assert not set(adapter.feedback_ids) & set(report.held_out_ids)

    assert set(adapter.retired_ids) == set(ids)  # it knows them all
    assert task.memory == {}
    again = opened.ask("and what of tea", task=NAME)
    assert again.text.strip() == DRINKS["tea"]
    assert again.turn.adapter == report.adapter_id


def test_what_it_does_not_answer_itself_stays_in_the_fast_memory(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    odd = opened.teach(NAME, "say what is milk", "no drink at all").feedback.id  # outvoted in the weights
    report = opened.learn(NAME)
    assert report.is_promoted
    assert odd not in report.retired_ids
    assert task.memory == {"milk": "no drink at all"}


def test_roll_back_one_two_and_to_none_and_start_again(tmp_path: Path) -> None:
    words = [DRINKS, PLANTS, SEAS]
    with open_assistant(tmp_path) as assistant:
        first, second, third = (learned(assistant, word) for word in words)
        task = assistant.tasks[NAME]
        assert isinstance(task, Dictionary)
        assert task.parents == [None, first, second]
        assert task.memory == {}
        begun = time.perf_counter()
        now = assistant.rollback(NAME)
        assert time.perf_counter() - begun < 1.0
        assert now is not None
        assert now.id == served_by(assistant) == second
        assert task.memory == SEAS  # the fast memory takes over what the weights no longer hold
        assert ask(assistant, "what of tide") == SEAS["tide"]
        assert assistant.rollback(NAME) == assistant.adapters.get(first)
        assert task.memory == SEAS | PLANTS
        assert assistant.rollback(NAME) is None
        assert served_by(assistant) is None
        assert task.memory == SEAS | PLANTS | DRINKS
        with pytest.raises(errors.InvalidInput, match="no adapter serves"):
            assistant.rollback(NAME)
        assert assistant.promote(third).id == served_by(assistant) == third
        assert assistant.rollback(NAME, to="none") is None
        assert assistant.rollback(NAME, to=second) == assistant.adapters.get(second)
        assert task.memory == SEAS
    with open_assistant(tmp_path, again := Dictionary()) as assistant:
        assert served_by(assistant) == second
        assert again.memory == SEAS
        assert ask(assistant, "what of fog") == SEAS["fog"]


def test_the_next_cycle_learns_the_news_again_with_the_old_and_asks_both(opened: Assistant) -> None:
    learned(opened, DRINKS)
    old = set(opened.adapters.versions(NAME)[0].feedback_ids)
    learned(opened, PLANTS)
    report = opened.adapters.versions(NAME)[1].report
    assert report["n_replay"] == len(old)
    assert [(each["name"], each["kind"]) for each in report["slices"]] == [
        ("new feedback", "target"),
        ("earlier feedback", "protected"),
        ("numbers", "protected"),
    ]
    assert report["slices"][1]["before"] == report["slices"][1]["after"] == 1.0
    assert set(opened.adapters.versions(NAME)[1].feedback_ids) > old


def test_without_promotion_it_waits_for_a_person(opened: Assistant) -> None:
    teach(opened, DRINKS)
    report = opened.learn(NAME, CycleOptions(promote=False))
    assert report.outcome == "approved"
    assert served_by(opened) is None
    opened.promote(report.adapter_id)
    assert served_by(opened) == report.adapter_id


def test_a_budget_ends_the_training_and_not_the_cycle(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS | PLANTS | SEAS)
    task.knobs.step_s = 0.05
    report = opened.learn(NAME, CycleOptions(budget_s=0.12))
    assert 1 <= len(report.training.losses) <= 4 < report.training.n_new
    with pytest.raises(errors.InvalidInput):
        CycleOptions(budget_s=-1.0)


# -- too little --


@pytest.mark.parametrize("what", ["one row", "one label", "nothing new", "no consent"])
def test_not_enough_data(opened: Assistant, what: str) -> None:
    if what == "one row":
        opened.teach(NAME, "what is tea", "a drink")
    elif what == "one label":
        teach(opened, dict.fromkeys(["tea", "milk", "beer"], "a drink"))
    elif what == "nothing new":
        learned(opened, DRINKS)
    else:
        for word, answer in DRINKS.items():
            for question in questions(word):
                turn = opened.ask(question, task=NAME).turn
                opened.give_feedback(Feedback(turn.id, correction=answer, may_train=False))
    before = served_by(opened)
    with pytest.raises(errors.NotEnoughData) as caught:
        opened.learn(NAME)
    assert caught.value.code == "not_enough_data"
    assert served_by(opened) == before
    assert len(opened.adapters.versions(NAME)) == (what == "nothing new")


def test_unknown_tasks_and_tasks_that_do_not_learn(tmp_path: Path) -> None:
    class Parrots(ScriptedPlugin):
        """A plugin of another name."""

    with open_assistant(tmp_path, None, Parrots(make_task(name="parrot"))) as assistant:
        for name, message in [("dictionery", "there is no task"), ("parrot", "does not learn")]:
            with pytest.raises(errors.InvalidInput, match=message):
                assistant.learn(name)


def test_a_trained_row_that_is_also_asked_is_refused(opened: Assistant) -> None:
    teach(opened, DRINKS)
    asked = (f"What NUMBER is n{n}?" for n in range(100))
    row = opened.teach(NAME, next(each for each in asked if not is_held_out(each)), "a lie").feedback.id
    with pytest.raises(errors.EvalContaminated, match=row):
        opened.learn(NAME)
    opened.undo_feedback(row)
    assert opened.learn(NAME).is_promoted


# -- the gate --


def test_the_gate_refuses_what_costs_a_protected_slice_and_says_by_how_much(
    opened: Assistant, task: Dictionary
) -> None:
    first = learned(opened, DRINKS)
    teach(opened, PLANTS)
    task.knobs.n_forgotten = 3
    report = opened.learn(NAME)
    assert report.outcome == "refused"
    assert [each.change for each in report.slices if each.name == "numbers"] == [pytest.approx(-0.03)]
    (loss,) = [reason for reason in report.reasons if reason.kind is ReasonKind.LOST]
    assert "a loss on numbers: 100.0% before, 97.0% after, change -3.0 points" in str(loss)
    assert "nothing was changed" in report.summary()
    assert {change.after for change in report.changes if change.slice == "numbers"} == {"gone"}
    assert report.retired_ids == ()
    assert served_by(opened) == first

    with pytest.raises(errors.GateRejected, match=r"change -3\.0 points"):
        opened.promote(report.adapter_id)
    assert served_by(opened) == first
    opened.promote(report.adapter_id, force=True)
    assert served_by(opened) == report.adapter_id
    assert "forced: the gate's word was refused" in opened.adapters.log(NAME)[-1]["reason"]
    opened.rollback(NAME)
    assert served_by(opened) == first


def test_a_loss_of_one_point_is_allowed_and_what_brings_nothing_is_refused(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    task.knobs.n_forgotten = 1
    assert opened.learn(NAME, CycleOptions(promote=False)).is_approved
    task.knobs = Knobs(is_deaf=True)
    report = opened.learn(NAME)
    assert report.outcome == "refused"
    assert report.reasons[0].kind is ReasonKind.NOT_SURE
    assert str(report.reasons[0]).startswith("no sure improvement on new feedback: 0.0% before, 0.0% after")


# -- hooks --


class Approver:
    """Decides as it is told and keeps what it heard."""

    def __init__(self, decision: Any) -> None:
        self.decision = decision
        self.asked: list[tuple[Adapter, Adapter | None]] = []

    @hookimpl
    def approve_adapter(self, candidate: Adapter, champion: Adapter | None) -> Any:
        self.asked.append((candidate, champion))
        if isinstance(self.decision, BaseException):
            raise self.decision
        return self.decision


@pytest.mark.parametrize(("decision", "n_forgotten"), [(False, 0), (True, 3), (None, 0), (None, 3)])
def test_hook_approve_adapter(tmp_path: Path, decision: bool | None, n_forgotten: int) -> None:
    plugin = Approver(decision)
    with open_assistant(tmp_path, Dictionary(knobs=Knobs(n_forgotten=n_forgotten)), plugin) as assistant:
        teach(assistant, DRINKS)
        report = assistant.learn(NAME)
        candidate, champion = plugin.asked[0]
        assert champion is None
        assert candidate.id == report.adapter_id
        assert [each["name"] for each in candidate.report["slices"]] == ["new feedback", "numbers"]
        expected = decision if decision is not None else n_forgotten == 0
        assert report.is_approved == report.is_promoted == expected
        assert served_by(assistant) == (report.adapter_id if expected else None)
        if decision is not None:
            word = "approved" if decision else "refused"
            assert report.reasons[0] == Reason(ReasonKind(f"plugin_{word}"), plugin="Approver")
            assert str(report.reasons[0]) == f"the plugin Approver {word} it"
        stored = assistant.adapters.get(report.adapter_id).report
        assert stored["reasons"] == [str(reason) for reason in report.reasons]
        assert CycleReport.from_json(stored).reasons == report.reasons


@pytest.mark.parametrize("decision", [RuntimeError("no"), "yes", KeyboardInterrupt()])
def test_an_approver_that_fails_lets_nothing_pass(tmp_path: Path, decision: Any) -> None:
    with open_assistant(tmp_path, None, Approver(decision)) as assistant:
        teach(assistant, DRINKS)
        with pytest.raises(errors.PluginError, match="approve_adapter"):
            assistant.learn(NAME)
        assert served_by(assistant) is None
        assert assistant.adapters.versions(NAME) == []


def test_hook_adapter_promoted(tmp_path: Path) -> None:
    heard: list[tuple[str | None, str | None]] = []

    class Observer:
        @hookimpl
        def adapter_promoted(self, adapter: Adapter | None, previous: Adapter | None) -> None:
            heard.append((adapter and adapter.id, previous and previous.id))
            raise RuntimeError("an observer that fails disturbs nobody")

    with open_assistant(tmp_path, None, Observer()) as assistant:
        first = learned(assistant, DRINKS)
        second = learned(assistant, PLANTS)
        assistant.rollback(NAME)
        assistant.rollback(NAME)
    assert heard == [(first, None), (second, first), (first, second), (None, first)]


def test_hook_feedback_given(tmp_path: Path) -> None:
    heard: list[tuple[Feedback, Turn]] = []

    class Observer:
        @hookimpl
        def feedback_given(self, feedback: Feedback, turn: Turn) -> None:
            heard.append((feedback, turn))
            raise RuntimeError("an observer that fails disturbs nobody")

    with open_assistant(tmp_path, None, Observer()) as assistant:
        response = assistant.ask("what is tea", task=NAME)
        receipt = response.rate(correction="a drink")
        assert heard == [(receipt.feedback, response.turn)]
        assert receipt.effect


# -- what goes wrong --


def test_a_nan_loss_ends_the_run_and_leaves_nothing(opened: Assistant, task: Dictionary, tmp_path: Path) -> None:
    teach(opened, DRINKS)
    task.knobs.nan_at = 3
    with pytest.raises(errors.TrainingFailed, match="became nan"):
        opened.learn(NAME)
    assert task.steps == [0, 1, 2, 3]  # it stopped there
    assert opened.adapters.versions(NAME) == []
    assert list((tmp_path / "data/adapters").iterdir()) == []
    task.knobs.nan_at = None
    assert opened.learn(NAME).is_promoted
    assert task.steps[0] == 0  # not from a checkpoint that may hold NaN


@pytest.mark.parametrize("error", [RuntimeError("broken"), errors.AdapterMismatch("no fit"), SystemExit(1)])
def test_an_adapter_that_does_not_answer_is_taken_back(
    opened: Assistant, task: Dictionary, error: BaseException
) -> None:
    first = learned(opened, DRINKS)
    teach(opened, PLANTS)
    task.knobs.raises = error
    with pytest.raises(errors.TrainingFailed, match=f"did not answer; {first} serves again"):
        opened.learn(NAME)
    task.knobs.raises = None
    assert served_by(opened) == first
    assert task.memory == PLANTS
    broken = opened.adapters.versions(NAME)[-1]
    assert broken.status == "refused"
    with pytest.raises(errors.GateRejected, match="did not answer"):
        opened.promote(broken.id)
    assert "did not answer" in opened.adapters.log(NAME)[-1]["reason"]


def test_an_adapter_that_hangs_is_taken_back(
    opened: Assistant, task: Dictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallai_assistant.learning.promotion._PROBE_PATIENCE_S", 0.2)
    teach(opened, DRINKS)
    task.knobs.hangs = True
    with pytest.raises(errors.TrainingFailed, match=r"no answer within .* seconds"):
        opened.learn(NAME)
    task.knobs.hangs = False
    assert served_by(opened) is None


def teach_by_several(assistant: Assistant) -> None:
    """One person's labels alone are not compared with anything."""
    for source in ("ann", "bob", "carl", "dora"):
        teach(assistant, DRINKS, source=source)


@pytest.mark.parametrize("method", ["labelled", "examples", "protected", "evaluate", "base", "train"])
def test_a_method_that_raises_is_the_plugins_fault_and_changes_nothing(
    opened: Assistant, task: Dictionary, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach_by_several(opened)

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patched:
        patched.setattr(task, method, fail)
        kind = errors.TrainingFailed if method == "train" else errors.PluginError
        with pytest.raises(kind, match="ZeroDivisionError: oh"):
            opened.learn(NAME)
    assert opened.adapters.versions(NAME) == []
    assert opened.learn(NAME).is_promoted


@pytest.mark.parametrize(
    "vectors", [[[1.0], [1.0, 0.0]], [[float("nan")], [1.0]], [[[1.0]], [[1.0]]]], ids=["lengths", "nan", "matrices"]
)
def test_vectors_that_cannot_be_compared_are_the_plugins_fault(
    opened: Assistant, task: Dictionary, vectors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    teach_by_several(opened)

    def labelled(judged_turns: Any) -> dict[str, Any]:
        pairs = zip(judged_turns, vectors, strict=False)
        return {each.feedback.id: ("a", np.asarray(vector, np.float32)) for each, vector in pairs}

    monkeypatch.setattr(task, "labelled", labelled)
    with pytest.raises(errors.PluginError, match=r"labelled raised ValueError: .*vector"):
        opened.learn(NAME)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_scores_that_are_none_are_refused(
    opened: Assistant, task: Dictionary, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smallai_assistant import Score

    teach(opened, DRINKS)
    monkeypatch.setattr(task, "evaluate", lambda examples, *_: [Score(value) for _ in examples])
    with pytest.raises(errors.TrainingFailed, match=r"values in \[0, 1\]"):
        opened.learn(NAME)


def test_an_adapter_of_another_base_is_left_out_and_cannot_be_promoted(opened: Assistant, task: Dictionary) -> None:
    first = learned(opened, DRINKS)
    task.version = 2
    teach(opened, PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert report.baseline_id is None
    assert report.training.n_replay == 0
    assert task.parents[-1] is None
    with pytest.raises(errors.AdapterMismatch, match="version"):
        opened.promote(first)
    assert served_by(opened) == report.adapter_id


def test_it_does_not_promote_over_a_change_made_meanwhile(opened: Assistant, task: Dictionary) -> None:
    first = learned(opened, DRINKS)
    teach(opened, PLANTS)
    report = opened.learn(
        NAME, on_progress=lambda what, _: opened.rollback(NAME) if what == "evaluating the candidate" else None
    )
    assert report.outcome == "approved"
    assert report.reasons[0].kind is ReasonKind.CHAMPION_CHANGED
    assert served_by(opened) is None
    assert opened.promote(report.adapter_id)
    assert opened.rollback(NAME) is None
    assert first in [version.id for version in opened.adapters.versions(NAME)]


# -- stopping --


def test_a_cancelled_cycle_changes_nothing_and_the_next_goes_on(
    opened: Assistant, task: Dictionary, tmp_path: Path
) -> None:
    first = learned(opened, DRINKS)
    teach(opened, PLANTS)
    stop = threading.Event()
    n_steps = 5

    def tell(what: str, _: float) -> None:
        if what.startswith(f"step {n_steps} of"):
            stop.set()

    with pytest.raises(errors.Cancelled) as caught:
        opened.learn(NAME, cancel=stop, on_progress=tell)
    assert "goes on from the last checkpoint" in caught.value.hint
    assert task.steps == list(range(n_steps))
    assert served_by(opened) == first
    assert len(opened.adapters.versions(NAME)) == 1
    (checkpoint,) = (tmp_path / "data/learning" / NAME).rglob("checkpoint.json")
    assert json.loads(checkpoint.read_text())["done"] == n_steps
    assert opened.learn(NAME).is_promoted
    assert task.steps[0] == n_steps
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))


def test_a_cycle_that_is_stopped_while_it_asks_leaves_no_candidate(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    stop = threading.Event()
    with pytest.raises(errors.Cancelled):
        opened.learn(
            NAME, cancel=stop, on_progress=lambda what, _: stop.set() if what == "evaluating the candidate" else None
        )
    assert opened.adapters.versions(NAME) == []
    assert opened.learn(NAME).is_promoted
    assert task.steps == []  # all of it was done


def test_other_feedback_does_not_go_on_from_the_checkpoint(opened: Assistant, task: Dictionary, tmp_path: Path) -> None:
    ids = teach(opened, DRINKS)
    stop = threading.Event()
    with pytest.raises(errors.Cancelled):
        opened.learn(NAME, cancel=stop, on_progress=lambda what, _: stop.set() if "step 5" in what else None)
    trained = [
        each for each in ids if not is_held_out(opened.feedback.judged_turns(NAME)[ids.index(each)].turn.request.text)
    ]
    opened.undo_feedback(trained[0])
    assert opened.learn(NAME).is_promoted
    assert task.steps[0] == 0
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))


def test_a_candidate_that_a_kill_left_unjudged_is_removed(opened: Assistant, tmp_path: Path) -> None:
    with opened.adapters.work_folder() as folder:
        (folder / "table.json").write_text("{}")
        left = opened.adapters.add(folder, task=NAME, kind="table", base={}).id
    with opened.adapters.work_folder() as folder:
        (folder / "table.json").write_text("{} ")
        forced = opened.adapters.add(folder, task=NAME, kind="table", base={"model": "paper", "version": 1}).id
    opened.adapters.promote(forced, force=True)  # served once: a person wanted it
    first = learned(opened, DRINKS)
    assert [version.id for version in opened.adapters.versions(NAME)] == [forced, first]
    assert not (tmp_path / "data/adapters" / left).exists()


# -- at once --


def test_two_threads_cannot_learn_at_once(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    task.knobs.step_s = 0.05
    job = opened.learn_in_background(NAME)
    until(lambda: "step" in job.what)
    with pytest.raises(errors.Busy, match="another learning cycle"):
        opened.learn(NAME)
    with pytest.raises(errors.Busy):
        job.result(timeout_s=0.0)
    assert job.result(60).is_promoted
    assert not job.is_running
    teach(opened, PLANTS)
    job = opened.learn_in_background(NAME)
    until(lambda: "step" in job.what)
    job.cancel()
    with pytest.raises(errors.Cancelled):
        job.result(60)


LEARN = """
folder, step_s = Path(sys.argv[1]), float(sys.argv[2])
task = Dictionary(knobs=Knobs(step_s=step_s))
with open_assistant(folder, task) as it:
    try:
        report = it.learn(NAME, on_progress=lambda what, _: print(what, flush=True))
        print(report.outcome, task.steps[:1], flush=True)
    except errors.AssistantError as error:
        print(error.code, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python of its own that can import this module."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", f"from test_learning import *\n{code}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if wanted in line:
            return line
    raise AssertionError(f"{wanted!r} was not said")


def until(is_so: Callable[[], bool], *, patience_s: float = 20.0) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_cannot_learn_at_once(tmp_path: Path) -> None:
    with open_assistant(tmp_path) as assistant:
        teach(assistant, DRINKS)
        with start(LEARN, tmp_path, 0.2) as other:
            read_until(other, "step 1")
            with pytest.raises(errors.Busy):
                assistant.learn(NAME)
            read_until(other, "promoted")
        assert served_by(assistant) is not None  # the other's work is seen here
        with pytest.raises(errors.NotEnoughData):
            assistant.learn(NAME)


def test_streams_end_on_the_version_they_began_with_and_training_waits(opened: Assistant, task: Dictionary) -> None:
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
            begun.wait(60)
            assert isinstance(first, TextPart)
            assert first.text + "".join(part.text for part in parts if isinstance(part, TextPart)) == f"{words} "
            turns.append(response.turn)

        threads = [threading.Thread(target=converse) for _ in range(50)]
        for thread in threads:
            thread.start()
        begun.wait(60)
        before = opened.adapters.champion_id(NAME)
        report = opened.learn(NAME)
        assert report.is_promoted
        for thread in threads:
            thread.join(60)
        assert len(turns) == 50
        assert {turn.adapter for turn in turns} == {before}
        adapters.append({served_by(opened)})
    assert len(adapters[0] | adapters[1]) == 2


def test_training_yields_to_answers(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    task.knobs.word_s, task.knobs.step_s = 0.2, 0.02
    job = opened.learn_in_background(NAME)
    until(lambda: len(task.steps) >= 2)
    parts = iter(opened.ask("what is tea", task=NAME))
    next(parts)
    n = len(task.steps)
    time.sleep(0.3)  # 15 steps' time
    assert len(task.steps) <= n + 1  # the one that had begun
    assert job.is_running
    list(parts)
    assert job.result(60).is_promoted


def test_closing_stops_the_cycle(tmp_path: Path) -> None:
    task = Dictionary(knobs=Knobs(step_s=0.05))
    with open_assistant(tmp_path, task) as assistant:
        teach(assistant, DRINKS)
        job = assistant.learn_in_background(NAME)
        until(lambda: len(task.steps) >= 2)
        assistant._learner.close()
        until(lambda: not job.is_running)  # its thread ends a moment after the cycle
    with pytest.raises(errors.Cancelled):
        job.result()


# -- erasure --


def test_erasing_names_the_adapters_and_a_rebuild_is_without_the_row(opened: Assistant, task: Dictionary) -> None:
    first = learned(opened, DRINKS)
    second = learned(opened, PLANTS | {"secret": "the key is under the mat"})
    rows = [
        judged_turn.feedback.id
        for judged_turn in opened.feedback.judged_turns(NAME)
        if "key" in (judged_turn.feedback.correction or "")
    ]
    learned_from = set(opened.adapters.get(second).feedback_ids)
    erased = opened.erase_feedback(rows)
    assert (erased.adapter_ids, erased.champions) == ((second,), (second,))
    assert learned_from & set(rows)
    assert ask(opened, "tell me the secret") == "the key is under the mat"  # the weights still hold it

    report = opened.learn(NAME, CycleOptions(rebuild=True))
    assert report.is_promoted, report.summary()
    assert report.baseline_id is None  # judged against what serves without the row
    assert report.parent_id == second
    assert task.parents[-1] is None  # not one weight of what must go
    assert report.training.n_replay == 0
    table = json.loads((opened.adapters.get(report.adapter_id).folder / "table.json").read_text())
    assert table == DRINKS | PLANTS
    assert ask(opened, "tell me the secret") == UNKNOWN
    assert not set(opened.adapters.get(report.adapter_id).feedback_ids) & set(rows)
    assert opened.erase_feedback(rows).adapter_ids == (second,)
    opened.adapters.remove(second)
    assert [version.id for version in opened.adapters.versions(NAME)] == [first, report.adapter_id]


@pytest.mark.parametrize("side", ["learned from", "judged by"])
def test_an_erasure_takes_its_words_from_the_reports(opened: Assistant, side: str) -> None:
    adapter = opened.adapters.get(learned(opened, DRINKS))
    assert adapter.report["changes"]
    untouched = opened.adapters.get(learned(opened, PLANTS))
    ids = adapter.feedback_ids if side == "learned from" else adapter.report["held_out_ids"]
    opened.erase_feedback(ids[:1])
    report = opened.adapters.get(adapter.id).report
    assert adapter.report["taught"]
    assert (report["changes"], report["taught"]) == ([], {})
    assert report["slices"] == adapter.report["slices"]
    # Its own cycle asked and learned the first one's lessons again.
    assert opened.adapters.get(untouched.id).report["changes"] == []


def test_an_erasure_deletes_the_checkpoints_of_stopped_cycles(opened: Assistant, tmp_path: Path) -> None:
    ids = teach(opened, DRINKS)
    stop = threading.Event()
    with pytest.raises(errors.Cancelled):
        opened.learn(NAME, cancel=stop, on_progress=lambda what, _: stop.set() if "step 5" in what else None)
    assert list((tmp_path / "data/learning").rglob("checkpoint.json"))
    opened.erase_feedback(ids[:1])
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))


@pytest.mark.parametrize("when", ["step 5", "evaluating the candidate"])
@pytest.mark.parametrize("is_judge", [False, True], ids=["learned from", "judged by"])
def test_a_cycle_that_knows_a_row_that_is_erased_meanwhile_ends(
    opened: Assistant, tmp_path: Path, when: str, is_judge: bool
) -> None:
    first = learned(opened, DRINKS)
    ids = teach(opened, PLANTS | SEAS)
    asked = {
        judged_turn.turn.request.text: judged_turn.feedback.id for judged_turn in opened.feedback.judged_turns(NAME)
    }
    gone = [each for text, each in asked.items() if each in ids and is_held_out(text) == is_judge][:1]
    assert gone

    def tell(what: str, _: float) -> None:
        if when in what and gone:
            opened.erase_feedback([gone.pop()])

    with pytest.raises(
        errors.TrainingFailed, match="1 of the rows it learned from or was judged by were erased"
    ) as caught:
        opened.learn(NAME, on_progress=tell)
    assert "start it again" in caught.value.hint
    assert served_by(opened) == first
    assert [version.id for version in opened.adapters.versions(NAME)] == [first]
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))
    assert opened.learn(NAME).is_promoted


def test_a_cycle_after_an_erasure_starts_from_the_base_even_where_nobody_asked(
    opened: Assistant, task: Dictionary
) -> None:
    learned(opened, DRINKS)
    row = opened.adapters.versions(NAME)[0].feedback_ids[0]
    opened.undo_feedback(row)
    learned(opened, PLANTS)
    assert task.parents == [None, None]
    assert row not in opened.adapters.versions(NAME)[1].feedback_ids
    assert opened.adapters.learned_from([row]) == [opened.adapters.versions(NAME)[0].id]


def test_a_rebuild_of_too_little_says_so(opened: Assistant) -> None:
    learned(opened, DRINKS)
    opened.erase_feedback([judged_turn.feedback.id for judged_turn in opened.feedback.judged_turns(NAME)])
    with pytest.raises(errors.NotEnoughData):
        opened.learn(NAME, CycleOptions(rebuild=True))
    assert opened.rollback(NAME, to="none") is None


# -- the guard in the loop --


def test_what_the_guard_sets_aside_teaches_nothing_and_is_reported(opened: Assistant) -> None:
    slogan = "buy the blue box"
    for n in range(6):
        for word in ("tea", "milk", "rye"):
            opened.teach(NAME, f"say {n} times what is {word}", slogan, source=f"bot {n}")
    teach(opened, DRINKS | PLANTS, source="ann")
    report = opened.learn(NAME)
    aside = report.feedback.quarantined
    assert {found.source for found in aside} == {f"bot {n}" for n in range(6)}
    assert {(found.reason, found.n_rows) for found in aside} == {("6 sources do little but push one answer", 3)}
    assert report.feedback.sources == {"ann": report.feedback.n_judged_turns}
    assert report.is_promoted
    assert slogan not in (opened.adapters.get(report.adapter_id).folder / "table.json").read_text()
    trusting = CycleOptions(rebuild=True, trusted=tuple(f"bot {n}" for n in range(6)))
    assert opened.learn(NAME, trusting).feedback.quarantined == ()


# -- kill -9 --


@pytest.mark.parametrize("n_steps", [1, 4])
def test_a_killed_training_changes_nothing_and_the_next_goes_on(tmp_path: Path, n_steps: int) -> None:
    with open_assistant(tmp_path) as assistant:
        first = learned(assistant, DRINKS)
        teach(assistant, PLANTS)
    with start(LEARN, tmp_path, 0.1) as process:
        read_until(process, f"step {n_steps} of")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with open_assistant(tmp_path, task := Dictionary()) as assistant:
        assert served_by(assistant) == first
        assistant.adapters.verify(first)
        assert assistant.learn(NAME).is_promoted
        assert task.steps[0] >= n_steps
        assert served_by(assistant, "what of oak") != first
        assert not [each for each in (tmp_path / "data/adapters").iterdir() if each.name.startswith(".")]


def test_a_kill_between_the_verdict_and_the_promotion_leaves_the_old_champion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "it = open_assistant(Path(sys.argv[1]))\n"
        "it.learn(NAME, on_progress=lambda what, _: what == 'promoting' and os.kill(os.getpid(), signal.SIGKILL))"
    )
    with open_assistant(tmp_path) as assistant:
        teach(assistant, DRINKS)
    with start(code, tmp_path) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    with caplog.at_level(logging.ERROR), open_assistant(tmp_path) as assistant:
        assert served_by(assistant) is None
        (waiting,) = assistant.adapters.versions(NAME)
        assert waiting.status == "approved"
        assert assistant.promote(waiting.id).id == served_by(assistant)


def test_a_probe_that_cannot_be_used_says_nothing_of_the_adapter(opened: Assistant, task: Dictionary) -> None:
    first = learned(opened, DRINKS)
    teach(opened, PLANTS)
    task.knobs.raises = errors.InvalidImage("the picture is gone")
    report = opened.learn(NAME)
    assert report.is_promoted
    assert report.adapter_id != first
