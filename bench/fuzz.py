"""Gives seeded wrong inputs to each door: `python -m bench.fuzz [--count N] [--door NAME ...]`.

A door may raise typed errors only, and an input may take two seconds of processor time and 300 MB. The inputs are
mutations of valid ones; a seed always gives the same input. `--door NAME --seed N` tries one again and shows it.

A process tries many inputs and is watched: if it dies or hangs, the seed that it was at is noted, and a new one goes on
with the next. Ctrl-C prints what was done so far; `--first` goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.fuzzing.doors import CONTAINED, DOORS

WANTED = 200_000  # inputs of each door, for the figure
_PER_PROCESS = 20_000
_SILENCE_S = 120.0  # an input that takes so long by the clock waits for something that does not come
_MAX_DEATHS = 200  # of the processes of one door; then the rest of its inputs is left
_SHOWN = 12


@dataclass(slots=True)
class Result:
    """What the inputs of one door did.

    Attributes:
        contained: inputs that crash or take too much, and harm only the process that the product keeps for them.
        faults: how often each kind was seen.
        seeds: the first seeds of each kind.
        details: of the first of each kind.
    """

    inputs: int = 0
    taken: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest_seed: int = -1
    most_mb: float = 0.0
    most_seed: int = -1
    seconds: float = 0.0
    contained: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        """Takes in what a worker printed."""
        self.inputs += row["done"]
        self.taken += row["taken"]
        self.refused += row["refused"]
        if row["slowest_s"] > self.slowest_s:
            self.slowest_s, self.slowest_seed = row["slowest_s"], row["slowest_seed"]
        if row["most_mb"] > self.most_mb:
            self.most_mb, self.most_seed = row["most_mb"], row["most_seed"]

    def fault(self, kind: str, seed: int, details: str) -> None:
        """Notes a fault."""
        self.faults[kind] += 1
        self.seeds.setdefault(kind, [])
        if len(self.seeds[kind]) < 5:
            self.seeds[kind].append(seed)
        self.details.setdefault(kind, details)

    def figures(self) -> dict[str, Any]:
        """The result for the JSON line."""
        kinds = [{"fault": kind, "n": n, "seeds": self.seeds[kind]} for kind, n in self.faults.most_common()]
        return {
            "inputs": self.inputs,
            "taken": self.taken,
            "refused": self.refused,
            "slowest_s": round(self.slowest_s, 3),
            "slowest_seed": self.slowest_seed,
            "most_mb": round(self.most_mb),
            "most_seed": self.most_seed,
            "contained": self.contained,
            "faults": self.faults.total(),
            "kinds": kinds,
            "seconds": round(self.seconds, 1),
        }


class Bar(Protocol):
    """Shows how far a door is."""

    def __call__(self, n_done: int, n_faults: int) -> None: ...


class Worker:
    """A process that tries the inputs of a door from a seed on."""

    def __init__(self, door: str, first: int, count: int, folder: Path, *more: str) -> None:
        self._seed_file = folder / "seed"
        self._seed_file.write_bytes(struct.pack("<q", -1))
        self._errors = (folder / "errors").open("w+b")
        words = [door, str(first), str(count), str(self._seed_file), *more]
        threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "2"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.fuzzing.worker", *words],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={name: value for name, value in os.environ.items() if not name.startswith("SMALLAI_")} | threads,
        )

    @property
    def seed(self) -> int:
        """The seed of the input that it is at; -1 before the first."""
        (seed,) = struct.unpack("<q", self._seed_file.read_bytes()[:8])
        return int(seed)

    def rows(self) -> Iterator[dict[str, Any]]:
        """What it prints, until it ends. If an input takes too long by the clock, it is killed."""
        assert self.process.stdout is not None
        selector = selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        seed, since, rest = self.seed, time.monotonic(), b""
        while True:
            if selector.select(timeout=1.0):
                chunk = os.read(self.process.stdout.fileno(), 2**16)
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
            if self.seed != seed:
                seed, since = self.seed, time.monotonic()
            elif time.monotonic() - since > _SILENCE_S:
                self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        self._errors.seek(max(0, self._errors.seek(0, 2) - 1500))
        return self._errors.read().decode(errors="replace")

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


def fuzz(name: str, first: int, count: int, bar: Bar, result: Result) -> None:
    """Tries the inputs of one door; `result` is complete at each moment."""
    begun, n_deaths = time.monotonic(), 0
    at, end = first, first + count

    def harm(kind: str, seed: int, details: str) -> None:
        if name in CONTAINED and " at " not in kind and _is_contained(name, seed):
            result.contained += 1
        else:
            result.fault(kind, seed, details)

    while at < end and n_deaths < _MAX_DEATHS:
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(name, at, min(_PER_PROCESS, end - at), Path(folder))
            try:
                for row in worker.rows():
                    if "problem" in row:
                        harm(row["problem"], row["seed"], row["details"])
                    else:
                        result.add(row)
                    result.seconds = time.monotonic() - begun
                    bar(result.inputs, result.faults.total())
                code, seed = worker.process.returncode, worker.seed
                if code == 0:
                    at = seed + 1
                    continue
                if seed < 0:
                    raise SystemExit(f"{name} did not begin:\n{worker.last_words()}")
                n_deaths += 1
                result.inputs += seed + 1 - max(at, first + result.inputs)  # those that it had not told of
                harm(_death(code), seed, worker.last_words())
                at = seed + 1
            finally:
                worker.close()
                result.seconds = time.monotonic() - begun


def _is_contained(name: str, seed: int) -> bool:
    """Whether the process of the product that an input may harm keeps the harm to itself."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(name, seed, 1, Path(folder), "contained")
        try:
            rows = list(worker.rows())
            return worker.process.returncode == 0 and not any("problem" in row for row in rows)
        finally:
            worker.close()


