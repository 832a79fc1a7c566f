"""Rows that must not be learned: erased, undone, or set aside by the screening."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from support.scripted_learner import (
    DRINKS,
    NAME,
    PLANTS,
    SEAS,
    UNKNOWN,
    Dictionary,
    ask,
    learn,
    served_by,
    teach,
)

from smallai_assistant import Assistant, errors
from smallai_assistant.feedback import is_held_out
from smallai_assistant.learning.learner import CycleOptions


def test_rebuild_learns_nothing_of_erased_rows(opened: Assistant, task: Dictionary) -> None:
    first = learn(opened, DRINKS)
    second = learn(opened, PLANTS | {"secret": "the key is under the mat"})
    rows = [
        judged_turn.feedback.id
        for judged_turn in opened.feedback.judged_turns(NAME)
        if "key" in (judged_turn.feedback.correction or "")
    ]
    learned_from = set(opened.adapters.get(second).feedback_ids)
    erased = opened.erase_feedback(rows)
    assert (erased.adapter_ids, erased.champions, erased.serving) == ((second,), (second,), {NAME: first})
    assert learned_from & set(rows)
    assert ask(opened, "tell me the secret") == UNKNOWN
    assert ask(opened, "tell me the rye") == PLANTS["rye"]  # what the version had retired is in the fast memory again

    report = opened.learn(NAME, CycleOptions(rebuild=True))
    assert report.is_promoted, report.summary()
    assert report.baseline_id is None  # judged against what serves without the row
    assert report.parent_id == first
    assert task.parents[-1] is None  # not one weight of what must go
    assert report.training.n_replay == 0
    table = json.loads((opened.adapters.get(report.adapter_id).folder / "table.json").read_text())
    assert table == DRINKS | PLANTS
    assert ask(opened, "tell me the secret") == UNKNOWN
    assert not set(opened.adapters.get(report.adapter_id).feedback_ids) & set(rows)
    assert opened.erase_feedback(rows).adapter_ids == ()
    assert [version.id for version in opened.adapters.versions(NAME)] == [first, report.adapter_id]


def test_erasure_removes_its_words_from_reports(opened: Assistant) -> None:
    adapter = opened.adapters.get(learn(opened, DRINKS))
    assert adapter.report["changes"]
    later = opened.adapters.get(learn(opened, PLANTS))
    opened.erase_feedback(adapter.report["held_out_ids"][:1])
    report = opened.adapters.get(adapter.id).report
    assert adapter.report["taught"]
    assert (report["changes"], report["taught"]) == ([], {})
    assert report["slices"] == adapter.report["slices"]
    # The second cycle evaluated the first one's feedback again.
    assert opened.adapters.get(later.id).report["changes"] == []


def test_erasure_deletes_the_checkpoints_of_stopped_cycles(opened: Assistant, tmp_path: Path) -> None:
    ids = teach(opened, DRINKS)
    stop = threading.Event()
    with pytest.raises(errors.Cancelled):
        opened.learn(NAME, cancel=stop, on_progress=lambda what, _: stop.set() if "step 5" in what else None)
    assert list((tmp_path / "data/learning").rglob("checkpoint.json"))
    opened.erase_feedback(ids[:1])
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))


@pytest.mark.parametrize("when", ["step 5", "evaluating the candidate"])
@pytest.mark.parametrize("is_judge", [False, True], ids=["learned from", "judged by"])
def test_erasure_of_a_used_row_ends_the_cycle(opened: Assistant, tmp_path: Path, when: str, is_judge: bool) -> None:
    first = learn(opened, DRINKS)
    ids = teach(opened, PLANTS | SEAS)
    asked = {
        judged_turn.turn.request.text: judged_turn.feedback.id for judged_turn in opened.feedback.judged_turns(NAME)
    }
    gone = [row_id for text, row_id in asked.items() if row_id in ids and is_held_out(text) == is_judge][:1]
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


def test_cycle_after_an_undo_starts_from_the_base(opened: Assistant, task: Dictionary) -> None:
    learn(opened, DRINKS)
    row = opened.adapters.versions(NAME)[0].feedback_ids[0]
    opened.undo_feedback(row)
    learn(opened, PLANTS)
    assert task.parents == [None, None]
    assert row not in opened.adapters.versions(NAME)[1].feedback_ids
    assert opened.adapters.learned_from([row]) == [opened.adapters.versions(NAME)[0].id]


def test_rebuild_needs_enough_feedback(opened: Assistant) -> None:
    learn(opened, DRINKS)
    opened.erase_feedback([judged_turn.feedback.id for judged_turn in opened.feedback.judged_turns(NAME)])
    with pytest.raises(errors.NotEnoughData):
        opened.learn(NAME, CycleOptions(rebuild=True))
    assert opened.rollback(NAME, to="none") is None


def test_quarantined_rows_are_reported_and_not_learned(opened: Assistant) -> None:
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
