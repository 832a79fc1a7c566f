"""A text cycle over a hundred rows of feedback while somebody chats: `python -m bench.learn_while_chatting [--qwen]`.

Thirty corrections and seventy thumbs are given; then the cycle runs in the background while somebody asks something
every few seconds. All turns make the same number of tokens. The slowdown is the median time of a turn during the cycle,
divided by the median time of such turns in the same process before the cycle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from typing import Any

from bench.canary import TASK
from bench.facts import QWEN, SMALL, Wanted, facts, opened
from bench.style import FIRST_SENTENCE, questions
from smallai_assistant import Assistant, errors
from smallai_assistant.learning.learner import CycleOptions

N_THUMBS, N_BEFORE, N_TOKENS = 70, 12, 24
PAUSE_S = 5.0  # between two questions, as somebody who reads the answer
# Options of a measured turn. The fast memory is off, because its examples would make prompts of different length.
ASKED = {"max_tokens": N_TOKENS, "use_memory": False, "repetition_penalty": 1.0}


def collect(assistant: Assistant) -> int:
    """Gives the feedback. Returns the number of rows."""
    for fact in facts():
        assistant.ask(fact["question"], task=TASK, options=ASKED).rate(correction=fact["answer"])
    for number, question in enumerate(questions()[:N_THUMBS]):
        is_good = number % 2 == 1
        # The praised answers are short, so that there is a style to learn.
        options = {"max_tokens": 40, "use_memory": False, "stop": FIRST_SENTENCE if is_good else ()}
        assistant.ask(question, task=TASK, options=options).rate(good=is_good)
    return len(facts()) + N_THUMBS


def turn(assistant: Assistant, number: int) -> tuple[float, float]:
    """Asks a question. Returns the seconds to the first piece of the answer and to its end."""
    begun = time.perf_counter()
    first = 0.0
    question = f"Write a long story about {questions()[N_THUMBS + number % 30].split()[-1]}"
    for _ in assistant.session().send(question, task=TASK, options=ASKED):
        first = first or time.perf_counter() - begun
    return first, time.perf_counter() - begun


def run(wanted: Wanted, *, minutes: float | None) -> dict[str, Any]:
    """Returns the figures of a model.

    Args:
        minutes: limit of the training; None sets no limit.
    """
    # Times of the turns, by what the cycle did when they began.
    during: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    with opened(wanted) as (assistant, _):
        n_rows = collect(assistant)
        before = [turn(assistant, number) for number in range(N_BEFORE)]
        print(f"  {n_rows} rows; a turn of {N_TOKENS} tokens takes {median(before, 1):.2f} s alone", flush=True)
        options = CycleOptions(budget_s=None if minutes is None else 60 * minutes)
        begun, number = time.perf_counter(), 0
        job = assistant.learn_in_background(TASK, options)
        while job.is_running:
            what = job.what
            during[what].append(turn(assistant, number))
            number += 1
            time.sleep(PAUSE_S)
        try:
            report = job.result()
            outcome = report.outcome
            print("  " + report.summary().replace("\n", "\n  "), flush=True)
        except errors.AssistantError as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begun
    for what, rows in during.items():
        print(f"    {what:34} {len(rows):4} turns, first piece {median(rows, 0):.2f} s, whole {median(rows, 1):.2f} s")
    training = [row for what, rows in during.items() if what.startswith("learning") for row in rows]
    every = [row for rows in during.values() for row in rows]
    return {
        "model": wanted.name,
        "n_rows": n_rows,
        "outcome": outcome,
        "minutes": round(seconds / 60, 1),
        "turn_before_s": round(median(before, 1), 2),
        "turn_during_s": round(median(every, 1), 2),
        "slowdown_training": round(median(training, 1) / median(before, 1), 2),
        "slowdown": round(median(every, 1) / median(before, 1), 2),
        "slowest_s": round(max(whole for _, whole in every), 2),
        "first_before_s": round(median(before, 0), 2),
        "first_during_s": round(median(every, 0), 2),
    }


def median(rows: list[tuple[float, float]], place: int) -> float:
    """Returns the median of one of the two times; NaN if nothing was measured.

    Args:
        place: 0 for the first piece, 1 for the whole answer.
    """
    return statistics.median(row[place] for row in rows) if rows else float("nan")


def main() -> None:
    """Prints the figures and a JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--qwen", action="store_true", help="Qwen 0.5B instead of SmolLM2-135M")
    parser.add_argument("--minutes", type=float, help="limit of the training in minutes")
    args = parser.parse_args()
    figures = run(QWEN if args.qwen else SMALL, minutes=args.minutes)
    print(
        f"  {figures['n_rows']} rows in {figures['minutes']} minutes; chat {figures['slowdown']}x slower "
        f"({figures['slowdown_training']}x while training), slowest turn {figures['slowest_s']} s"
    )
    print(json.dumps({"bench": "learn_while_chatting", **figures}), flush=True)


if __name__ == "__main__":
    main()
