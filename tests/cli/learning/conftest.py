"""Fixtures for the commands that learn: an assistant with a scripted learner, and runs of `smallai` with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
def cancelled(own: Assistant, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a learning cycle that the command line started is cancelled."""
    event = threading.Event()
    real = own.learn_in_background

    def learn_in_background(*args: Any) -> Any:
        job = real(*args)
        cancel = job.cancel

        def cancel_and_tell() -> None:
            cancel()
            event.set()

        monkeypatch.setattr(job, "cancel", cancel_and_tell)
        return job

    monkeypatch.setattr(own, "learn_in_background", learn_in_background)
    return event


@pytest.fixture
def run(own: Assistant, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> Ran:
        code = main([str(word) for word in words], open_assistant=lambda *_: contextlib.nullcontext(own))
        return Ran(code, *capsys.readouterr())

    return run
