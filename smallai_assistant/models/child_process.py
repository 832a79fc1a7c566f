"""Work in a child process: it can be stopped at any moment, and neither its crash nor its memory affects this one.

A child that runs a module of this package writes JSON objects to standard output, one a line: its results, and after a
failure the error as the last one. It ends by itself if its parent is gone.
"""

from __future__ import annotations

import errno
import json
import os
import resource
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

_POLL_S = 0.1  # ten times a second: Ctrl-C and the progress bar feel immediate
_PATIENCE_S = 5.0  # between SIGTERM and SIGKILL; pip deletes its temporary files in this time
_FAILED = 3  # not 1 or 2, with which Python itself ends after an exception or a wrong option
# A quota of the user's (EDQUOT) that is used up is the same to people as a full disk.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child that reads files of strangers may take before the system ends it.

    Attributes:
        cpu_s: seconds of processor time.
        n_bytes: writable memory; mapped files and libraries do not count.
    """

    cpu_s: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    Attributes:
        status: the exit status, negative if a signal ended it.
        output: all of standard output.
        log: all of standard error.
    """

    status: int
    output: str
    log: str


def run_python(
    arguments: Sequence[str],
    *,
    cancel: threading.Event,
    environment: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] = lambda: None,
    limits: Limits | None = None,
) -> Finished:
    """Runs this interpreter with `arguments` and waits for its end.

    Args:
        cancel: set it to stop the process.
        environment: replaces the environment of this process; None passes it on.
        on_tick: called every 0.1 s.
        limits: None for work on files that are trusted.

    Raises:
        Cancelled: `cancel` was set; the process has ended.
    """
    # Files, not pipes: nobody reads while the child runs, and a full pipe would block it.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", *arguments],  # -P: nothing is imported from the working directory
            stdin=subprocess.PIPE,  # the child reads its end when this process is gone
            stdout=output,
            stderr=log,
            env=dict(os.environ if environment is None else environment),
            start_new_session=True,  # Ctrl-C in the terminal reaches only this process, which stops the child in order
        )
        try:
            if limits is not None:
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (limits.n_bytes, limits.n_bytes))
            while process.poll() is None:
                if cancel.wait(_POLL_S):
                    raise Cancelled("stopped", hint="start it again: finished files are kept")
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
    limits: Limits | None = None,
) -> list[dict[str, Any]]:
    """Runs a module of this package whose `__main__` part calls `serve`.

    Args:
        limits: None for work on files that are trusted.

    Returns:
        The objects that it reported, in order.

    Raises:
        AssistantError: the error that the child raised, with its class.
        ModelInvalid: the child crashed, or took more processor time than it may.
        OutOfMemory: the system killed the child.
        Cancelled: `cancel` was set.
    """
    done = run_python(
        ["-m", module, *arguments], cancel=cancel, environment=package_environment(), on_tick=on_tick, limits=limits
    )
    reports = [found for line in done.output.splitlines() if (found := _report_of(line)) is not None]
    if done.status == 0:
        return reports
    if done.status == _FAILED and reports and "error" in reports[-1]:
        last = reports[-1]
        raise getattr(errors, last["error"])(last["message"], hint=last["hint"])
    if limits is not None and done.status == -signal.SIGXCPU:
        raise ModelInvalid(f"reading the file takes over {limits.cpu_s} s", hint="get the file again: it is damaged")
    if done.status == -signal.SIGKILL:  # Linux ends a process this way when the memory runs out
        raise OutOfMemory("the system ended the work, most likely for want of memory", hint="close other programs")
    last_line = (done.log.strip().splitlines() or ["it gave no reason"])[-1]
    raise ModelInvalid(f"the library that reads the file crashed (status {done.status}): {last_line}")


def package_environment() -> dict[str, str]:
    """The environment of a child that imports this package: the same code, also if it runs from a source folder."""
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH")) if part)
    return os.environ | {"PYTHONPATH": path}


def serve(work: Callable[[Sequence[str]], None]) -> None:
    """The main part of a child: runs `work` with the arguments of the command line and reports its failure."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(sys.argv[1:])
    except BaseException as error:
        # BaseException: a panic of Rust code (safetensors, tokenizers) is not an Exception, and no failure of a child
        # may look like a success.
        failure = _as_assistant_error(error)
        report(error=type(failure).__name__, message=failure.message, hint=failure.hint)
        sys.exit(_FAILED)


def report(**values: Any) -> None:
    """Sends an object to the parent, from within a child."""
    print(json.dumps(values), flush=True)


def _report_of(line: str) -> dict[str, Any] | None:
    """The object in a line; None if a library printed the line, or a crash cut it short."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _as_assistant_error(error: BaseException) -> AssistantError:
    if isinstance(error, AssistantError):
        return error
    # safetensors wraps the error of the system into one of its own, which has only a text.
    if (isinstance(error, OSError) and error.errno in DISK_FULL) or "(os error 28)" in str(error):
        return StoreFull("the disk is full")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory("there is not enough memory for the work", hint="close other programs")
    return ModelInvalid(f"{type(error).__name__}: {error}".splitlines()[0][:500])


def _end_with_parent() -> None:
    """Ends this child as soon as its standard input ends, which happens when the parent is gone, killed or not."""
    while os.read(0, 1):
        pass
    os._exit(_FAILED)  # `sys.exit` would end only this thread


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
