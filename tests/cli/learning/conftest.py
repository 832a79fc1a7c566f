"""Fixtures for the commands that learn: an assistant with a scripted learner, and runs of `smallai` with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Ran, Run
from support.echo_learner import Echo, open_echo
from support.scripted import make_task

from smallai_assistant import Assistant
from smallai_assistant.cli import main


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def own(tmp_path: Path, echo: Echo) -> Iterator[Assistant]:
    with open_echo(tmp_path / "data", echo, make_task()) as assistant:
        yield assistant


@pytest.fixture
def run(own: Assistant, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> Ran:
        code = main([str(word) for word in words], open_assistant=lambda *_: contextlib.nullcontext(own))
        return Ran(code, *capsys.readouterr())

    return run
