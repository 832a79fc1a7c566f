"""MovieLens 100K as a stream: `python -m bench.replay_recommend [--plot] [--events N] [--cycle]`.

The first 90 % of the ratings, by time and then by the order of the file, are imported. The last 10 % come one after
the other, each as a click for everyone, whatever its stars. First the catalogue is ranked for the user, without what
the user has had, and the click's film is scored (NDCG@10: 1 / log2(1 + place), 0 beyond place 10); then the click is
learned. `frozen` is the same plugin that knows the first 90 % and learns nothing. Most of the last ratings are by users
who came later, so it can only offer them what is popular. Plain EASE (ridge 500), frozen as well, is measured for
comparison.

The bench drives the plugin's index and fast memory directly. The cost of an update is also measured through
`Assistant.give_feedback`, with the database. Poison: before the stream, 1 to 10 % fake users push a film by clicks.

`--cycle` also runs a learning cycle over the very first 5,000 clicks, with nothing imported. The newest quarter of them
judges, without the fast memory. The gate must approve it. Cycles after an import are measured by `recommend_cycle`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from math import log2
from pathlib import Path

import numpy as np

from bench.recommend import MESSAGE, TASK, K, read_films, read_log
from smallai_assistant import Assistant, Feedback, Interaction, Item, JudgedTurn, Message, TextPart, Turn
from smallai_recommend.index import Index
from smallai_recommend.interactions import InteractionStats, choice_of
from smallai_recommend.memory import FeedbackMemory
from smallai_recommend.ranking import rank
from smallai_recommend.signals import CatalogueItem
from smallai_recommend.snapshot import Snapshot

SHARE_KNOWN = 0.9
# Slightly below the figures in docs/benchmarks.md. An update happens while a user waits for the next page.
MIN_NDCG, MIN_RATIO, MAX_UPDATE_MS = 0.116, 3.2, 5.0
PLAIN_RIDGE = 500.0
N_THROUGH_ASSISTANT = 200  # events through the database, whose commit takes most of the time
FAKE_SHARES, PUSHED = (0.01, 0.02, 0.05, 0.1), "1138"  # shares of the users; a film with five ratings
MAX_PUSHED_LISTS = 0.01  # share of real users whose list may contain the pushed film
N_CYCLE = 5_000
N_MARKS, WIDTH = 20, 50  # of the plot: lines, and characters of the longest bar


@dataclass(frozen=True, slots=True)
class Played:
    """One run over the stream.

    Attributes:
        gains: NDCG@10 of each event.
        update_s: seconds of each update.
    """

    gains: list[float]
    update_s: list[float]

    @property
    def ndcg(self) -> float:
        """The mean NDCG@10."""
        return statistics.mean(self.gains)


def parted() -> tuple[list[Interaction], list[Interaction]]:
    """The imported interactions, and the stream."""
    log = sorted(read_log(), key=lambda row: row.at)  # stable: ties keep the order of the file
    n_known = round(SHARE_KNOWN * len(log))
    return log[:n_known], log[n_known:]


def opened(films: Sequence[Item], known: Sequence[Interaction]) -> tuple[Index, FeedbackMemory]:
    """The plugin's index over the imported interactions, with weights, and an empty fast memory."""
    by_id = {film.id: CatalogueItem(film.id, film.title) for film in films}
    memory = FeedbackMemory(by_id.get)
    index = Index(memory)
    index.load(films, InteractionStats.of(known), max_dense_items=10_000)
    _ = index.snapshot().model  # computes the weights, so that the first event does not pay for it
    return index, memory


def click(user: str, item: str, at: float, *, number: int) -> JudgedTurn:
    """A user asked for something and clicked a film.

    Args:
        number: becomes the feedback's id: clicks of the same second keep the order of the stream.
    """
    when = datetime.fromtimestamp(at, UTC)
    turn = Turn(f"{user} {item} {at}", user, user, TASK, Message((TextPart(MESSAGE),)), (), when)
    feedback_id = f"{number:06}"
    given = Feedback(
        turn.id, signal="click", item=item, source=user, created_at=when, task=TASK, id=feedback_id, audience="everyone"
    )
    return JudgedTurn(given, turn)


