"""Work in a child process: every way in which it can end is a typed error, and this process survives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smallai_assistant.errors import Cancelled, ModelInvalid, OutOfMemory, StoreFull, UnsafeModelFormat
from smallai_assistant.models.child_process import Limits, run_module, run_python

MODULE = """
import os, signal, sys, time
from smallai_assistant.models.child_process import report, serve
from smallai_assistant.errors import UnsafeModelFormat

def work(arguments):
    kind = arguments[0]
    report(pid=os.getpid())
    if kind == "typed":
        raise UnsafeModelFormat("bad \\N{SNOWMAN}", hint="do this")
    if kind == "panic":
        class PanicException(BaseException): ...
        raise PanicException("rust")
    if kind == "full":
        raise OSError(28, "No space left on device")
    if kind == "memory":
        raise MemoryError
    if kind == "crash":
        os.abort()
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "spin":
        while True:
            pass
    if kind == "grow":
        held = [bytearray(10 * 2**20) for _ in range(100)]
    if kind == "wait":
        open(arguments[1], "w").write(str(os.getpid()))
        time.sleep(60)  # until it is ended
    report(sum=1 + 2)

if __name__ == "__main__":
    serve(work)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "child_under_test.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def run(*arguments: str, cancel: threading.Event | None = None) -> list[dict[str, object]]:
    return run_module("child_under_test", arguments, cancel=cancel or threading.Event())


def test_reports_come_back() -> None:
    assert run("work")[-1] == {"sum": 3}


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("typed", UnsafeModelFormat, "bad ☃"),
        ("panic", ModelInvalid, "PanicException: rust"),
        ("full", StoreFull, "full"),
        ("memory", OutOfMemory, "memory"),
        ("crash", ModelInvalid, "crashed"),
        ("killed", OutOfMemory, "memory"),
    ],
)
def test_every_failure_is_a_typed_error(kind: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        run(kind)
    assert type(caught.value) is error


def test_a_hint_comes_back() -> None:
    with pytest.raises(UnsafeModelFormat) as caught:
        run("typed")
    assert caught.value.hint == "do this"


def test_cancel_ends_the_process(tmp_path: Path) -> None:
    cancel = threading.Event()
    started = tmp_path / "pid"
    threading.Thread(target=lambda: (_wait_for(started), cancel.set())).start()
    with pytest.raises(Cancelled):
        run("wait", str(started), cancel=cancel)
    assert not _is_running(int(started.read_text()))


def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    code = (
        "import threading; from smallai_assistant.models.child_process import run_module\n"
        f"run_module('child_under_test', ['wait', {str(started)!r}], cancel=threading.Event())"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        pid = int(_wait_for(started))
        assert _is_running(pid)
        parent.send_signal(signal.SIGKILL)
    _wait_until(lambda: not _is_running(pid))


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path / "here")
    done = run_python(["-c", "import json; print(json.__name__)"], cancel=threading.Event())
    assert (done.status, done.output.strip()) == (0, "json")


def _wait_for(path: Path) -> str:
    """Waits until another process has written the file, and returns its content."""
    _wait_until(lambda: path.is_file() and bool(path.read_text()))
    return path.read_text()


def _wait_until(is_true: Callable[[], bool]) -> None:
    """Polls: nothing tells this process what another one, which is not its child, has done."""
    for _ in range(1_000):
        if is_true():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 20 s")


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize(("kind", "expected"), [("spin", ModelInvalid), ("grow", OutOfMemory)])
def test_a_child_keeps_to_its_limits(kind: str, expected: type[Exception]) -> None:
    limits = Limits(cpu_s=2, n_bytes=400 * 2**20)
    with pytest.raises(expected):
        run_module("child_under_test", [kind], cancel=threading.Event(), limits=limits)
    assert run_module("child_under_test", ["none"], cancel=threading.Event(), limits=limits)[-1] == {"sum": 3}
