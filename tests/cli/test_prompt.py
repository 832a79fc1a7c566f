"""Completion in the line editor of `smallai chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from smallai_assistant.cli.background_learning import BackgroundLearning
from smallai_assistant.cli.chat_feedback import ChatFeedback
from smallai_assistant.cli.prompt import ChatCompleter
from smallai_assistant.cli.repl import make_commands

NOBODY: Any = None  # no command is run here
COMMANDS = make_commands(ChatFeedback(), BackgroundLearning(NOBODY, NOBODY))


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/", [f"/{name}" for name in COMMANDS]),
        ("/i", ["/image"]),
        ("/task ", ["auto", "text-generation"]),
        ("/task te", ["text-generation"]),
        ("/learn ", ["text-generation"]),
        ("/learn a", []),
        ("/go", ["/good"]),
        ("/image ph", ["photo.png"]),
        ("/image 'my", ["'my photo.png'"]),
        (r"/image my\ p", ["'my photo.png'"]),
        ("/audio f", ["folder/"]),
        ("/audio folder/", ["folder/memo.wav"]),
        ("/image .h", [".hidden"]),
        ("/image photo.png what", []),
        ("/image nowhere/x", []),
        ("what is on ./ph", ["./photo.png"]),
        ("./folder/", ["./folder/memo.wav"]),
        (r"what is on ./my\ p", ["'./my photo.png'"]),
        ("and/or", []),
        ("hello", []),
        ("", []),
    ],
)
def test_completion(typed: str, completed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for file in ("photo.png", "my photo.png", ".hidden", "folder/memo.wav"):
        (tmp_path / file).write_bytes(b"")
    found = ChatCompleter(COMMANDS, ["auto", "text-generation"]).get_completions(Document(typed), CompleteEvent())
    assert [completion.text for completion in found] == completed
