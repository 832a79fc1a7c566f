"""`smallai learn`, on a scripted learner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Run, is_one_error_line
from support.echo_learner import N_STEPS, Echo, correct, open_echo

from smallai_assistant import (
    Assistant,
)


def ask(assistant: Assistant, text: str, task: str = "echo") -> str:
    return assistant.ask(text, task=task).text


def test_learn_promotes_and_shows_the_figures(run: Run, own: Assistant) -> None:
    correct(own)
    assert ask(own, "say 99") == "say 99"
    done = run("learn", "echo")
    assert done.code == 0, done
    champion = own.adapters.champion_id("echo")
    lines = done.out.splitlines()
    assert lines[0] == f"echo: {champion} serves now."
    assert lines[1].split() == ["right", "words", "n", "before", "after", "points", "95", "%", "interval"]
    assert lines[2].split()[:2] == ["new", "feedback"]
    assert lines[2].split()[3:6] == ["0.0%", "100.0%", "+100.0"]
    assert any("+ say" in line and "-> SAY" in line for line in lines)
    assert "loss 1 to 0.125" in done.err
    assert ask(own, "say 99") == "SAY 99"


def test_learn_json_is_the_report(run: Run, own: Assistant) -> None:
    correct(own)
    row = run("learn", "echo", "--json").row
    assert (row["task"], row["outcome"], row["is_approved"], row["is_promoted"]) == ("echo", "promoted", True, True)
    assert row["adapter_id"] == own.adapters.champion_id("echo")
    (figures,) = row["slices"]
    assert set(figures) == {"name", "kind", "n", "n_examples", "before", "after", "low", "high", "change", "component"}
    assert row["components"] == []
    assert row["losses"][-1] == 1 / N_STEPS


def test_a_refusal_is_3_and_changes_nothing(run: Run, own: Assistant, echo: Echo) -> None:
    echo.learns = False
    correct(own)
    done = run("learn", "echo")
    assert done.code == 3
    assert "the gate refused" in done.out
    assert "no sure improvement on new feedback" in done.out
    assert own.adapters.champion_id("echo") is None
    (refused,) = own.adapters.versions()
    forced = run("adapters", "promote", refused.id)
    assert (forced.code, forced.out) == (1, "")
    assert "the gate did not approve" in forced.err
    assert run("adapters", "promote", refused.id, "--json").row["error"]["code"] == "gate_rejected"
    assert run("adapters", "promote", refused.id, "--force").out == f"echo: {refused.id} serves now\n"
    assert "forced" in own.adapters.log("echo")[-1]["reason"]


def test_nothing_new_is_no_failure(run: Run, own: Assistant) -> None:
    correct_as_answered(own)
    done = run("learn", "echo")
    assert done.code == 0, done
    assert done.out.splitlines()[0] == "echo: nothing new to learn; nothing was changed."
    assert "nothing new in new feedback: 100.0% before, 100.0% after" in done.out
    assert own.adapters.champion_id("echo") is None
    assert ", nothing new, 12 judged turns" in run("adapters", "list").out
    assert "last cycle" in run("learn", "--status").out
    assert ", nothing new to learn, echo-" in run("learn", "--status").out
    assert run("learn", "--status", "--json").row["last"]["outcome"] == "nothing_new"
    assert run("learn").err == "nothing to learn\n"  # without new feedback it is not tried again
    row = run("learn", "echo", "--json").row
    assert (row["outcome"], row["is_approved"]) == ("nothing_new", False)
    assert [reason["kind"] for reason in row["reason_details"]] == ["nothing_new"]


def correct_as_answered(assistant: Assistant) -> None:
    for number in range(20):
        assistant.ask(f"say {number}", task="echo").rate(correction=f"say {number}")


def test_no_promote_leaves_the_word_to_a_person(run: Run, own: Assistant) -> None:
    correct(own)
    done = run("learn", "echo", "--no-promote")
    assert done.code == 0
    assert "was approved; promote it" in done.out
    assert own.adapters.champion_id("echo") is None
    (approved,) = own.adapters.versions()
    assert run("adapters", "promote", approved.id).code == 0
    assert ask(own, "say 99") == "SAY 99"


def test_learn_without_a_task_takes_those_with_news(run: Run, own: Assistant) -> None:
    done = run("learn")
    assert (done.code, done.out, done.err) == (0, "", "nothing to learn\n")
    correct(own, 2)
    few = run("learn")
    assert (few.code, few.out) == (0, "")
    assert few.err.startswith("skipped: echo: ")
    skipped = run("learn", "--json").row
    assert (skipped["task"], skipped["outcome"]) == ("echo", "skipped")
    assert run("learn", "echo").code == 1  # whoever names it wants it
    correct(own, 18, first=2)
    assert run("learn", "--json").row["outcome"] == "promoted"
    assert run("learn").err == "nothing to learn\n"
    assert run("learn", "--without-erased").err == "nothing was erased that an adapter learned from\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["eho"], "did you mean 'echo'?"),
        (["scripted"], "does not learn"),
        (["echo", "--budget-minutes", "0"], "more than 0"),
        (["echo", "--budget-minutes", "nan"], "more than 0"),
        (["echo", "--budget-minutes", "soon"], "not a number"),
        (["echo", "--seed", "-1"], "give 0 to"),
        (["--report", "page.html"], "needs a TASK"),
        (["echo", "--report", "."], "a folder"),
        (["echo", "--report", "nowhere/page.html"], "no such folder"),
    ],
)
def test_wrong_learning_is_told_before_it_begins(
    run: Run, own: Assistant, echo: Echo, words: list[str], reason: str
) -> None:
    done = run("learn", *words)
    assert (done.code, done.out) == (2, ""), done
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    assert echo.begun_at == []


def test_ctrl_c_stops_and_the_next_cycle_continues(
    run: Run, own: Assistant, echo: Echo, cancelled: threading.Event
) -> None:
    """The signal comes while this process trains."""
    correct(own)

    def interrupt(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            assert cancelled.wait(60)

    echo.at_step = interrupt
    done = run("learn", "echo")
    assert done.code == 130
    assert done.out == ""
    assert "stopping at the next step" in done.err
    assert "goes on from the last checkpoint" in done.err
    assert "Traceback" not in done.err
    assert own.adapters.versions() == []
    assert own.adapters.champion_id("echo") is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    echo.at_step = lambda step: None
    assert run("learn", "echo").code == 0
    assert echo.begun_at == [0, 3]


def test_a_late_ctrl_c_still_prints_the_result(
    run: Run, own: Assistant, echo: Echo, cancelled: threading.Event
) -> None:
    correct(own)
    real = echo.rebuild

    def interrupted(judged_turns: Any) -> None:  # it is called once the new adapter serves
        os.kill(os.getpid(), signal.SIGINT)
        assert cancelled.wait(60)
        real(judged_turns)

    echo.rebuild = interrupted  # type: ignore[method-assign]
    done = run("learn", "echo")
    assert done.code == 130
    assert f"{own.adapters.champion_id('echo')} serves now" in done.out
    assert own.adapters.champion_id("echo") is not None


STUBBORN = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {tests!r})
from smallai_assistant.cli import main
from support.echo_learner import Echo, open_echo
def hang(step):
    print("step", step, file=sys.stderr, flush=True)
    if step == 2:
        threading.Event().wait(600)
folder = Path({folder!r})
sys.argv = ["smallai", "learn", "echo"]
words = {words}
raise SystemExit(main(words, open_assistant=lambda *_: open_echo(folder, Echo(at_step=hang))))
"""


