"""How long it takes to forget a person with 10,000 rows: `python -m bench.forget_user`.

Wanted: at most 5 s of processor time, and no byte of the person's texts left in the data directory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from smallai_assistant import Assistant, Feedback, Message, TextPart, Turn
from smallai_assistant.types import new_id, now

N_ROWS, MAX_S = 10_000, 5.0
TASK = "text-generation"


def main() -> int:
    """Prints the figures and a JSON line. Returns 1 if a figure is missed."""
    with tempfile.TemporaryDirectory() as folder:
        with Assistant(data_dir=Path(folder)) as assistant:
            session = assistant.session("ann").id
            turns = [
                Turn(
                    new_id(),
                    session,
                    "ann",
                    TASK,
                    Message((TextPart(f"SECRET question {n}"),)),
                    (TextPart("SECRET answer"),),
                    now(),
                )
                for n in range(N_ROWS)
            ]
            for turn in turns:
                assistant.store.add_turn(turn)
            assistant.store.flush()
            assistant.feedback.add_all(
                [Feedback(turn.id, correction=f"SECRET correction {n}", source="ann") for n, turn in enumerate(turns)]
            )
            begun, begun_cpu = time.perf_counter(), time.process_time()
            erased = assistant.forget_user("ann")
            took_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        left = [path.name for path in files if b"SECRET" in path.read_bytes()]
    print(f"{len(erased.feedback_ids):,} rows forgotten in {took_s:.2f} s, {cpu_s:.2f} s of them computing")
    print(f"files that still hold a text: {left or 'none'}")
    print(json.dumps({"n": len(erased.feedback_ids), "took_s": took_s, "cpu_s": cpu_s, "left": left}))
    return int(bool(left) or cpu_s > MAX_S or len(erased.feedback_ids) != N_ROWS)


if __name__ == "__main__":
    sys.exit(main())
