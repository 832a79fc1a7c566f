"""A month of daily cycles: `python -m bench.month [--days N] [--seed S] [--tasks NAME ...]`.

Five people give forty feedbacks a day, generated with a seed: eight corrected answers, six thumbs, ten pictures of two
new kinds, four corrected recordings, twelve chosen films. Three in four are for everyone, the others for their giver
alone. Every evening each task runs a cycle. What a day taught to everyone is asked that evening, in other words, of
other pictures and in another voice, and again on the last evening: the mean change is the backward transfer (Lopez-Paz
and Ranzato 2017). Facts are asked of the weights alone, pictures and words of the assistant as it serves.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import canary
from bench.canary import by_weights
from bench.data import spoken
from bench.facts import fact_example
from bench.picture_families import calibration_families, report_families
from bench.recommend import read_films, read_log
from bench.style import FIRST_SENTENCE, questions
from bench.teach_speech import WORDS
from smallai_assistant import Assistant, Feedback, ImagePart, ItemPart, LabelPart, errors
from smallai_assistant.config import load_config
from smallai_assistant.learning.adapter_files import size_of
from smallai_assistant.types import AudioPart

TEXT, PICTURE, SPEECH, FILMS = (
    "text-generation",
    "image-classification",
    "automatic-speech-recognition",
    "recommendation",
)
TASKS = (TEXT, PICTURE, SPEECH, FILMS)
PEOPLE = ("ann", "bob", "cem", "dora", "emil")
N_FACTS, N_THUMBS, N_KINDS, N_SHOTS, N_ASKED, N_SENTENCES, N_CHOICES = 8, 6, 2, 5, 3, 4, 12
SHARE_FOR_EVERYONE = 0.75
THINGS = (
    "bakery", "library", "harbour", "museum", "garden", "theatre", "chess club", "print shop", "bridge", "market",
    "school kitchen", "observatory", "swimming pool", "archive", "bicycle workshop",
)  # fmt: skip
PLACES = (
    "Velmont", "Osterby", "Karrow", "Dunfell", "Tessaly", "Marnock", "Quillon", "Brevik", "Halden Bay", "Sorrel",
    "Upper Finch", "Lamerton", "Ilsford", "Corvane", "Pellworm", "Astrid",
)  # fmt: skip
NAMES = ("Mira", "Tobin", "Edda", "Jorun", "Silas", "Petra", "Anselm", "Vida", "Rufus", "Odile")
TAUGHT, ASKED = "We spoke about {} and the weather.", "Everybody was talking about {} last night."
MAX_SLOWER = 1.5  # the last evening's cycle, over that of the third
MAX_CANARY_DROP = 0.01
N_CANARY = 200


@dataclass
class Day:
    """What a day taught to everyone, and how much of it was known that evening.

    Attributes:
        asked: by task, what asks for it; each returns whether the assistant knows it.
        known: by task, the share that was known.
        seconds: by task, of the cycle.
        outcomes: by task.
    """

    asked: dict[str, list[Callable[[Assistant], float]]] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)


class Month:
    """Generates the feedback of each day.

    Args:
        seed: everything that is drawn depends on it.
    """

    def __init__(self, seed: int, tasks: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._tasks = tasks
        self._facts = [(thing, place) for thing in THINGS for place in PLACES]
        self._random.shuffle(self._facts)
        self._kinds: list[tuple[str, list[bytes]]] = []
        if PICTURE in tasks:
            families = {**calibration_families(), **report_families()}
            kinds = {kind: files for family in families.values() for kind, files in family.items()}
            self._kinds = [(k, list(f)) for k, f in sorted(kinds.items()) if len(f) >= N_SHOTS + N_ASKED]
            self._random.shuffle(self._kinds)

    def teach(self, assistant: Assistant, number: int) -> Day:
        """Gives the feedback of a day, the first being 0."""
        day = Day()
        givers = {TEXT: self._text, PICTURE: self._pictures, SPEECH: self._speech, FILMS: self._films}
        for task in self._tasks:
            day.asked[task] = []
            givers[task](assistant, number, day)
        return day

    def _giver(self) -> tuple[str, str]:
        """Draws a person and an audience."""
        is_for_everyone = self._random.random() < SHARE_FOR_EVERYONE
        return self._random.choice(PEOPLE), "everyone" if is_for_everyone else "user"

    def _text(self, assistant: Assistant, number: int, day: Day) -> None:
        for thing, place in self._facts[number * N_FACTS : (number + 1) * N_FACTS]:
            person, audience = self._giver()
            name = f"{self._random.choice(NAMES)} {self._random.choice(WORDS)}"
            question = f"Who looks after the {thing} in {place}?"
            asked = {"max_tokens": 24, "use_memory": False}
            response = assistant.ask(question, task=TEXT, user_id=person, options=asked)
            response.rate(correction=name, audience=audience)
            if audience == "everyone":
                day.asked[TEXT].append(_fact(f"Tell me who takes care of the {thing} of {place}.", name))
        for index in range(N_THUMBS):
            person, audience = self._giver()
            is_good = index % 2 == 0
            options: dict[str, Any] = {"max_tokens": 40, "use_memory": False, "stop": FIRST_SENTENCE if is_good else ()}
            question = self._random.choice(questions())
            assistant.ask(question, task=TEXT, user_id=person, options=options).rate(good=is_good, audience=audience)

    def _pictures(self, assistant: Assistant, number: int, day: Day) -> None:
        for index in range(number * N_KINDS, (number + 1) * N_KINDS):
            kind, files = self._kinds[index % len(self._kinds)]
            person, audience = self._giver()
            chosen = self._random.sample(files, N_SHOTS + N_ASKED)
            for data in chosen[:N_SHOTS]:
                assistant.teach(PICTURE, ImagePart(data=data), kind, source=person, audience=audience)
            if audience == "everyone":
                day.asked[PICTURE] += [_picture(data, kind) for data in chosen[N_SHOTS:]]

    def _speech(self, assistant: Assistant, number: int, day: Day) -> None:
        for index in range(N_SENTENCES):
            word = WORDS[(number * N_SENTENCES + index) % len(WORDS)]
            person, audience = self._giver()
            text = TAUGHT.format(word)
            assistant.ask(AudioPart(data=spoken(text)), user_id=person).rate(correction=text, audience=audience)
            if audience == "everyone":
                day.asked[SPEECH].append(_word(spoken(ASKED.format(word), "en-gb+f2"), word))

    def _films(self, assistant: Assistant, number: int, day: Day) -> None:
        del number, day
        for _ in range(N_CHOICES):
            person, audience = self._giver()
            response = assistant.ask("anything", task=FILMS, user_id=person)
            chosen = self._random.choice([part.id for part in response.parts if isinstance(part, ItemPart)])
            assistant.give_feedback(
                Feedback(response.turn.id, signal="click", item=chosen, source=person, audience=audience)
            )


def _fact(question: str, name: str) -> Callable[[Assistant], float]:
    def known(assistant: Assistant) -> float:
        champion = assistant.adapters.champion(TEXT)
        return by_weights(assistant, [fact_example(question, name)], champion)[0].value

    return known


def _picture(data: bytes, kind: str) -> Callable[[Assistant], float]:
    def known(assistant: Assistant) -> float:
        labels = [part.label for part in assistant.ask(ImagePart(data=data)).parts if isinstance(part, LabelPart)]
        return float(labels[:1] == [kind])

    return known


def _word(data: bytes, word: str) -> Callable[[Assistant], float]:
    return lambda assistant: float(word.casefold() in assistant.ask(AudioPart(data=data)).text.casefold())


def evening(assistant: Assistant, day: Day) -> None:
    """Runs the cycles of a day, and asks for what it taught."""
    for task in day.asked:
        begun = time.perf_counter()
        try:
            day.outcomes[task] = assistant.learn(task).outcome
        except errors.NotEnoughData:
            day.outcomes[task] = "not enough feedback"
        day.seconds[task] = time.perf_counter() - begun
    day.known = shares(assistant, day)


def shares(assistant: Assistant, day: Day) -> dict[str, float]:
    """Returns, by task, the share of what a day taught that the assistant knows now."""
    return {task: statistics.fmean(known(assistant) for known in every) for task, every in day.asked.items() if every}


def transfers(days: Sequence[Day], now: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns, by task, the mean change of what each day taught from its own evening to now, without the last day."""
    changes: dict[str, list[float]] = {}
    for day, found in zip(days[:-1], now[:-1], strict=True):
        for task, share in found.items():
            changes.setdefault(task, []).append(share - day.known[task])
    return {task: round(statistics.fmean(values), 4) for task, values in changes.items()}


