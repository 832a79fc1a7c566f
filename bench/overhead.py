"""What a turn through the SDK costs over calling the task: `python -m bench.overhead`."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smallai_assistant import Assistant, Message, Request, Task, TextPart, hookimpl

N_TURNS = 300


class Echo(Task):
    """Answers with the message."""

    name = "echo"

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        yield TextPart(request.message.text)


class EchoPlugin:
    @hookimpl
    def register_tasks(self, register: Callable[[Task], None]) -> None:
        register(Echo())


def median_ms(call: Callable[[], object], n: int = N_TURNS) -> float:
    """Median milliseconds of one call."""
    samples = []
    for _ in range(n):
        begun = time.perf_counter()
        call()
        samples.append(time.perf_counter() - begun)
    return statistics.median(samples) * 1e3


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with Assistant(
            plugins=[EchoPlugin()], data_dir=root / "data", models_dir=root / "models", device="cpu"
        ) as assistant:
            task = assistant.tasks["echo"]
            session = assistant.session()
            request = Request(Message.of("hello"), (), None, session.id)
            direct = median_ms(lambda: list(task.run(request, assistant.models)))
            streamed = median_ms(lambda: assistant.session().send("hello", task="echo").text)
            durable = median_ms(lambda: assistant.session().send("hello", task="echo").turn)
    figures = {
        "bench": "overhead",
        "direct_ms": round(direct, 4),
        "answer_ms": round(streamed, 4),
        "answer_and_stored_ms": round(durable, 4),
        "overhead_ms": round(streamed - direct, 4),
    }
    print(f"calling the task          {direct:8.3f} ms\nanswer through the SDK    {streamed:8.3f} ms")
    print(f"... and on the disk       {durable:8.3f} ms")
    print(f"overhead of the answer    {streamed - direct:8.3f} ms (at most 1 ms)")
    print(json.dumps(figures))
    return 0 if streamed - direct <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
