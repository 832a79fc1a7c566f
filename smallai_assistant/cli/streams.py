"""Standard output belongs to the command. What plugins and libraries print goes to standard error.

A program that reads `smallai ... --json` must get nothing but the command's own lines, also if a plugin prints while it
is imported, or a C library writes to the descriptor.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from smallai_assistant.errors import AssistantError


class OutputError(AssistantError):
    """Standard output cannot be written, for example because its disk is full."""

    code = "output_error"
    default_hint = "free disk space, or write to another place"


class _Nowhere(io.StringIO):
    """The output if the shell has closed standard output (`>&-`)."""

    def write(self, text: str, /) -> int:
        return len(text)


_own: TextIO | None = None  # while a command runs
_is_whole_process = False  # whether the process is nothing but that command


def out() -> TextIO:
    """The stream for the command's own output."""
    if _own is not None:
        return _own
    return sys.stdout if sys.stdout is not None else _Nowhere()


def write(text: str, *, flush: bool = True) -> None:
    """Writes to standard output.

    Raises:
        BrokenPipeError: nobody reads any more.
        OutputError: it cannot be written for another reason.
    """
    stream = out()
    with _as_output_error():
        stream.write(encodable(text, stream))
        if flush:
            stream.flush()


def encodable(text: str, stream: TextIO) -> str:
    """`text` with `?` for characters that the stream's encoding lacks.

    The standard streams are told to do this themselves; a stream that was put in their place may not know how.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding, "replace")


@contextlib.contextmanager
def own_output(*, is_whole_process: bool) -> Iterator[None]:
    """Keeps standard output for the command during a `with` block.

    The command writes to a duplicate of descriptor 1. `sys.stdout` and the descriptor itself lead to standard error. A
    stream that a program or a test has put in place of `sys.stdout` is used as it is.

    Args:
        is_whole_process: the process ends after the block, and nothing is put back. A plugin may still print then,
            from a thread or at the interpreter's end.

    Raises:
        BrokenPipeError, OutputError: what was written does not arrive.
    """
    global _own, _is_whole_process
    if _own is not None:  # a command that a command runs writes to the same stream
        yield
        return
    if is_whole_process:
        _open_missing()
    before = sys.stdout
    stream, descriptor = _take(before)
    _own, sys.stdout, _is_whole_process = stream, sys.stderr, is_whole_process
    try:
        yield
        with _as_output_error():
            stream.flush()
    finally:
        if not is_whole_process:
            _own, sys.stdout = None, before
            if descriptor is not None:
                os.dup2(descriptor, 1)
                with contextlib.suppress(OSError):  # reported above, or Ctrl-C came first
                    stream.close()


def end_process(code: int) -> None:
    """Ends the process at once, as safely as a kill, if it is nothing but the running command. Otherwise returns.

    A thread that computes in C cannot be stopped, and the interpreter's ordinary end under it may crash.
    """
    if _is_whole_process:
        for stream in (out(), sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(code)


def _take(stdout: TextIO | None) -> tuple[TextIO, int | None]:
    """Makes the command's stream.

    Returns:
        The stream, and the duplicate of descriptor 1; None if the descriptor was left alone.
    """
    if stdout is None:
        return _Nowhere(), None
    try:
        is_real = stdout.fileno() == 1
    except (AttributeError, OSError, ValueError):
        is_real = False
    if not is_real:
        return stdout, None
    with contextlib.suppress(OSError):  # what the calling program wrote before is not the command's
        stdout.flush()
    descriptor = os.dup(1)
    # Line ends are written as they are, as Python's own standard output does on this system.
    stream = open(descriptor, "w", encoding=stdout.encoding, errors="replace", newline="")  # noqa: SIM115  (closed above)
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
    return stream, descriptor


def _open_missing() -> None:
    """Opens the null device for standard streams that the shell has closed.

    Otherwise the next file that is opened, such as the database, gets the number of one of them, and what a C library
    prints is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _discard()
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def _discard() -> None:
    """Leads the stream to the null device. Else what waits in its buffer would raise again at the next flush."""
    # As the Python documentation advises: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    with contextlib.suppress(AttributeError, OSError, ValueError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), out().fileno())