def start_stubborn(folder: Path, words: list[str] | None) -> subprocess.Popen[str]:
    """Starts `smallai learn` on a training that never ends its step 2, and waits for that step."""
    with open_echo(folder) as assistant:
        correct(assistant)
    code = STUBBORN.format(tests=str(Path(__file__).parents[2]), folder=str(folder), words=words)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    read_until(process, "step 2")
    return process


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, f"it ended before {text!r}"


def assert_learning_continues(folder: Path) -> None:
    with open_echo(folder, echo := Echo()) as assistant:
        assert assistant.adapters.champion_id("echo") is None
        assert assistant.learn("echo").is_promoted
    assert echo.begun_at == [2]


def test_the_first_ctrl_c_ends_a_command_that_hangs(tmp_path: Path) -> None:
    process = start_stubborn(tmp_path / "data", None)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("stopped; what serves is unchanged")
    assert "Traceback" not in err
    assert_learning_continues(tmp_path / "data")


def test_a_second_ctrl_c_ends_a_program_that_hangs(tmp_path: Path) -> None:
    process = start_stubborn(tmp_path / "data", ["learn", "echo"])
    process.send_signal(signal.SIGINT)
    read_until(process, "once more ends at once")
    # The line is printed just before the second signal takes effect, so the signal may have to be sent again.
    err = None
    while err is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, err = process.communicate(timeout=0.2)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err
    assert_learning_continues(tmp_path / "data")


def test_two_cycles_at_once_are_refused(run: Run, own: Assistant, echo: Echo) -> None:
    correct(own)
    is_training, go = threading.Event(), threading.Event()

    def at_step(step: int) -> None:
        is_training.set()
        assert go.wait(60)

    echo.at_step = at_step
    job = own.learn_in_background("echo")
    assert is_training.wait(60)
    done = run("learn", "echo")
    go.set()
    assert job.result(60).is_promoted
    assert done.code == 1
    assert "another learning cycle runs" in done.err


def test_the_report_is_written_as_a_page(run: Run, own: Assistant, tmp_path: Path) -> None:
    correct(own)
    page = tmp_path / "page.html"
    assert run("learn", "echo", "--report", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert str(own.adapters.champion_id("echo")) in text
    assert "<html" in text
