"""The command /learn in `smallai chat`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.command_line import Talk
from support.echo_learner import Echo, correct, open_echo

from smallai_assistant import (
    Assistant,
    Request,
)
from smallai_assistant.cli import make_parser
from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.repl import Repl


def test_learn_goes_on_in_the_background(talk: Talk, tmp_path: Path) -> None:
    """Questions are answered during the training, and the end of the input waits for it."""
    go = threading.Event()
    echo = Echo(at_step=lambda step: step < 1 or go.wait(30))
    with open_echo(tmp_path / "own", echo) as own:
        correct(own)
        real, asked = echo.run, []

        def run(request: Request, models: Any) -> Iterator[Any]:
            asked.append(request.message.text)
            if request.message.text == "go on":
                go.set()
            return real(request, models)

        echo.run = run  # type: ignore[method-assign]
        done = talk(own, "/learn", "/learn echo", "say 99", "/learn", "go on", words=("--task", "echo"))
        champion = own.adapters.champion_id("echo")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[:3] == ["echo learns in the background; go on talking", "say 99", "go on"]
    assert lines[3] == f"echo: {champion} serves now."
    assert done.err.count("echo still learns") == 2
    assert asked[:2] == ["say 99", "go on"]


def test_a_failed_cycle_does_not_end_the_conversation(talk: Talk, learner: Assistant) -> None:
    done = talk(learner, "one", "/learn", "two", words=("--task", "echo"))
    assert done.out.splitlines() == ["one", "echo learns in the background; go on talking", "two"]
    assert done.err.startswith("error: echo: the new feedback has 0 different subjects")
    done = talk(learner, "/learn echo", words=("--json",))
    assert json.loads(done.out)["error"]["code"] == "not_enough_data"


@pytest.fixture
def training(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A chat in which a cycle is in the middle of its training. Setting `go` lets it continue."""
    is_training, go = threading.Event(), threading.Event()

    def at_step(step: int) -> None:
        is_training.set()
        assert go.wait(60)

    with open_echo(tmp_path / "own", Echo(at_step=at_step)) as own:
        correct(own)
        jobs: list[Any] = []
        real = own.learn_in_background
        own.learn_in_background = lambda *given: jobs.append(real(*given)) or jobs[-1]  # type: ignore[method-assign,assignment]
        repl = Repl(CommandContext(make_parser().parse_args(["chat", "--task", "echo"])), own)
        assert repl.learning.status() == ""
        repl.handle("/learn")
        assert is_training.wait(60)
        yield SimpleNamespace(repl=repl, go=go, job=jobs[0])


def test_the_prompt_shows_the_progress_of_learning(
    training: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    learning = training.repl.learning
    assert re.fullmatch(r"echo learns: training, \d+%", learning.status())
    training.go.set()
    training.job.result(60)
    assert learning.status() == "echo has learned: press Enter"
    training.repl.handle("")
    assert "serves now" in capsys.readouterr().out
    assert learning.status() == ""


def test_the_end_of_the_chat_stops_learning(training: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    real = training.job.cancel

    def cancel() -> None:
        real()
        training.go.set()

    training.job.cancel = cancel
    training.repl.learning.stop()  # as at Ctrl-D
    assert not training.job.is_running
    training.repl.learning.stop()
    assert capsys.readouterr().err.count("`smallai learn echo` continues from there") == 1
    assert training.repl.assistant.adapters.champion_id("echo") is None
