"""Runs `smallai` in a test, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALLAI = [sys.executable, "-m", "smallai_assistant.cli"]


@dataclass(frozen=True)
class Ran:
    """What a run of `smallai` printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The objects that `--json` printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def row(self) -> dict[str, Any]:
        """The only object that `--json` printed."""
        (row,) = self.rows
        return row


Run = Callable[..., Ran]
Talk = Callable[..., Ran]


def start(words: list[str], tmp_path: Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Starts `smallai` in a process of its own, with a data folder below `tmp_path`."""
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path / "data"), **kwargs.pop("env", {})}
    return subprocess.Popen([*SMALLAI, *words], env=env, stderr=subprocess.PIPE, **kwargs)


def is_one_error_line(text: str) -> bool:
    """Whether standard error has exactly one line, and it is an error."""
    return text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1
