"""Calls of foreign code with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from smallai_assistant.errors import PluginError
from smallai_assistant.types import Notice

T = TypeVar("T")


class PluginHangsError(PluginError):
    """A call of a plugin did not end before its deadline. Its thread goes on."""


def call(work: Callable[[], T], *, timeout_s: float, what: str) -> T:
    """Calls foreign code on a thread of its own and returns its result.

    Ctrl-C on the calling thread ends the wait.

    Args:
        what: the call in an error, such as `its import`.

    Raises:
        PluginHangsError: it takes longer than `timeout_s`; the thread is left behind.
        PluginError: it raised something that ends a program, such as SystemExit.
        Exception: what else it raised.
    """
    results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:  # raised on the thread that waits
            results.put((None, error))

    threading.Thread(target=run, name=f"plugin: {what}", daemon=True).start()
    try:
        value, error = results.get(timeout=timeout_s)
    except Empty:
        raise PluginHangsError(f"{what} takes longer than {timeout_s:g} s") from None
    if error is None:
        return value  # type: ignore[return-value]  # None is a T if `work` returned it
    if isinstance(error, Exception):
        raise error
    # A KeyboardInterrupt that a plugin raises is not the user's Ctrl-C, and its SystemExit must not end the program.
    raise PluginError(described(error)) from error


def is_ctrl_c(error: BaseException) -> bool:
    """Whether the user pressed Ctrl-C. Python tells the main thread; on any other thread, code raised it."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def fault_notice(name: str, why: str) -> Notice:
    """What the user is told of a plugin, or a task, that was left out or that failed."""
    return Notice("plugin_skipped", f"The plugin {name} has a fault: {why}")


def described(error: BaseException) -> str:
    """The reason that an error gives: our own message, or the type and the text, in one short line."""
    if isinstance(error, PluginError):
        return error.message
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # an exception's `__str__` is foreign code, too
        text = type(error).__name__
    text = " ".join(text.split()).rstrip(":")
    return text if len(text) <= _MAX_REASON_CHARS else f"{text[: _MAX_REASON_CHARS - 3]}..."


_MAX_REASON_CHARS = 500
