"""Measures how often the router finds the task that a text is for: `python -m bench.intents [FILE]`.

The file has one JSON object per line, `{"text", "task"}`. `intents.jsonl` is the test set: nothing is tuned on it, and
none of its texts is an utterance of a task. `intents_tune.jsonl` is for choosing the threshold and the utterances.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from smallai_assistant import Assistant, Message

TEST_FILE = Path(__file__).with_name("intents.jsonl")
TUNE_FILE = Path(__file__).with_name("intents_tune.jsonl")
REQUIRED_ACCURACY = 0.95  # one wrong choice in twenty; a wrong choice costs the user one repeated message


@dataclass(frozen=True, slots=True)
class Routed:
    """A labelled text and the task that the router chose for it."""

    text: str
    task: str
    chosen: str

    @property
    def is_right(self) -> bool:
        """Whether the router chose the labelled task."""
        return self.chosen == self.task


def read(file: Path) -> list[tuple[str, str]]:
    """The pairs of text and task in the file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return [(row["text"], row["task"]) for row in rows]


def route_all(assistant: Assistant, file: Path = TEST_FILE) -> list[Routed]:
    """Routes all texts of the file in the way of `Session.send`."""
    return [Routed(text, task, assistant.router.route(Message.of(text)).task.name) for text, task in read(file)]


def main() -> None:
    """Prints the accuracy and the errors. Exits with 1 if the accuracy is too low."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else TEST_FILE
    with tempfile.TemporaryDirectory() as data_dir, Assistant(data_dir=Path(data_dir)) as assistant:
        routed = route_all(assistant, file)
    figures: dict[str, float | int] = {"n": len(routed)}
    for task in sorted({row.task for row in routed}):
        of_task = [row for row in routed if row.task == task]
        figures[task] = round(sum(row.is_right for row in of_task) / len(of_task), 4)
        print(f"{task:20} {figures[task]:7.1%} of {len(of_task)}")
    figures["accuracy"] = round(sum(row.is_right for row in routed) / len(routed), 4)
    print(f"{'all':20} {figures['accuracy']:7.1%} of {len(routed)}   (at least {REQUIRED_ACCURACY:.0%})")
    for row in routed:
        if not row.is_right:
            print(f"  {row.task} taken as {row.chosen}: {row.text}")
    print(json.dumps({"bench": "intents", "file": file.name, **figures}))
    if figures["accuracy"] < REQUIRED_ACCURACY:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
