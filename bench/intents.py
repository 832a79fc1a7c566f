"""How often the router finds what a text wants: `python -m bench.intents [FILE]`.

The file has one object a line, `{"text", "task"}`. `intents.jsonl` is the test set: nobody tunes anything on it, and
none of its texts is an example of a task. `intents_tune.jsonl` is for choosing the threshold and the examples.
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
REQUIRED_ACCURACY = 0.95


@dataclass(frozen=True, slots=True)
class Routed:
    """A labelled text and the task that the router chose for it."""

    text: str
    task: str
    chosen: str

    @property
    def is_right(self) -> bool:
        """Whether the choice is the label."""
        return self.chosen == self.task


def read(file: Path) -> list[tuple[str, str]]:
    """The file's pairs of text and task."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return [(row["text"], row["task"]) for row in rows]


def route_all(assistant: Assistant, file: Path = TEST_FILE) -> list[Routed]:
    """Routes every text of the file, as `Session.send` would."""
    return [Routed(text, task, assistant.router.route(Message.of(text)).task.name) for text, task in read(file)]


def main() -> None:
    """Prints accuracy and errors; exits 1 below the required accuracy."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else TEST_FILE
    with tempfile.TemporaryDirectory() as data_dir, Assistant(data_dir=Path(data_dir)) as assistant:
        routed = route_all(assistant, file)
    figures: dict[str, float | int] = {"n": len(routed)}
    for task in sorted({each.task for each in routed}):
        of_task = [each for each in routed if each.task == task]
        figures[task] = round(sum(each.is_right for each in of_task) / len(of_task), 4)
        print(f"{task:20} {figures[task]:7.1%} of {len(of_task)}")
    figures["accuracy"] = round(sum(each.is_right for each in routed) / len(routed), 4)
    print(f"{'all':20} {figures['accuracy']:7.1%} of {len(routed)}   (at least {REQUIRED_ACCURACY:.0%})")
    for each in routed:
        if not each.is_right:
            print(f"  {each.task} taken as {each.chosen}: {each.text}")
    print(json.dumps({"bench": "intents", "file": file.name, **figures}))
    if figures["accuracy"] < REQUIRED_ACCURACY:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
