"""Measures what a turn through the SDK costs more than calling the task: `python -m bench.overhead`.

It also measures how fast a message over the size limit is refused.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smallai_assistant import Assistant, Message, Request, Session, Task, TextPart, errors, hookimpl

N_TURNS = 300  # enough for a stable median, and a few seconds
MAX_OVERHEAD_MS = 1.0
MAX_REFUSAL_MS = 50.0  # for 10,000,000 characters: the limit is checked before anything reads the text


class Echo(Task):
    """Answers with the message."""

    name = "echo"

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        yield TextPart(request.message.text)


class EchoPlugin:
    """Registers the task."""

    @hookimpl
    def register_tasks(self, register: Callable[[Task], None]) -> None:
        register(Echo())


def median_ms(call: Callable[[], object], n: int = N_TURNS) -> float:
    """The median duration of a call, in milliseconds."""
    samples = []
    for _ in range(n):
        begun = time.perf_counter()
        call()
        samples.append(time.perf_counter() - begun)
    return statistics.median(samples) * 1e3


def is_refused(session: Session, text: str) -> bool:
    """Sends a text that is too long."""
    try:
        session.send(text)
    except errors.InputTooLarge:
        return True
    raise SystemExit("a text over the limit was accepted")


def main() -> int:
    """Prints the figures and the JSON line. Returns 1 if a figure is missed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with Assistant(
            plugins=[EchoPlugin()], data_dir=root / "data", models_dir=root / "models", device="cpu"
        ) as assistant:
            task = assistant.tasks["echo"]
            session = assistant.session()
            request = Request(Message.of("hello"), (), None, session.id)
            # The three calls in one process, so that their difference is that of the layers above the task.
            direct = median_ms(lambda: list(task.run(request, assistant.models)))
            streamed = median_ms(lambda: assistant.session().send("hello", task="echo").text)
            durable = median_ms(lambda: assistant.session().send("hello", task="echo").turn)
            long = "x" * 10_000_000
            refused = median_ms(lambda: is_refused(session, long), n=20)
    figures = {
        "bench": "overhead",
        "direct_ms": round(direct, 4),
        "answer_ms": round(streamed, 4),
        "answer_and_stored_ms": round(durable, 4),
        "overhead_ms": round(streamed - direct, 4),
        "refusal_ms": round(refused, 4),
    }
    print(f"calling the task          {direct:8.3f} ms\nanswer through the SDK    {streamed:8.3f} ms")
    print(f"... and on the disk       {durable:8.3f} ms")
    print(f"overhead of the answer    {streamed - direct:8.3f} ms (at most {MAX_OVERHEAD_MS:g} ms)")
    print(f"refusal of 10 MB          {refused:8.3f} ms (at most {MAX_REFUSAL_MS:g} ms)")
    print(json.dumps(figures))
    return 0 if streamed - direct <= MAX_OVERHEAD_MS and refused <= MAX_REFUSAL_MS else 1


if __name__ == "__main__":
    sys.exit(main())
