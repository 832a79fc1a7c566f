"""A learning cycle in a process that a test can hold at a step, or kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
_CODE = """
import sys
from pathlib import Path
from smallai_assistant import errors
from support.scripted_learner import *

folder, held_step = Path(sys.argv[1]), int(sys.argv[2])

def on_step(step):
    if step == held_step:
        print("held", flush=True)
        sys.stdin.readline()

task = Dictionary(knobs=Knobs(on_step=on_step))
with open_assistant(folder, task) as assistant:
    try:
        report = assistant.learn(NAME, on_progress=lambda what, _: print(what, flush=True))
        print(report.outcome, flush=True)
    except errors.AssistantError as error:
        print(error.code, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a Python process that can import the support modules."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def learn_in_child(folder: Path, *, held_step: int) -> subprocess.Popen[str]:
    """Starts a cycle over the feedback in the folder. It says `held` at the step and waits for `release`."""
    return start(_CODE, folder, held_step)


def release(process: subprocess.Popen[str]) -> None:
    """Lets a held cycle continue."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def read_until(process: subprocess.Popen[str], wanted: str) -> None:
    """Reads what the process prints until a line holds `wanted`."""
    assert process.stdout is not None
    for line in process.stdout:
        if wanted in line:
            return
    raise AssertionError(f"{wanted!r} was not said")
