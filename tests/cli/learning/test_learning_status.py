"""`smallai learn --status` and `smallai adapters prune`, on a scripted learner."""

from __future__ import annotations

import pytest
from support.command_line import Run, is_one_error_line
from support.echo_learner import Echo, correct

from smallai_assistant import Assistant


def test_status_says_what_a_task_waits_for(run: Run, own: Assistant, echo: Echo) -> None:
    assert run("learn", "--status").out.splitlines() == [
        "echo",
        "  serves: the bare model",
        "  new feedback: 0 rows; 20 start a cycle",
        "  last cycle: none yet",
        "  next cycle: when somebody starts it: smallai learn echo",
    ]
    echo.learns = False
    correct(own)
    assert "  new feedback: 20 rows; 20 start a cycle" in run("learn", "echo", "--status").out
    assert own.adapters.versions() == []  # it starts nothing
    run("learn", "echo")
    lines = run("learn", "--status").out.splitlines()
    assert lines[2] == "  new feedback: 0 rows; 20 start a cycle"
    assert ", refused, echo-" in lines[3]
    assert "no sure improvement" in lines[3]


def test_status_as_json(run: Run, own: Assistant) -> None:
    correct(own, 3)
    assert run("learn", "echo").code == 1
    row = run("learn", "--status", "--json").row
    last = row.pop("last")
    assert row == {
        "task": "echo",
        "audience": "everyone",
        "serves": None,
        "n_new": 3,
        "n_wanted": 20,
        "running": None,
        "waits_for": "hand",
        "next_at": None,
        "due": [],
    }
    assert set(last) == {"at", "outcome", "seconds", "reasons", "error", "failure", "adapter_id"}
    assert (last["outcome"], last["error"], last["adapter_id"]) == ("too_little", "not_enough_data", None)
    assert "different subjects" in last["failure"]


def test_status_of_a_task_that_does_not_learn_is_an_error(run: Run) -> None:
    done = run("learn", "eho", "--status")
    assert (done.code, done.out) == (2, "")
    assert is_one_error_line(done.err)
    assert "did you mean" in done.err


def test_prune_tells_what_was_freed(run: Run, own: Assistant, echo: Echo) -> None:
    assert run("adapters", "prune").out == "nothing was learned yet\n"
    echo.learns = False
    for number in range(3):
        correct(own, first=20 * number)
        run("learn", "echo")
    oldest, *rest = (version.id for version in own.adapters.versions())
    assert run("adapters", "prune").out.startswith("echo: 0 removed, 0 B freed; 3 versions with ")
    row = run("adapters", "prune", "echo", "--keep", "2", "--json").row
    assert set(row) == {"task", "audience", "removed", "n_bytes_freed", "n_kept", "n_bytes_kept"}
    assert (row["task"], row["removed"], row["n_kept"]) == ("echo", [oldest], 2)
    assert row["n_bytes_freed"] > 0
    assert [version.id for version in own.adapters.versions()] == rest


@pytest.mark.parametrize("words", [("--keep", "0"), ("--max-mb", "none")])
def test_prune_refuses_limits_that_are_none(run: Run, words: tuple[str, str]) -> None:
    done = run("adapters", "prune", *words)
    assert done.code == 2
    assert is_one_error_line(done.err)


def test_prune_of_an_unknown_task_is_an_error(run: Run) -> None:
    done = run("adapters", "prune", "nothing")
    assert done.code == 2
    assert is_one_error_line(done.err)
