"""How long a feedback takes until it is on the disk, through the assistant: `python -m bench.feedback_write`."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smallai_assistant import Assistant, Feedback, Request, Task, TextPart, hookimpl

N_WRITES = 500
N_WARM_UP = 20
# What people take for immediate (Miller 1968, "Response time in man-computer conversational transactions").
WANTED_P99_MS = 100.0


class Echo(Task):
    """Answers with the message."""

    name = "echo"

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        yield TextPart(request.message.text)


class EchoPlugin:
    @hookimpl
    def register_tasks(self, register: Callable[[Task], None]) -> None:
        register(Echo())


def timed(call: Callable[[int], object]) -> dict[str, float]:
    """Median and 99th percentile of a call in ms, after some that are not counted."""
    samples = []
    for number in range(N_WARM_UP + N_WRITES):
        begun = time.perf_counter()
        call(number)
        samples.append((time.perf_counter() - begun) * 1e3)
    samples = samples[N_WARM_UP:]
    return {
        "p50_ms": round(statistics.median(samples), 2),
        "p99_ms": round(statistics.quantiles(samples, n=100)[98], 2),
    }


def measure_fsync(folder: Path) -> dict[str, float]:
    """What the disk takes for 4 KiB appended to a file and put on the disk: no database can be faster."""
    page = os.urandom(4096)
    with (folder / "fsync").open("ab", buffering=0) as file:

        def write(_: int) -> None:
            file.write(page)
            os.fsync(file.fileno())

        return timed(write)


def measure_feedback(folder: Path, url: str) -> dict[str, float]:
    """`assistant.give_feedback`, from the call to its return."""
    with Assistant(
        data_dir=folder,
        models_dir=folder / "models",
        database_url=url,
        plugins=[EchoPlugin()],
        disabled_plugins=("chat", "image", "speech", "recommend"),
        device="cpu",
    ) as assistant:
        turn = assistant.ask("hello", task="echo").turn
        figures = timed(lambda n: assistant.give_feedback(Feedback(turn.id, correction=f"no, {n}", key=str(n))))
        assert len(assistant.feedback.rows()) == N_WARM_UP + N_WRITES
    return figures


def main() -> int:
    """Prints a table and the JSON line; 1 where a figure is missed."""
    from tests.support.databases import NoServer, temporary_schema, temporary_server

    figures: dict[str, Any] = {"bench": "feedback_write", "n": N_WRITES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures["fsync"] = measure_fsync(folder)
        figures["sqlite"] = measure_feedback(folder / "sqlite", "")
        try:
            with contextlib.ExitStack() as stack:
                server = stack.enter_context(temporary_server())
                url = stack.enter_context(temporary_schema(server))
                figures["postgresql"] = measure_feedback(folder / "postgresql", url)
        except NoServer as error:
            print(f"postgresql not measured: {error}")
        figures["fsync_after"] = measure_fsync(folder)
    for kind, row in figures.items():
        if isinstance(row, dict):
            wanted = "" if kind.startswith("fsync") else f" (p99 at most {WANTED_P99_MS:.0f} ms)"
            print(f"{kind:12} p50 {row['p50_ms']:7.2f} ms   p99 {row['p99_ms']:7.2f} ms{wanted}")
    print(json.dumps(figures))
    measured = [figures[kind] for kind in ("sqlite", "postgresql") if kind in figures]
    return 0 if all(each["p99_ms"] <= WANTED_P99_MS for each in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
