"""Kills child processes at random moments of their work; for `bench.kills`."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_N_MEASURED = 3  # steps whose duration is measured, to know the range of moments for a kill
Say = Callable[[str], None]


@dataclass(slots=True)
class Killer:
    """Forks children that do some work, and kills them at a random moment.

    A fork has imported everything already, so that the kill hits the work and not the start.

    Args:
        words_per_step: lines that a child prints in a step.
        step_s: duration of a step, from which the moment is drawn.
    """

    rng: random.Random
    words_per_step: int = 1
    step_s: float = 0.0
    _took_s: float = 0.0

    def measure(self, work: Callable[[Say], None]) -> list[list[str]]:
        """Measures the duration of a step: kills a child after three steps. Returns what it said, as `run` does."""
        said = self._run(work, self._wait_for_steps)
        self.step_s = self._took_s / _N_MEASURED
        return said

    def _wait_for_steps(self, stream: BinaryIO) -> list[bytes]:
        begun = time.monotonic()
        lines = [stream.readline() for _ in range(_N_MEASURED * self.words_per_step)]
        self._took_s = time.monotonic() - begun
        return lines

    def run(self, work: Callable[[Say], None]) -> list[list[str]]:
        """Kills a child at a random moment. Returns the whole lines that it printed, as words; the first is `ready`."""

        def wait(_: BinaryIO) -> list[bytes]:
            # At least 30 ms, so that more than the very first step is hit if a step takes a millisecond.
            time.sleep(self.rng.uniform(0.001, max(0.030, 3 * self.step_s)))
            return []

        return self._run(work, wait)

    def _run(self, work: Callable[[Say], None], wait: Callable[[BinaryIO], list[bytes]]) -> list[list[str]]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                work(lambda text: os.write(writer, f"{text}\n".encode()) and None)
            except BaseException:
                traceback.print_exc()
            os._exit(1)  # not `exit`: handlers of the parent, such as those of pytest, must not run in the child
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            lines = [said.readline(), *wait(said)]
            os.kill(child, signal.SIGKILL)
            lines += said.readlines()
        status = os.waitpid(child, 0)[1]
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise RuntimeError(f"the child ended by itself: {status}")
        # The last line may be cut; half a line acknowledges nothing.
        return [line.decode().split() for line in lines if line.endswith(b"\n")]
