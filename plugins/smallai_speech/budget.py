"""The work that a decoder may do for a recording, and the file that it reads: it ends when the work is done."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from itertools import accumulate
from threading import Event
from typing import TYPE_CHECKING

from smallai_assistant import errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Processor time of the thread. One second of sound takes 0.01 s here at most in the formats that people send (Opus),
# and 0.09 s in the heaviest that was measured: FLAC of 8 channels at 192 kHz.
_SPARE_S, _WORK_PER_SECOND = 2.0, 0.25
# Between two blocks of sound: covers, tags, the picture of a video, the index of an MP4 (35 MB for a day).
MAX_SILENT_BYTES = 64 * 2**20


class Budget:
    """Counts what a decoder does.

    Args:
        cancel: set when nobody wants the recording any more.
    """

    def __init__(self, cancel: Event | None = None) -> None:
        self._cancel = cancel
        self._began_at = time.thread_time()
        self._heard_s = 0.0
        self._n_silent_bytes = 0

    def heard(self, seconds: float) -> None:
        """Notes how much sound there is so far."""
        self._heard_s = seconds
        self._n_silent_bytes = 0

    def restart(self) -> None:
        """Begins again, after a first look at the sound whose work was in proportion to it."""
        self._began_at = time.thread_time()
        self.heard(0.0)

    def read(self, n_bytes: int) -> None:
        self._n_silent_bytes += n_bytes

    def stop(self) -> errors.AssistantError | None:
        """The error to end with; None if the work may go on."""
        if self._cancel is not None and self._cancel.is_set():
            return errors.Cancelled("the recording was not decoded to its end")
        used_s = time.thread_time() - self._began_at
        is_spent = used_s > _SPARE_S + _WORK_PER_SECOND * self._heard_s
        if is_spent or self._n_silent_bytes > MAX_SILENT_BYTES:
            return errors.InputTooLarge(
                f"decoding takes too long for its sound, {self._heard_s:.1f} s so far",
                hint="convert it to WAV or FLAC",
            )
        return None

    def check(self) -> None:
        """Raises if the work must stop.

        Raises:
            Cancelled: nobody wants the recording any more.
            InputTooLarge: the decoder works for too long, or reads too much, without giving sound.
        """
        if (error := self.stop()) is not None:
            raise error


class Pieces(io.RawIOBase):
    """Pieces of a file as one file, without a copy. It seems to end as soon as the budget is spent.

    Decoders call it from C, through which no exception passes.
    """

    def __init__(self, pieces: Sequence[bytes | memoryview], budget: Budget) -> None:
        self._pieces = [memoryview(piece) for piece in pieces if len(piece)]
        self._ends = list(accumulate(len(piece) for piece in self._pieces))
        self._budget = budget
        self._position = self._index = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._ends[-1] if self._ends else 0
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence]
        self._position = max(start + offset, 0)
        self._index = 0
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Fills the whole buffer, unless the file ends: decoders take less for its end."""
        if self._budget.stop() is not None:
            return 0
        target, n_read = memoryview(buffer).cast("B"), 0
        while n_read < len(target) and (piece := self._rest()):
            n = min(len(piece), len(target) - n_read)
            target[n_read : n_read + n] = piece[:n]
            n_read += n
            self._position += n
        self._budget.read(n_read)
        return n_read

    def _rest(self) -> memoryview:
        """What follows in the piece at the current position; empty at the end of the file."""
        while self._index < len(self._ends) and self._ends[self._index] <= self._position:
            self._index += 1
        if self._index == len(self._ends):
            return memoryview(b"")
        return self._pieces[self._index][self._position - self._ends[self._index] :]
