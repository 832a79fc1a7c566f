"""Work in a process of its own: it can be stopped at any moment, and its crash or its memory is not ours.

A child that is one of our modules writes JSON objects to standard output, one a line: what it found out, and as the
last one an error, if there was one. It ends by itself when its parent is gone.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallai_assistant import errors
from smallai_assistant.errors import AssistantError, Cancelled, ModelInvalid, OutOfMemory, StoreFull

_POLL_S = 0.1
_PATIENCE_S = 5.0  # between the request to end and the kill
_FAILED = 3
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended: `status` as subprocess gives it, and all it wrote."""

    status: int
    output: str
    log: str


def run_python(
    arguments: Sequence[str],
    *,
    cancel: threading.Event,
    environment: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] = lambda: None,
) -> Finished:
    """Runs this interpreter with `arguments`, without the working directory on its path, and waits.

    Args:
        cancel: set it to stop the process.
        environment: in place of this process's.
        on_tick: called every 0.1 s.

    Raises:
        Cancelled: `cancel` was set; the process has ended.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=output,
            stderr=log,
            env=dict(os.environ if environment is None else environment),
            start_new_session=True,  # Ctrl-C in the terminal is ours to answer
        )
        try:
            while process.poll() is None:
                if cancel.wait(_POLL_S):
                    raise Cancelled("stopped", hint="start it again: what is complete is kept")
                on_tick()
        finally:
            _end(process)
        output.seek(0)
        log.seek(0)
        return Finished(process.returncode, output.read().decode(errors="replace"), log.read().decode(errors="replace"))


def run_module(
    module: str,
    arguments: Sequence[str],
    *,
    cancel: threading.Event,
    on_tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Runs a module of this package whose `__main__` part calls `serve`. Returns what it reported.

    Raises:
        AssistantError: the one the child raised.
        ModelInvalid: it crashed.
        OutOfMemory: the system killed it.
        Cancelled: `cancel` was set.
    """
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(each for each in (home, os.environ.get("PYTHONPATH")) if each)
    done = run_python(
        ["-m", module, *arguments], cancel=cancel, environment=os.environ | {"PYTHONPATH": path}, on_tick=on_tick
    )
    reports = [each for each in map(_report_of, done.output.splitlines()) if each is not None]
    if done.status == 0:
        return reports
    if done.status == _FAILED and reports and "error" in reports[-1]:
        last = reports[-1]
        raise getattr(errors, last["error"])(last["message"], hint=last["hint"])
    if done.status == -signal.SIGKILL:
        raise OutOfMemory("the system ended the work, most likely for want of memory", hint="close other programs")
    last_line = (done.log.strip().splitlines() or ["it gave no reason"])[-1]
    raise ModelInvalid(f"the library that reads the file crashed (status {done.status}): {last_line}")


def serve(work: Callable[[Sequence[str]], None]) -> None:
    """The main part of a child: runs `work` with the command line's arguments and reports how it ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(sys.argv[1:])
    except BaseException as error:
        # Rust code panics outside of Exception, and no failure of a child may pass for a success.
        report(error=type(failure := _typed(error)).__name__, message=failure.message, hint=failure.hint)
        sys.exit(_FAILED)


def report(**values: Any) -> None:
    """Tells the parent, from within a child."""
    print(json.dumps(values), flush=True)


def _report_of(line: str) -> dict[str, Any] | None:
    """None for what a library printed, and for a line that a crash cut short."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _typed(error: BaseException) -> AssistantError:
    if isinstance(error, AssistantError):
        return error
    # safetensors wraps the system's error into its own
    if (isinstance(error, OSError) and error.errno in DISK_FULL) or "(os error 28)" in str(error):
        return StoreFull("the disk is full")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory("there is not enough memory for the work", hint="close other programs")
    return ModelInvalid(f"{type(error).__name__}: {error}".splitlines()[0][:500])


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(_FAILED)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()
