"""The lock file: threads and processes exclude each other, waiting can be stopped, a killed holder releases it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smallai_assistant.errors import Busy, Cancelled
from smallai_assistant.filesystem import exclusive

HOLD = """
import sys
from pathlib import Path
from smallai_assistant.filesystem import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_threads_exclude_each_other(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with exclusive(tmp_path / "lock"):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 10


def test_a_held_lock_is_busy(tmp_path: Path) -> None:
    waited: list[int] = []
    with exclusive(tmp_path / "new/lock"):
        for timeout_s in (0.0, 0.2):
            with (
                pytest.raises(Busy, match="the other one"),
                exclusive(
                    tmp_path / "new/lock",
                    timeout_s=timeout_s,
                    other="the other one",
                    on_wait=lambda: waited.append(1),
                ),
            ):
                pass
    assert waited == [1]  # only the call that may wait tells so, and only once
    with exclusive(tmp_path / "new/lock", timeout_s=0.0):
        pass


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(Cancelled, match="stopped while waiting"),
        exclusive(tmp_path / "lock", cancel=cancel, on_wait=cancel.set),
    ):
        pass


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "lock", timeout_s=0.0):
        pass


def test_a_killed_process_releases_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy), exclusive(tmp_path / "lock", timeout_s=0.0):
            pass
        process.kill()
        process.wait()
    with exclusive(tmp_path / "lock", timeout_s=0.0):
        pass
