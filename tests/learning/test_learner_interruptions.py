"""Cycles that are cancelled or killed: the old champion serves, and the next cycle continues from the checkpoint."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path

import pytest
from support.learning_child import learn_in_child, read_until, start
from support.scripted_learner import DRINKS, NAME, PLANTS, Dictionary, learn, open_assistant, served_by, teach

from smallai_assistant import Assistant, errors
from smallai_assistant.feedback import is_held_out


def test_cancelled_cycle_continues_from_its_checkpoint(opened: Assistant, task: Dictionary, tmp_path: Path) -> None:
    first = learn(opened, DRINKS)
    teach(opened, PLANTS)
    stop = threading.Event()
    n_steps = 5

    def tell(what: str, _: float) -> None:
        if what.startswith(f"step {n_steps} of"):
            stop.set()

    with pytest.raises(errors.Cancelled) as caught:
        opened.learn(NAME, cancel=stop, on_progress=tell)
    assert "continues from the last checkpoint" in caught.value.hint
    assert task.steps == list(range(n_steps))
    assert served_by(opened) == first
    assert len(opened.adapters.versions(NAME)) == 1
    (checkpoint,) = (tmp_path / "data/learning" / NAME).rglob("checkpoint.json")
    assert json.loads(checkpoint.read_text())["done"] == n_steps
    assert opened.learn(NAME).is_promoted
    assert task.steps[0] == n_steps
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))


def test_cycle_stopped_during_evaluation_leaves_no_candidate(opened: Assistant, task: Dictionary) -> None:
    teach(opened, DRINKS)
    stop = threading.Event()
    with pytest.raises(errors.Cancelled):
        opened.learn(
            NAME, cancel=stop, on_progress=lambda what, _: stop.set() if what == "evaluating the candidate" else None
        )
    assert opened.adapters.versions(NAME) == []
    assert opened.learn(NAME).is_promoted
    assert task.steps == []  # all of it was done


def test_checkpoint_of_other_feedback_is_not_used(opened: Assistant, task: Dictionary, tmp_path: Path) -> None:
    ids = teach(opened, DRINKS)
    stop = threading.Event()
    with pytest.raises(errors.Cancelled):
        opened.learn(NAME, cancel=stop, on_progress=lambda what, _: stop.set() if "step 5" in what else None)
    questions = [judged_turn.turn.request.text for judged_turn in opened.feedback.judged_turns(NAME)]
    trained = [row_id for row_id, question in zip(ids, questions, strict=True) if not is_held_out(question)]
    opened.undo_feedback(trained[0])
    assert opened.learn(NAME).is_promoted
    assert task.steps[0] == 0
    assert not list((tmp_path / "data/learning").rglob("checkpoint.json"))


def test_unjudged_candidate_of_a_kill_is_removed(opened: Assistant, tmp_path: Path) -> None:
    with opened.adapters.work_folder() as folder:
        (folder / "table.json").write_text("{}")
        left = opened.adapters.add(folder, task=NAME, kind="table", base={}).id
    with opened.adapters.work_folder() as folder:
        (folder / "table.json").write_text("{} ")
        forced = opened.adapters.add(folder, task=NAME, kind="table", base={"model": "paper", "version": 1}).id
    opened.adapters.promote(forced, force=True)  # served once: a person wanted it
    first = learn(opened, DRINKS)
    assert [version.id for version in opened.adapters.versions(NAME)] == [forced, first]
    assert not (tmp_path / "data/adapters" / left).exists()


# -- kill -9 --


@pytest.mark.parametrize("n_steps", [1, 4])
def test_killed_training_continues_from_its_checkpoint(tmp_path: Path, n_steps: int) -> None:
    with open_assistant(tmp_path) as assistant:
        first = learn(assistant, DRINKS)
        teach(assistant, PLANTS)
    with learn_in_child(tmp_path, held_step=n_steps) as process:
        read_until(process, "held")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with open_assistant(tmp_path, task := Dictionary()) as assistant:
        assert served_by(assistant) == first
        assistant.adapters.verify(first)
        assert assistant.learn(NAME).is_promoted
        assert task.steps[0] == n_steps
        assert served_by(assistant, "what of oak") != first
        assert not [path for path in (tmp_path / "data/adapters").iterdir() if path.name.startswith(".")]


def test_kill_before_promotion_leaves_the_old_champion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from support.scripted_learner import *\n"
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
