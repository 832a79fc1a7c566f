"""Fixtures for the command line: runs of `smallai`, assistants with scripted tasks, a user's environment."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Ran, Run, Talk
from support.echo_learner import Echo, open_echo
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import Assistant, AssistantConfig, InvalidInput, Notice, Request, TextPart
from smallai_assistant.cli import main
from smallai_assistant.config import ModelsConfig


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `smallai` in this process, with the given assistant or one it opens itself."""

    def run(*words: object, assistant: Assistant | None = None) -> Ran:
        opener = None if assistant is None else (lambda config, progress: contextlib.nullcontext(assistant))
        code = main([str(word) for word in words], open_assistant=opener)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def shared(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    """The real models, the smallest for chat, loaded once for the module."""
    config = AssistantConfig(
        data_dir=tmp_path_factory.mktemp("cli"),
        models_dir=models_dir,
        device="cpu",
        models=ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none"),
    )
    with Assistant(config) as assistant:
        yield assistant


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without models or data."""
    monkeypatch.setenv("SMALLAI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Runs `smallai chat` on lines of standard input."""

    def talk(assistant: Assistant, *lines: str, words: tuple[str, ...] = ()) -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", *words], open_assistant=lambda config, progress: contextlib.nullcontext(assistant))
        return Ran(code, *capsys.readouterr())

    return talk


def story(request: Request) -> Iterator[Any]:
    """Answers with the number of earlier turns and the text; raises on "fail" and "crash"."""
    if request.message.text == "fail":
        raise InvalidInput("cannot", hint="say something else")
    if request.message.text == "crash":
        raise RuntimeError("boom")
    yield TextPart(f"{len(request.history)}:")
    yield TextPart(request.message.text)
    yield Notice("odd", "something is odd")


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Assistant]:
    """Three scripted tasks and nothing else."""
    tasks = (
        make_task(story, name="text-generation", title="talks"),
        make_task(story, name="recommendation"),
        make_task(
            lambda request: iter([TextPart(f"saw {len(request.message.parts[0].read())} {request.message.text}")]),
            name="image-classification",
            accepts=(frozenset({"image"}), frozenset({"image", "text"})),
        ),
    )
    config = AssistantConfig(
        data_dir=tmp_path / "data", device="cpu", disabled_plugins=("chat", "image", "speech", "recommend")
    )
    with Assistant(config, plugins=[ScriptedPlugin(*tasks)]) as assistant:
        yield assistant


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Assistant]:
    """A scripted task that learns, pictures included, and one that does not."""
    with open_echo(tmp_path / "learner", Echo(), make_task()) as assistant:
        yield assistant


@pytest.fixture
def user_env(models_dir: Path, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SMALLAI_MODELS_DIR": str(models_dir),
        "SMALLAI_DATA_DIR": str(tmp_path / "data"),
        "SMALLAI_MODELS__CHAT": "smollm2-135m-instruct",
        "SMALLAI_MODELS__CHAT_QUANTIZATION": "none",
        "SMALLAI_TASKS__TEXT_GENERATION__MAX_TOKENS": "400",
        "SMALLAI_DEVICE": "cpu",
        "TERM": "xterm",
        "COLUMNS": "100",
    }
