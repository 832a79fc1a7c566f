"""Tasks of strangers that hang, exit or raise while they learn: the call fails and is named, everything else works."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.echo_learner import Echo, correct, open_echo
from support.scripted import make_task

from smallai_assistant import JudgedTurn
from smallai_assistant.errors import AssistantError, PluginError, TrainingFailed
from smallai_assistant.learning import fast_memory

ERRORS = [SystemExit(3), GeneratorExit(), RuntimeError("no"), RecursionError()]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def raising(error: BaseException) -> Any:
    def method(*_: Any) -> Any:
        raise error

    return method


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["examples", "protected", "base", "train", "evaluate"])
def test_what_a_learning_task_raises_ends_its_cycle_only(tmp_path: Path, method: str, error: BaseException) -> None:
    echo = Echo()
    with open_echo(tmp_path, echo, make_task()) as assistant:
        correct(assistant)
        setattr(echo, method, raising(error))
        with pytest.raises((PluginError, TrainingFailed), match=f"{type(error).__name__}") as caught:
            assistant.learn("echo")
        assert "echo" in caught.value.message
        delattr(echo, method)
        assert assistant.ask("x", task="scripted").text == "x"
        assert assistant.learn("echo").is_promoted


@pytest.mark.parametrize("error", [*ERRORS, KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_a_cycle_in_the_background_ends_with_an_error_of_ours(tmp_path: Path, error: BaseException) -> None:
    echo = Echo(at_step=raising(error))
    with open_echo(tmp_path, echo) as assistant:
        correct(assistant)
        with pytest.raises(AssistantError, match=type(error).__name__):
            assistant.learn_in_background("echo").result(60)


def test_a_rebuild_that_hangs_drops_the_task_and_names_it(
    tmp_path: Path, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_memory, "_REBUILD_TIMEOUT_S", 0.2)

    class Slow(Echo):
        def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
            release.wait(60)

    with open_echo(tmp_path, Slow(), make_task()) as assistant:
        assert assistant.broken_plugins["echo"] == (
            "it could not rebuild its feedback: rebuild of echo takes longer than 0.2 s"
        )
        assert list(assistant.tasks) == ["scripted"]
        assert assistant.ask("x", task="scripted").text == "x"