def _death(code: int) -> str:
    import signal

    names = {signal.SIGPROF: "takes for ever", signal.SIGKILL: "hangs, or takes all memory"}
    return names.get(-code, f"crash ({signal.Signals(-code).name})") if code < 0 else f"exit ({code})"


@contextmanager
def bars() -> Iterator[Any]:
    """Progress on standard error, if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[faults]} faults"))  # fmt: skip
    console = Console(stderr=True)
    # On a terminal the table is printed above the bars; elsewhere it must stay on standard output.
    above = sys.stdout.isatty()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=above
    ) as progress:
        yield progress


def again(name: str, seed: int) -> int:
    """Tries the input of one seed in this process and tells what it did. Returns 1 if that is a fault."""
    from bench.fuzzing.worker import MAX_MB, MAX_S, Memory, case_of, prepare, try_case

    with tempfile.TemporaryDirectory() as folder:
        door = prepare(name, Path(folder))
        case = case_of(door, seed)
        print(f"{name} {seed}: {repr(case)[:2000]}", flush=True)
        memory, begun = Memory(), time.process_time()
        is_taken, error = try_case(door.enter, case)
        seconds, megabytes = time.process_time() - begun, memory.taken()
        door.close()
    if error is not None:
        traceback.print_exception(error, file=sys.stdout)
    print(f"{'taken' if is_taken else 'refused' if error is None else 'fault'}, {seconds:.3f} s, {megabytes:.0f} MB")
    return int(error is not None or seconds > MAX_S or megabytes > MAX_MB)


def table(name: str, result: Result) -> None:
    """Prints the line of a door and its faults."""
    print(
        f"{name:13} {result.inputs:8,} {result.taken:8,} {result.slowest_s:8.2f} s {result.most_mb:6.0f} MB "
        f"{result.faults.total():7} {result.seconds:7.0f} s",
        flush=True,
    )
    for kind, n in result.faults.most_common(_SHOWN):
        print(f"    {n:6,} x {kind}; seeds {', '.join(map(str, result.seeds[kind]))}")
        for line in result.details[kind].strip().splitlines()[-1:]:
            print(f"             {line[:160]}", flush=True)


def main() -> int:
    """Prints the table and the JSON line. Returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2_000, help=f"inputs of each door; {WANTED:,} for the figure")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--door", action="append", choices=list(DOORS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, help="try this one input again, and show it")
    args = parser.parse_args()
    names = args.door or list(DOORS)
    if args.seed is not None:
        return max(again(name, args.seed) for name in names)
    results: dict[str, Result] = {}
    print(f"{'door':13} {'inputs':>8} {'taken':>8} {'slowest':>10} {'memory':>9} {'faults':>7} {'duration':>9}")
    is_cut = False
    with bars() as progress:
        tasks = {name: progress.add_task(name, total=args.count, faults=0) for name in names}
        for name in names:
            results[name] = Result()

            def bar(n_done: int, n_faults: int, name: str = name) -> None:
                progress.update(tasks[name], completed=n_done, faults=n_faults)

            try:
                fuzz(name, args.first, args.count, bar, results[name])
            except KeyboardInterrupt:
                is_cut = True
            progress.update(tasks[name], visible=False)
            table(name, results[name])
            if is_cut:
                break
    n_faults = sum(result.faults.total() for result in results.values())
    figures = {"bench": "fuzz", "first": args.first, "is_cut": is_cut, "faults": n_faults}
    print(json.dumps(figures | {"doors": {name: result.figures() for name, result in results.items()}}))
    return 130 if is_cut else int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