def run(n_days: int, seed: int, tasks: Sequence[str]) -> dict[str, Any]:
    """Runs the month. Returns the figures."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with Assistant(data_dir=data, models_dir=load_config().models_dir) as assistant:
            if FILMS in tasks:
                assistant.items.add_items(read_films())
                assistant.items.add_interactions(read_log())
            month, days, sizes = Month(seed, tasks), [], []
            asks_canary = TEXT in tasks
            before = canary.ask(assistant, N_CANARY) if asks_canary else None
            for number in range(n_days):
                day = month.teach(assistant, number)
                evening(assistant, day)
                days.append(day)
                sizes.append(size_of(data))
                print(
                    f"day {number + 1}: {day.outcomes} {_rounded(day.known)} in {_rounded(day.seconds)} s, "
                    f"{sizes[-1] / 1e6:.0f} MB",
                    flush=True,
                )
            now = [shares(assistant, day) for day in days]
            after = canary.ask(assistant, N_CANARY) if asks_canary else None
    third = days[min(2, n_days - 1)]
    return {
        "bench": "month",
        "days": n_days,
        "seed": seed,
        "transfer": transfers(days, now),
        "canary_drop": round(canary.drop(before, after), 4) if before and after else None,
        "slower": {task: round(days[-1].seconds[task] / third.seconds[task], 2) for task in tasks},
        "n_promoted": {task: sum(day.outcomes[task] == "promoted" for day in days) for task in tasks},
        "megabytes": [round(size / 1e6) for size in sizes],
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def main() -> int:
    """Prints a line for each day and a JSON line. Returns 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    args = parser.parse_args()
    figures = run(args.days, args.seed, args.tasks)
    print(json.dumps(figures))
    is_met = (
        all(value >= 0 for value in figures["transfer"].values())
        and (figures["canary_drop"] or 0.0) <= MAX_CANARY_DROP
        and all(value <= MAX_SLOWER for value in figures["slower"].values())
    )
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
