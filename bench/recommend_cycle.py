"""Learning cycles after a big import of MovieLens 100K: `python -m bench recommend_cycle [--clicks N ...]`.

All ratings are sorted by time and then by the order of the file; every rating counts as a choice, whatever its stars.

The gate: the first 90 % are imported, the last 10 % come as clicks for everyone, and a cycle learns. It trains on the
first three quarters of the clicks, and the last quarter judges. It must end with `promoted` or `nothing_new`.
`--clicks` also gives the first N clicks only, once for each N.

The future: the first 80 % are imported, the next 10 % come as clicks, and a cycle learns. What serves then, and what
served before, predict each choice of the last 10 %, which neither the cycle nor its gate has seen: NDCG@10 of the film
that was chosen, all films ranked that the user has not had. Histories grow with each choice on both sides. What serves
then must not be worse by the mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from bench.recommend import MESSAGE, TASK, read_films, read_log
from bench.replay_recommend import assistant_with
from smallai_assistant import Assistant, Feedback, Interaction, LearningTask
from smallai_assistant.learning.evaluation import compare
from smallai_assistant.learning.report import CycleReport

LAST = 0.1
GOOD = ("promoted", "nothing_new")


def by_time() -> list[Interaction]:
    """All ratings as choices, oldest first; ties keep the order of the file."""
    return sorted(read_log(), key=lambda row: row.at)


@contextmanager
def imported(known: Sequence[Interaction]) -> Iterator[Assistant]:
    """An assistant that knows the catalogue and these choices, and has read all texts."""
    with assistant_with(read_films(), known) as assistant:
        while any(notice.code == "text_partial" for notice in assistant.ask("a western", task=TASK).notices):
            pass
        yield assistant


def give(assistant: Assistant, clicks: Sequence[Interaction], *, first: int = 0) -> None:
    """Stores the choices as clicks for everyone. The ids order clicks of the same second."""
    users = dict.fromkeys(click.user for click in clicks)
    turns = {user: assistant.ask(MESSAGE, task=TASK, user_id=user).turn.id for user in users}
    assistant.feedback.add_all(
        [
            Feedback(
                turns[click.user],
                signal="click",
                item=click.item,
                source=click.user,
                audience="everyone",
                created_at=datetime.fromtimestamp(click.at, UTC),
                id=f"{first + number:06}",
            )
            for number, click in enumerate(clicks)
        ]
    )


def learn(assistant: Assistant) -> CycleReport:
    """Runs a cycle, with its progress on stderr."""
    return assistant.learn(TASK, on_progress=lambda what, share: print(f"  {share:4.0%} {what}", file=sys.stderr))


def measure_gate(log: Sequence[Interaction], n_clicks: int) -> dict[str, object]:
    """One cycle after the import of 90 %."""
    n_known = round((1 - LAST) * len(log))
    clicks = log[n_known : n_known + n_clicks]
    with imported(log[:n_known]) as assistant:
        give(assistant, clicks)
        report = learn(assistant)
    print(f"{n_known:,} imported, {len(clicks):,} clicks: {report.outcome}, {report.seconds:.0f} s")
    for reason in report.reasons:
        print(f"  {reason}")
    return {
        "n_imported": n_known,
        "n_clicks": len(clicks),
        "outcome": report.outcome,
        "seconds": round(report.seconds, 1),
        "slices": {
            part.name: [round(number, 4) for number in (part.before, part.after, part.low, part.high)]
            for part in report.slices
        },
    }


def measure_future(log: Sequence[Interaction]) -> dict[str, object]:
    """A cycle over 90 %, of which the last ninth came as clicks; the rest of the log judges."""
    n_imported, n_known = round((1 - 2 * LAST) * len(log)), round((1 - LAST) * len(log))
    with imported(log[:n_imported]) as assistant:
        give(assistant, log[n_imported:n_known])
        report = learn(assistant)
        give(assistant, log[n_known:], first=n_known)
        task = assistant.tasks[TASK]
        assert isinstance(task, LearningTask)
        rows = assistant.feedback.judged_turns(TASK)
        begin = f"{n_known:06}"
        later = [example for example in task.examples(rows) if min(example.feedback_ids) >= begin]
        before = task.evaluate(later, None, assistant.models)
        after = task.evaluate(later, assistant.adapters.champion(TASK), assistant.models)
    found = compare("the future", "target", before, after)
    print(f"{n_imported:,} imported, {n_known - n_imported:,} clicks: {report.outcome}, {report.seconds:.0f} s")
    for reason in report.reasons:
        print(f"  {reason}")
    print(f"  the {len(later):,} choices after it: NDCG@10 {found.before:.4f} frozen, {found.after:.4f} with it, "
          f"change {found.change:+.4f} ({found.low:+.4f} to {found.high:+.4f})")  # fmt: skip
    return {
        "n_imported": n_imported,
        "n_clicks": n_known - n_imported,
        "outcome": report.outcome,
        "n_later": len(later),
        "frozen_ndcg": round(found.before, 4),
        "ndcg": round(found.after, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "is_worse": found.change < 0,
    }


def main() -> int:
    """Prints the figures and the JSON line. Returns 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, nargs="+", default=[], metavar="N", help="also give the first N clicks")
    args = parser.parse_args()
    log = by_time()
    gates = [measure_gate(log, n) for n in (*args.clicks, round(LAST * len(log)))]
    future = measure_future(log)
    print(json.dumps({"bench": "recommend_cycle", "gates": gates, "future": future}))
    is_good = all(found["outcome"] in GOOD for found in (*gates, future))
    return 0 if is_good and not future["is_worse"] else 1


if __name__ == "__main__":
    sys.exit(main())