def gain(snapshot: Snapshot, user: str, item: str) -> float:
    """NDCG@10 of one click."""
    order = rank(snapshot, user).order[:K].tolist()
    wanted = snapshot.stats.find(item)
    return 1.0 / log2(2 + order.index(wanted)) if wanted in order else 0.0


def play(films: Sequence[Item], known: Sequence[Interaction], stream: Sequence[Interaction], *, learn: bool) -> Played:
    """Ranks for the user of each event; then, if `learn`, learns the event."""
    index, memory = opened(films, known)
    played = Played([], [])
    for number, event in enumerate(stream, 1):
        played.gains.append(gain(index.snapshot(), event.user, event.item))
        if learn:
            judged_turn = click(event.user, event.item, event.at, number=number)
            begun = time.perf_counter()
            memory.add(judged_turn)
            if not index.take_feedback():
                raise RuntimeError(f"event {number} was not taken in")
            played.update_s.append(time.perf_counter() - begun)
        if number % 500 == 0:
            print(f"\r  {number} of {len(stream)} events", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return played


def play_plain_ease(films: Sequence[Item], known: Sequence[Interaction], stream: Sequence[Interaction]) -> float:
    """EASE (Steck 2019) on the first 90 %, frozen: histories do not grow either. Returns the mean NDCG@10."""
    stats = InteractionStats.of(known)
    for film in films:
        stats.index_of(film.id)
    users = np.zeros((len(stats.users), stats.n_items), dtype=np.float32)
    row = {user: number for number, user in enumerate(stats.users)}
    for user, history in stats.users.items():
        users[row[user], history.items] = 1.0
    inverse = np.linalg.inv((users.T @ users).astype(np.float64) + PLAIN_RIDGE * np.eye(stats.n_items))
    weights = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    scores = users @ weights.astype(np.float32)
    scores[users > 0] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    popular = np.argsort(-stats.popularity, kind="stable")[:K]
    gains = []
    for event in stream:
        order = (best[row[event.user]] if event.user in row else popular).tolist()
        wanted = stats.index_of(event.item)
        gains.append(1.0 / log2(2 + order.index(wanted)) if wanted in order else 0.0)
    return statistics.mean(gains)


@contextmanager
def assistant_with(films: Sequence[Item], known: Sequence[Interaction]) -> Iterator[Assistant]:
    """An assistant that knows these and has answered once, so that its weights are computed."""
    with tempfile.TemporaryDirectory() as folder, Assistant(data_dir=Path(folder)) as assistant:
        assistant.items.add_items(films)
        assistant.items.add_interactions(known)
        assistant.ask(MESSAGE, task=TASK, user_id=known[0].user if known else None).text  # noqa: B018  (reading makes the answer)
        yield assistant


def time_through_assistant(assistant: Assistant, stream: Sequence[Interaction]) -> tuple[float, float]:
    """Median milliseconds of `Assistant.give_feedback`, including the commit, and of the task's part of it."""
    turn = assistant.ask(MESSAGE, task=TASK, user_id=stream[0].user).turn
    task = assistant.tasks[TASK]
    whole, own = [], []
    inner = task.learn_now  # type: ignore[attr-defined]

    def timed(judged_turn: JudgedTurn) -> str:
        begun = time.perf_counter()
        effect: str = inner(judged_turn)
        own.append(time.perf_counter() - begun)
        return effect

    task.learn_now = timed  # type: ignore[attr-defined]
    for event in stream:
        given = Feedback(turn.id, signal="click", item=event.item, created_at=datetime.fromtimestamp(event.at, UTC))
        begun = time.perf_counter()
        receipt = assistant.give_feedback(given)
        whole.append(time.perf_counter() - begun)
        if receipt.notices or "more from now on" not in receipt.effect:
            raise RuntimeError(f"not learned: {receipt}")
    task.learn_now = inner  # type: ignore[attr-defined]
    return statistics.median(whole) * 1e3, statistics.median(own) * 1e3


def poison(films: Sequence[Item], known: Sequence[Interaction]) -> dict[str, object]:
    """Lets fake users click one film, alone or among popular ones, and counts the real lists that it reaches."""
    figures: dict[str, object] = {}
    clean, _ = opened(films, known)
    real = list(clean.stats.users)[::5]
    popular = [clean.stats.item_ids[item] for item in np.argsort(-clean.stats.popularity)[:100]]
    end = known[-1].at
    for share, kind in product(FAKE_SHARES, ("once", "three times", "among 20 popular ones")):
        n_fake = round(share * len(clean.stats.users))
        index, memory = opened(films, known)
        random = np.random.default_rng(0)
        heard = _LogLines()
        logging.getLogger("smallai_recommend").addHandler(heard)
        n_clicks = 0
        for number in range(n_fake):
            chosen = {"once": [PUSHED], "three times": [PUSHED] * 3}.get(
                kind, [*random.choice(popular, 20, replace=False).tolist(), PUSHED]
            )
            for second, item in enumerate(chosen):
                n_clicks += 1
                memory.add(click(f"fake{number}", item, end + 1 + second, number=n_clicks))
                if not index.take_feedback():  # the fake users have just been set aside
                    index.rebuild([choice_of(row) for row in known])
        logging.getLogger("smallai_recommend").removeHandler(heard)
        item = index.stats.index_of(PUSHED)
        snapshot = index.snapshot()
        reached = statistics.mean(item in rank(snapshot, user).order[:K] for user in real)
        figures[f"{share:.0%} {kind}"] = {
            "n_fake": n_fake,
            "set_aside": len(memory.pushed().get(PUSHED, ())),
            "place_before": _popular_place(clean, PUSHED),
            "place_after": _popular_place(index, PUSHED),
            "lists_reached": round(reached, 4),
            "in_list_for_nobody": item in rank(snapshot, None).order[:K],
            "n_log_lines": len(heard.lines),
        }
    return figures


class _LogLines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _popular_place(index: Index, item: str) -> int:
    popularity = index.stats.popularity
    return 1 + int((popularity > popularity[index.stats.index_of(item)]).sum())


def measure_cycle(
    films: Sequence[Item], known: Sequence[Interaction], clicks: Sequence[Interaction]
) -> dict[str, object]:
    """Runs one learning cycle over these clicks through the assistant."""
    with assistant_with(films, known) as assistant:
        while any(notice.code == "text_partial" for notice in assistant.ask("a western", task=TASK).notices):
            pass
        turns = {
            user: assistant.ask(MESSAGE, task=TASK, user_id=user).turn.id
            for user in dict.fromkeys(click.user for click in clicks)
        }
        given = [
            Feedback(turns[click.user], signal="click", item=click.item, source=click.user, audience="everyone",
                     created_at=datetime.fromtimestamp(click.at, UTC), id=f"{number:06}")
            for number, click in enumerate(clicks)  # the id orders clicks of the same second
        ]  # fmt: skip
        assistant.feedback.add_all(given)
        begun = time.perf_counter()
        report = assistant.learn(TASK, on_progress=lambda what, share: print(f"  {share:4.0%} {what}", file=sys.stderr))
        seconds = time.perf_counter() - begun
    print(f"a cycle over {len(clicks):,} clicks after {len(known):,} imported ratings, {seconds:.0f} s")
    for reason in report.reasons:
        print(f"  {reason}")
    return {
        "n_imported": len(known),
        "n_clicks": len(clicks),
        "is_approved": report.is_approved,
        "seconds": round(seconds, 1),
        "slices": {part.name: [round(part.before, 4), round(part.after, 4)] for part in report.slices},
    }


def plot(learning: Sequence[float], frozen: Sequence[float]) -> str:
    """Draws the running means as bars of text, one line per twentieth of the stream."""
    lines = [f"{'events':>7}  running mean of NDCG@10: # learning, - frozen"]
    top = max(np.cumsum(learning)[99:] / np.arange(100, len(learning) + 1), default=1.0) if len(learning) > 100 else 1.0
    for mark in range(1, N_MARKS + 1):
        n = max(1, mark * len(learning) // N_MARKS)
        means = statistics.mean(learning[:n]), statistics.mean(frozen[:n])
        long, short = (round(WIDTH * min(1.0, mean / top)) for mean in means)
        bar = "".join("-" if place < short else "#" if place < long else " " for place in range(WIDTH))
        lines.append(f"{n:7}  {bar}  {means[0]:.4f}  {means[1]:.4f}")
    return "\n".join(lines)


def main() -> int:
    """Prints the figures beside their limits, and the JSON line. Returns 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", action="store_true", help="draw the running means")
    parser.add_argument("--events", type=int, metavar="N", help="replay only the first N events of the stream")
    parser.add_argument("--cycle", action="store_true", help="also run a learning cycle")
    args = parser.parse_args()
    films = read_films()
    known, stream = parted()
    stream = stream[: args.events]
    learning = play(films, known, stream, learn=True)
    frozen = play(films, known, stream, learn=False)
    plain = play_plain_ease(films, known, stream)
    with assistant_with(films, known) as assistant:
        give_ms, task_ms = time_through_assistant(assistant, stream[:N_THROUGH_ASSISTANT])
    update_ms = statistics.median(learning.update_s) * 1e3
    ratio = learning.ndcg / frozen.ndcg
    print(f"{len(stream):,} events after {len(known):,} known ones        NDCG@10")
    print(f"{'  learning at once':44} {learning.ndcg:.4f}   (at least {MIN_NDCG})")
    print(f"{'  frozen':44} {frozen.ndcg:.4f}   ratio {ratio:.2f} (at least {MIN_RATIO})")
    print(f"{'  frozen plain EASE':44} {plain:.4f}   ratio {learning.ndcg / plain:.2f}")
    print(f"an update: {update_ms:.2f} ms in the plugin, {task_ms:.2f} ms of give_feedback's {give_ms:.2f} ms with the "
          f"database, medians (at most {MAX_UPDATE_MS:g} ms)")  # fmt: skip
    if args.plot:
        print(plot(learning.gains, frozen.gains))
    poisoned = poison(films, known)
    for kind, found in poisoned.items():
        print(f"poison, {kind}: {found}")
    figures: dict[str, object] = {
        "bench": "replay_recommend",
        "n_events": len(stream),
        "ndcg": round(learning.ndcg, 4),
        "frozen_ndcg": round(frozen.ndcg, 4),
        "plain_ease_ndcg": round(plain, 4),
        "ratio": round(ratio, 2),
        "update_ms": round(update_ms, 3),
        "learn_now_ms": round(task_ms, 3),
        "give_feedback_ms": round(give_ms, 2),
        "poison": poisoned,
    }
    is_learned = True
    if args.cycle:
        cycle = figures["cycle"] = measure_cycle(films, [], known[:N_CYCLE])
        is_learned = bool(cycle["is_approved"])
    print(json.dumps(figures))
    is_bounded = all(
        isinstance(found, dict) and found["lists_reached"] <= MAX_PUSHED_LISTS and not found["in_list_for_nobody"]
        for found in poisoned.values()
    )
    is_good = learning.ndcg >= MIN_NDCG and ratio >= MIN_RATIO and max(update_ms, task_ms) <= MAX_UPDATE_MS
    return 0 if is_good and is_bounded and is_learned else 1


if __name__ == "__main__":
    sys.exit(main())
