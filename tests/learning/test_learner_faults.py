"""Faults of a task during a cycle: nothing that serves changes, and the message says whose fault it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scripted_learner import DRINKS, NAME, PLANTS, Dictionary, learn, served_by, teach

from smallai_assistant import Assistant, Score, errors
from smallai_assistant.learning.evaluation import ReasonKind


def test_nan_loss_leaves_nothing_behind(opened: Assistant, task: Dictionary, tmp_path: Path) -> None:
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
def test_failing_adapter_is_taken_back(opened: Assistant, task: Dictionary, error: BaseException) -> None:
    first = learn(opened, DRINKS)
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


def test_hanging_adapter_is_taken_back(opened: Assistant, task: Dictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    # Private: how long a probe may take is not a setting, and a test cannot wait two minutes.
    monkeypatch.setattr("smallai_assistant.learning.promotion._PROBE_PATIENCE_S", 0.2)
    teach(opened, DRINKS)
    task.knobs.hangs = True
    with pytest.raises(errors.TrainingFailed, match=r"no answer within .* seconds"):
        opened.learn(NAME)
    task.knobs.hangs = False
    assert served_by(opened) is None


def teach_by_several(assistant: Assistant) -> None:
    """Labels are compared only if there are several sources."""
    for source in ("ann", "bob", "carl", "dora"):
        teach(assistant, DRINKS, source=source)


@pytest.mark.parametrize("method", ["labelled", "examples", "protected", "evaluate", "base", "train"])
def test_raising_method_is_the_plugins_fault(
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
def test_malformed_vectors_are_the_plugins_fault(
    opened: Assistant, task: Dictionary, vectors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    teach_by_several(opened)

    def labelled(judged_turns: Any) -> dict[str, Any]:
        pairs = zip(judged_turns, vectors, strict=False)
        return {row.feedback.id: ("a", np.asarray(vector, np.float32)) for row, vector in pairs}

    monkeypatch.setattr(task, "labelled", labelled)
    with pytest.raises(errors.PluginError, match=r"labelled raised ValueError: .*vector"):
        opened.learn(NAME)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_scores_out_of_range_are_refused(
    opened: Assistant, task: Dictionary, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(opened, DRINKS)
    monkeypatch.setattr(task, "evaluate", lambda examples, *_: [Score(value) for _ in examples])
    with pytest.raises(errors.TrainingFailed, match=r"values in \[0, 1\]"):
        opened.learn(NAME)


def test_adapter_of_another_base_is_left_out(opened: Assistant, task: Dictionary) -> None:
    first = learn(opened, DRINKS)
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


def test_champion_moved_meanwhile_is_not_replaced(opened: Assistant, task: Dictionary) -> None:
    first = learn(opened, DRINKS)
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


def test_unusable_probe_does_not_refuse_the_adapter(opened: Assistant, task: Dictionary) -> None:
    first = learn(opened, DRINKS)
    teach(opened, PLANTS)
    task.knobs.raises = errors.InvalidImage("the picture is gone")
    report = opened.learn(NAME)
    assert report.is_promoted
    assert report.adapter_id != first
