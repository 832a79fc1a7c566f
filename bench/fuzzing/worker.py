"""The process that gives inputs to one door: `python -m bench.fuzzing.worker DOOR FIRST COUNT SEED_FILE [contained]`.

It is used for many inputs. Before each it writes the seed into SEED_FILE, so that whoever finds it dead or silent knows
which input did it. What it found is printed as JSON, one object a line.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.fuzzing.door import Door
from bench.fuzzing.doors import open_door

MAX_S, MAX_MB = 2.0, 300.0
KILL_S = 3.0  # of processor time: an input that takes so long is not waited for
_MORE_BYTES = 2 * 2**30  # the most that the process may take above what it needs for itself
_TELL_S = 0.5
_ROOT = str(Path(__file__).parents[2])


@dataclass(slots=True)
class Tally:
    """What was found since the last line."""

    done: int = 0
    taken: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest_seed: int = -1
    most_mb: float = 0.0
    most_seed: int = -1


def case_of(door: Door, seed: int) -> Any:
    """The input of a seed."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # it may be nested deeper than what reads it must stand
    try:
        return door.make(Random(f"{door.name} {seed}"))
    finally:
        sys.setrecursionlimit(limit)


class Memory:
    """The most memory that inputs take, by the high-water mark that the system keeps of the process."""

    def __init__(self) -> None:
        self.base_mb = self.peak_mb = 0.0
        self.reset()

    def reset(self) -> None:
        """Begins a new mark."""
        Path("/proc/self/clear_refs").write_text("5")
        self.base_mb = self.peak_mb = self._mark()

    def taken(self) -> float:
        """The MB that the last input took above the base, or less than an earlier one."""
        peak = self._mark()
        if peak <= self.peak_mb:
            return 0.0
        self.peak_mb = peak
        return peak - self.base_mb

    @staticmethod
    def _mark() -> float:
        # Not `ru_maxrss`, which begins with the memory of the process that started this one.
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def place_of(error: BaseException) -> str:
    """The type of an error and the innermost line of the project that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_ROOT)]
    where = next((frame for frame in reversed(frames) if "/bench/" not in frame.filename), frames[-1])
    name = Path(where.filename).relative_to(_ROOT)
    return f"{type(error).__name__} at {name}:{where.lineno} {where.name}"


def try_case(enter: Callable[[Any], None], case: Any) -> tuple[bool, BaseException | None]:
    """Gives an input to a door. Returns whether it was taken, and what it raised that is not typed."""
    from smallai_assistant.errors import AssistantError

    try:
        enter(case)
        return True, None
    except AssistantError:
        return False, None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic in Rust code is not an Exception
        return False, error


def run(door: Door, first: int, count: int, seed_file: Path, *, is_contained: bool) -> None:
    """Gives inputs to a door and prints what it found.

    Args:
        is_contained: whether to use the process of the product that an input may harm.
    """
    enter = door.enter_contained if is_contained else door.enter
    with seed_file.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    tally, told = Tally(), time.monotonic()
    memory = Memory()

    # Whatever a library prints must not get among the lines for the parent.
    lines = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def tell(seed: int, problem: str, details: str = "") -> None:
        print(json.dumps({"seed": seed, "problem": problem, "details": details[-1500:]}), file=lines, flush=True)

    for seed in range(first, first + count):
        struct.pack_into("<q", shared, 0, seed)
        case = case_of(door, seed)
        signal.setitimer(signal.ITIMER_PROF, KILL_S)
        begun = time.process_time()
        is_taken, error = try_case(enter, case)
        seconds = time.process_time() - begun
        signal.setitimer(signal.ITIMER_PROF, 0)
        if error is not None:
            tell(seed, place_of(error), "".join(traceback.format_exception(error)))
        megabytes = memory.taken()
        if seconds > MAX_S:
            tell(seed, f"over {MAX_S:g} s", f"{seconds:.1f} s")
        if megabytes > MAX_MB:
            tell(seed, f"over {MAX_MB:g} MB", f"{megabytes:.0f} MB")
            memory.reset()
        tally.done += 1
        tally.taken += is_taken
        tally.refused += not is_taken and error is None
        error = None  # its frames hold the input
        if seconds > tally.slowest_s:
            tally.slowest_s, tally.slowest_seed = seconds, seed
        if megabytes > tally.most_mb:
            tally.most_mb, tally.most_seed = megabytes, seed
        if time.monotonic() - told > _TELL_S or seed == first + count - 1:
            print(json.dumps({name: getattr(tally, name) for name in Tally.__slots__}), file=lines, flush=True)
            tally, told = Tally(), time.monotonic()


def prepare(name: str, folder: Path) -> Door:
    """Opens a door at low priority, tries its valid inputs, and limits the process."""
    os.nice(15)
    door = open_door(name, folder)
    for number, sample in enumerate(door.samples()):
        try:
            door.enter(sample)
        except Exception as error:
            raise RuntimeError(f"{name} does not take its valid input {number}") from error
    # The system ends the process at the limit of time; before, it prints where it was.
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)
    with open("/proc/self/status", encoding="ascii") as status:
        used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MORE_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return door


def main() -> None:
    """Runs inputs as the arguments say."""
    name, first, count, seed_file, *rest = sys.argv[1:]
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        door = prepare(name, Path(folder))
        try:
            run(door, int(first), int(count), Path(seed_file), is_contained=bool(rest))
        finally:
            door.close()


if __name__ == "__main__":
    main()
