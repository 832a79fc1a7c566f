"""Time until a feedback is on disk, through the assistant: `python -m bench.feedback_write`."""

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
N_WARM_UP = 20  # the first writes also create files and fill caches
# The limit of what feels immediate (Miller 1968, "Response time in man-computer conversational transactions").
MAX_P99_MS = 100.0


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
    """Median and 99th percentile of the duration of `call(number)` in ms, after a warm-up that is not counted."""
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
    """The time to append 4 KiB to a file and flush it, in ms: the lower bound for every durable database."""
    page = os.urandom(4096)
    with (folder / "fsync").open("ab", buffering=0) as file:

        def write(_: int) -> None:
            file.write(page)
            os.fsync(file.fileno())

        return timed(write)


def measure_feedback(folder: Path, url: str) -> dict[str, float]:
    """The time of `assistant.give_feedback`, from the call to its return, in ms."""
    with Assistant(
        data_dir=folder,
        models_dir=folder / "models",
        database_url=url,
        plugins=[EchoPlugin()],
        disabled_plugins=("chat", "image", "speech", "recommend"),
        device="cpu",
    ) as assistant:
        turn = assistant.ask("hello", task="echo").turn
        # A key for each call, as a caller that repeats failed calls gives one.
        figures = timed(lambda n: assistant.give_feedback(Feedback(turn.id, correction=f"no, {n}", key=str(n))))
        assert len(assistant.feedback.rows()) == N_WARM_UP + N_WRITES
    return figures


def main() -> int:
    """Prints the table and the JSON line. Returns 1 if a figure is missed."""
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
        # Again at the end: if it differs from the first, other programs used the disk meanwhile.
        figures["fsync_after"] = measure_fsync(folder)
    for kind, row in figures.items():
        if isinstance(row, dict):
            limit = "" if kind.startswith("fsync") else f" (p99 at most {MAX_P99_MS:.0f} ms)"
            print(f"{kind:12} p50 {row['p50_ms']:7.2f} ms   p99 {row['p99_ms']:7.2f} ms{limit}")
    print(json.dumps(figures))
    measured = [figures[kind] for kind in ("sqlite", "postgresql") if kind in figures]
    return 0 if all(row["p99_ms"] <= MAX_P99_MS for row in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
