"""`smallai completion`, and what it offers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.command_line import SMALLAI, Run


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("smallai mod", {"models"}),
        ("smallai models p", {"pull"}),
        ("smallai models pull st", {"starter"}),
        ("smallai models remove whisper-ba", {"whisper-base"}),
        ("smallai ask --ta", {"--task"}),
        ("smallai learn text", {"text-generation"}),
        ("smallai completion f", {"fish"}),
        ("smallai nonsense x", set()),
    ],
)
def test_the_shell_is_offered_names(tmp_path: Path, line: str, offered: set[str]) -> None:
    """The test speaks the protocol of argcomplete as its code for bash does."""
    answer = tmp_path / "answer"
    shell = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    env = {**os.environ, **shell, "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(SMALLAI, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    words = answer.read_text().split("\n") if answer.exists() else []
    assert {word.strip() for word in words if word.strip()} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_code_for_the_shell(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.code == 0
    assert "_ARGCOMPLETE" in done.out
    assert "smallai" in done.out
