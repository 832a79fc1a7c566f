"""The whole cycle on a task without a model: taught, known at once, learned, judged, promoted, rolled back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.scripted import ScriptedPlugin, make_task
from support.scripted_learner import (
    DRINKS,
    NAME,
    PLANTS,
    SEAS,
    UNKNOWN,
    Dictionary,
    Knobs,
    ask,
    last_word,
    learn,
    open_assistant,
    questions,
    served_by,
    teach,
)

from smallai_assistant import Assistant, Example, Feedback, JudgedTurn, errors
from smallai_assistant.feedback import is_held_out
from smallai_assistant.learning.evaluation import ReasonKind
from smallai_assistant.learning.learner import CycleOptions

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


def test_unlearned_feedback_stays_in_fast_memory(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    odd = opened.teach(NAME, "say what is milk", "no drink at all").feedback.id  # outvoted in the weights
    report = opened.learn(NAME)
    assert report.is_promoted
    assert odd not in report.retired_ids
    assert task.memory == {"milk": "no drink at all"}


def test_rollbacks_survive_a_restart(tmp_path: Path) -> None:
    words = [DRINKS, PLANTS, SEAS]
    with open_assistant(tmp_path) as assistant:
        first, second, third = (learn(assistant, table) for table in words)
        task = assistant.tasks[NAME]
        assert isinstance(task, Dictionary)
        assert task.parents == [None, first, second]
        assert task.memory == {}
        now = assistant.rollback(NAME)
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


def test_next_cycle_replays_and_protects_earlier_feedback(opened: Assistant) -> None:
    learn(opened, DRINKS)
    old = set(opened.adapters.versions(NAME)[0].feedback_ids)
    learn(opened, PLANTS)
    report = opened.adapters.versions(NAME)[1].report
    assert report["n_replay"] == len(old)
    assert [(row["name"], row["kind"]) for row in report["slices"]] == [
        ("new feedback", "target"),
        ("earlier feedback", "protected"),
        ("numbers", "protected"),
    ]
    assert report["slices"][1]["before"] == report["slices"][1]["after"] == 1.0
    assert set(opened.adapters.versions(NAME)[1].feedback_ids) > old


def test_without_promotion_it_waits(opened: Assistant) -> None:
    teach(opened, DRINKS)
    report = opened.learn(NAME, CycleOptions(promote=False))
    assert report.outcome == "approved"
    assert served_by(opened) is None
    opened.promote(report.adapter_id)
    assert served_by(opened) == report.adapter_id


def test_budget_ends_the_training_only(opened: Assistant, task: Dictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(opened, DRINKS | PLANTS | SEAS)
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("smallai_assistant.task.time", clock)
    monkeypatch.setattr("smallai_assistant.learning.candidates.time", clock)

    def tick(_: int) -> None:
        now[0] += 1.0

    task.knobs.on_step = tick
    report = opened.learn(NAME, CycleOptions(budget_s=3.5))
    assert len(report.training.losses) == 4 < report.training.n_new
    assert report.reasons  # it was judged all the same
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
        learn(opened, DRINKS)
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


def test_wordings_of_a_question_count_once(tmp_path: Path) -> None:
    class OneSubjectAWord(Dictionary):
        """All questions about a word are one subject."""

        def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
            return [replace(example, subject=last_word(example.prompt)) for example in super().examples(judged_turns)]

    with open_assistant(tmp_path, OneSubjectAWord()) as assistant:
        words = {**DRINKS, "rye": "a grain for bread"}
        teach(assistant, words)
        with pytest.raises(errors.NotEnoughData) as caught:
            assistant.learn(NAME)
        assert caught.value.n_missing == 1
        assert caught.value.to_json()["n_missing"] == 1
        assert "3 different subjects to learn from and 3 to be judged by" in caught.value.message
        teach(assistant, {"oak": "a tree of hard wood"})
        report = assistant.learn(NAME)
        target = report.slices[0]
        assert report.is_promoted
        assert (target.n, target.n_examples) == (4, 8)


def test_tasks_that_cannot_learn_are_refused(tmp_path: Path) -> None:
    class Parrots(ScriptedPlugin):
        """A plugin of another name."""

    with open_assistant(tmp_path, None, Parrots(make_task(name="parrot"))) as assistant:
        for name, message in [("dictionery", "there is no task"), ("parrot", "does not learn")]:
            with pytest.raises(errors.InvalidInput, match=message):
                assistant.learn(name)


def test_contaminated_evaluation_is_refused(opened: Assistant) -> None:
    teach(opened, DRINKS)
    asked = (f"What NUMBER is n{n}?" for n in range(100))
    row = opened.teach(NAME, next(question for question in asked if not is_held_out(question)), "a lie").feedback.id
    with pytest.raises(errors.EvalContaminated, match=row):
        opened.learn(NAME)
    opened.undo_feedback(row)
    assert opened.learn(NAME).is_promoted


# -- the gate --


def test_gate_refuses_a_protected_loss(opened: Assistant, task: Dictionary) -> None:
    first = learn(opened, DRINKS)
    teach(opened, PLANTS)
    task.knobs.n_forgotten = 3
    report = opened.learn(NAME)
    assert report.outcome == "refused"
    assert [found.change for found in report.slices if found.name == "numbers"] == [pytest.approx(-0.03)]
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
    assert "forced: the gate's decision was refused" in opened.adapters.log(NAME)[-1]["reason"]
    opened.rollback(NAME)
    assert served_by(opened) == first


def test_gate_allows_one_point_and_needs_gain(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    task.knobs.n_forgotten = 1
    assert opened.learn(NAME, CycleOptions(promote=False)).is_approved
    task.knobs = Knobs(is_deaf=True)
    report = opened.learn(NAME)
    assert report.outcome == "refused"
    assert report.reasons[0].kind is ReasonKind.NOT_SURE
    assert str(report.reasons[0]).startswith("no sure improvement on new feedback: 0.0% before, 0.0% after")
