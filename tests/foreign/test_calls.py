"""A call of foreign code ends at its deadline, and what it raises ends nothing but itself."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from smallai_assistant.errors import InvalidInput, PluginError
from smallai_assistant.foreign.calls import PluginHangsError, call, described, is_ctrl_c


def raising(error: BaseException) -> None:
    raise error


def test_a_call_returns_what_the_code_returns() -> None:
    assert call(lambda: None, timeout_s=10, what="x") is None
    assert call(lambda: threading.current_thread(), timeout_s=10, what="x") is not threading.main_thread()


def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(PluginHangsError, match=r"its import takes longer than 0\.05 s"):
        call(release.wait, timeout_s=0.05, what="its import")
    release.set()


@pytest.mark.parametrize("error", [ValueError("no"), InvalidInput("no"), MemoryError()])
def test_ordinary_errors_arrive_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)):
        call(lambda: raising(error), timeout_s=10, what="x")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_the_program_is_an_error_of_the_plugin(error: BaseException) -> None:
    with pytest.raises(PluginError, match=type(error).__name__):
        call(lambda: raising(error), timeout_s=10, what="x")


def test_ctrl_c_ends_the_wait() -> None:
    release = threading.Event()

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)

    with pytest.raises(KeyboardInterrupt) as caught:
        call(press, timeout_s=60, what="x")
    assert is_ctrl_c(caught.value)
    release.set()


def test_reasons_are_one_short_line() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert described(ValueError("a\n b")) == "ValueError: a b"
    assert described(MemoryError()) == "MemoryError"
    assert described(PluginError("ours", hint="more")) == "ours"
    assert described(Odd()) == "Odd"
    assert len(described(ValueError("x" * 9_999))) == 500
