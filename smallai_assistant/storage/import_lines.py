"""The lines of a file that is imported: read once from the outside, in bounded memory, as often as needed afterwards.

All imports read through here, so that they agree on what a line is. A byte order mark and blank lines are no content. A
pipe can be read once only, so its lines are copied while they are checked for the first time.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from smallai_assistant.errors import InputTooLarge, InvalidInput

# A pipe that sends nothing for so long is refused: nobody writes to it, or its writer hangs.
SILENCE_S = 30.0
# A named pipe without a writer reads as an empty file; the writer may come a little later than we do.
_WRITER_COMES_S = 5.0
_POLL_S = 0.05
_CHUNK_BYTES = 2**20
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_BOM = b"\xef\xbb\xbf"
# Python's JSON reader calls itself once a level, as do its writer and `repr`: about 1,000 levels end them.
MAX_DEPTH = 210
# Values of one line. Each takes up to 240 bytes when it is read, so a line of small ones costs 50 MB and not gigabytes.
MAX_VALUES = 200_000
# A row has at most two tokens for each value: what begins it, and the string that it is or that names it.
_MAX_TOKENS = 2 * MAX_VALUES
_MAX_BLANK_LINES = 100_000  # in a row; a pipe may send them without end
# A string to its end, one that is not closed too; or what begins a value. Nothing backtracks, so it takes linear time.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[{,]', re.DOTALL)


class ImportLines:
    """The lines of a file or a pipe. Use it in a `with` block; iterate it as often as needed.

    Args:
        path: a file, a named pipe, or what a shell makes of `<(command)`.

    Attributes:
        number: of the line that the present iteration has read, blank ones counted.
        n_bytes: what it has read so far.

    Raises:
        InvalidInput: the file cannot be opened, or is neither a file nor a pipe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.n_bytes = 0
        self._copy: IO[bytes] | None = None
        self._is_copied = False
        self._has_begun = False  # whether a pipe has sent anything
        try:
            # Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidInput(f"{path}: {reason}", hint="give a file that you may read") from error
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            os.close(descriptor)
            kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a pipe"
            raise InvalidInput(f"{path}: {kind}", hint="write the lines to a file first")
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        if stat.S_ISFIFO(mode):
            # It has no name, and only its owner can read it. `__exit__` closes it.
            self._copy = tempfile.TemporaryFile()  # noqa: SIM115

    @property
    def size(self) -> int:
        """Bytes of the file; 0 for a pipe, whose end is not known."""
        return 0 if self._copy is not None else os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> ImportLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if self._copy is not None:
            self._copy.close()

    def first_bytes(self) -> bytes:
        """The beginning of the file without the byte order mark, at most 1 MiB."""
        for chunk in self._chunks():
            return chunk.removeprefix(_BOM)
        return b""

    def full(self, limit: int) -> Iterator[bytes]:
        """The lines that hold something; `number` is the number of each. See `all`."""
        n_blank = 0
        for line in self.all(limit):
            if line.strip():
                n_blank = 0
                yield line
            elif (n_blank := n_blank + 1) > _MAX_BLANK_LINES:
                raise InvalidInput(f"over {_MAX_BLANK_LINES:,} blank lines in a row")

    def all(self, limit: int) -> Iterator[bytes]:
        """All lines with their line ends, without the byte order mark.

        Args:
            limit: bytes of the longest line.

        Raises:
            InputTooLarge: a line is longer.
            InvalidInput: the file cannot be read, or a pipe is silent.
        """
        self.number = self.n_bytes = 0
        for line in self._lines(limit):
            yield line.removeprefix(_BOM) if self.number == 1 else line

    def _lines(self, limit: int) -> Iterator[bytes]:
        begun: list[bytes] = []  # the pieces of a line that has not ended yet
        n_begun = 0
        for chunk in self._chunks():
            # Not `splitlines`, which ends a line at a carriage return too: a quoted cell of a CSV may hold one.
            for piece in _LINE.findall(chunk):
                if not begun:
                    self.number += 1
                begun.append(piece)
                n_begun += len(piece)
                if n_begun > limit + 2:  # a line end has one or two bytes
                    raise InputTooLarge(f"longer than {limit:,} bytes", hint="shorten the text")
                if piece.endswith(b"\n"):
                    self.n_bytes += n_begun
                    yield b"".join(begun)
                    begun, n_begun = [], 0
        if begun:
            self.n_bytes += n_begun
            yield b"".join(begun)

    def _chunks(self) -> Iterator[bytes]:
        """The bytes from the beginning. What a pipe has sent is in the copy; the rest is copied when it comes."""
        source = self._file if self._copy is None else self._copy
        position = 0
        try:
            while True:
                source.seek(position)
                chunk = source.read(_CHUNK_BYTES)
                if not chunk and self._copy is not None and not self._is_copied:
                    chunk = self._from_pipe()
                    self._copy.write(chunk)
                    self._is_copied = not chunk
                if not chunk:
                    return
                position += len(chunk)
                yield chunk
        except OSError as error:
            raise InvalidInput(f"{self.path}: {error.strerror}", hint="give a file that you may read") from error

    def _from_pipe(self) -> bytes:
        """The next bytes of the pipe; empty at its end.

        Raises:
            InvalidInput: nothing comes.
        """
        begun = time.monotonic()
        while True:
            try:
                chunk = os.read(self._file.fileno(), _CHUNK_BYTES)
            except BlockingIOError:  # there is a writer, and it has written nothing yet
                if not select.select([self._file], [], [], SILENCE_S)[0]:
                    raise InvalidInput(
                        f"{self.path}: nothing came for {SILENCE_S:g} s", hint="write the lines to a file first"
                    ) from None
                continue
            self._has_begun = self._has_begun or bool(chunk)
            if self._has_begun or time.monotonic() - begun > _WRITER_COMES_S:
                return chunk
            time.sleep(_POLL_S)


def parse_object(line: bytes) -> dict[str, Any]:
    """Reads a JSON object, after its depth and the number of its values were counted.

    Raises:
        InvalidInput: it is not a JSON object in UTF-8.
        InputTooLarge: it is nested over 210 levels deep, or has over 200,000 values.
    """
    if next(itertools.islice(_TOKENS.finditer(line), _MAX_TOKENS, None), None) is not None:
        raise InputTooLarge(f"the line has over {MAX_VALUES:,} values", hint="split it")
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput("not UTF-8", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else f"{type(error).__name__}: {error}"
        raise InvalidInput(f"not JSON: {reason}", hint="give one JSON object on each line") from error
    if not isinstance(value, dict):
        raise InvalidInput("not a JSON object", hint="give one JSON object on each line")
    if depth(value) > MAX_DEPTH:
        raise InputTooLarge(f"the line is nested over {MAX_DEPTH} levels deep", hint="flatten it")
    return value


def depth(value: Any) -> int:
    """The levels of nested lists and objects; 0 for a plain value. Without recursion, which the value could exhaust."""
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list, tuple))]:
        deepest += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def in_line(lines: ImportLines, error: InvalidInput) -> InvalidInput:
    """The same error with the file and the line in its message."""
    kind = InputTooLarge if isinstance(error, InputTooLarge) else InvalidInput
    return kind(
        f"{lines.path}, line {max(lines.number, 1):,}: {error.message}",
        hint=error.hint or "nothing was imported",
        suggestion=error.suggestion,
    )
