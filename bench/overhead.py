"""Measures what a turn through the SDK costs more than calling the task: `python -m bench.overhead`.

It also measures what of that is the check for writes of other processes, and how fast a message over the size limit is
refused.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smallai_assistant import (
    Adapter,
    Assistant,
    Example,
    Feedback,
    JudgedTurn,
    LearningTask,
    Message,
    Request,
    Score,
    Session,
    Task,
    TextPart,
    Training,
    errors,
    hookimpl,
)

N_TURNS = 300  # enough for a stable median, and a few seconds
MAX_OVERHEAD_MS = 1.0
MAX_CHECK_MS = 1.0  # of the database, whether another process has changed what this one remembers
N_ROWS = 2_000  # of feedback: the check must not depend on how much there is
MAX_REFUSAL_MS = 50.0  # for 10,000,000 characters: the limit is checked before anything reads the text


class Echo(LearningTask):
    """Answers with the message, and learns nothing."""

    name = "echo"

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        yield TextPart(request.message.text)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        return ""

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        pass

    def base(self) -> dict[str, Any]:
        return {}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return []

    def train(self, training: Training) -> str:
        raise errors.NotEnoughData("nothing is learned")

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: Any) -> list[Score]:
        return []


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
            turn = assistant.session().send("hello", task="echo").turn
            assistant.feedback.add_all([Feedback(turn.id, is_good=True) for _ in range(N_ROWS)])
            check = median_ms(lambda: assistant.feedback.revisions("echo"))
            durable = median_ms(lambda: assistant.session().send("hello", task="echo").turn)
            long = "x" * 10_000_000
            refused = median_ms(lambda: is_refused(session, long), n=20)
    figures = {
        "bench": "overhead",
        "direct_ms": round(direct, 4),
        "answer_ms": round(streamed, 4),
        "answer_and_stored_ms": round(durable, 4),
        "overhead_ms": round(streamed - direct, 4),
        "check_ms": round(check, 4),
        "check_share": round(check / streamed, 3),
        "refusal_ms": round(refused, 4),
    }
    print(f"calling the task          {direct:8.3f} ms\nanswer through the SDK    {streamed:8.3f} ms")
    print(f"... and on the disk       {durable:8.3f} ms")
    print(f"overhead of the answer    {streamed - direct:8.3f} ms (at most {MAX_OVERHEAD_MS:g} ms)")
    print(
        f"check of other processes  {check:8.3f} ms (at most {MAX_CHECK_MS:g} ms), {check / streamed:.0%} of the answer"
    )
    print(f"refusal of 10 MB          {refused:8.3f} ms (at most {MAX_REFUSAL_MS:g} ms)")
    print(json.dumps(figures))
    is_met = streamed - direct <= MAX_OVERHEAD_MS and check <= MAX_CHECK_MS and refused <= MAX_REFUSAL_MS
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
