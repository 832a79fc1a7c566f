"""Who is told what: `python -m bench.audiences [--people N] [--learn [--small]]`.

Each of twenty people teaches ten things for that person alone: five answers, two pictures, one spoken word, two films.
All teach the same questions, pictures and sentences with different answers. Then everybody, a stranger and somebody
without a name ask all of it, the questions in three wordings. Wanted: nobody is told what somebody else taught, and the
owners are told theirs at the next turn.

With `--learn` every task runs a cycle for everyone afterwards, and dialogue one for each person. Then the questions are
asked again without the memory, so that weights alone answer, and the owners are told theirs by their own weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.data import imagenet_photos, spoken
from bench.facts import QWEN, SMALL, opened
from bench.teach_speech import WORDS
from smallai_assistant import (
    Assistant,
    Feedback,
    ImagePart,
    Interaction,
    Item,
    ItemPart,
    LabelPart,
    errors,
)
from smallai_assistant.learning.learner import CycleOptions
from smallai_assistant.types import AudioPart

PEOPLE = (
    "ann", "bob", "cem", "dora", "emil", "fay", "gus", "hana", "ivo", "jun",
    "kim", "lars", "mia", "noor", "otto", "pia", "quinn", "rosa", "sven", "tara",
)  # fmt: skip
QUESTIONS = (
    ("What is the code of my locker?", "Which code does my locker have?", "Tell me the code of my locker."),
    ("Where did I park the car?", "Where is the car that I parked?", "In which place did I park the car?"),
    ("What is the name of my boat?", "How is my boat called?", "Tell me the name of my boat."),
    ("Who is my dentist?", "What is the name of my dentist?", "Which dentist do I go to?"),
    ("When is my piano lesson?", "At what time do I have the piano lesson?", "Tell me when my piano lesson is."),
)
SENTENCE = "I would like to know more about {} before we make a decision."
MIN_OWN, MIN_OWN_BY_WEIGHTS = 0.97, 0.90
TEXT = "text-generation"
N_FILMS, N_LIKED = 60, 2


@dataclass
class Tally:
    """Counts of one task."""

    n_own: int = 0
    n_own_right: int = 0
    n_other: int = 0
    told: list[str] = field(default_factory=list)

    def own(self, is_right: bool) -> None:
        """Counts a question of somebody about what that person taught."""
        self.n_own += 1
        self.n_own_right += is_right

    def others(self, answer: str, secrets: list[str], asked: str) -> None:
        """Counts the secrets of others that an answer might have told."""
        self.n_other += len(secrets)
        self.told += [f"{asked}: {secret}" for secret in secrets if secret.casefold() in answer.casefold()]


def secret_of(person: str, number: int) -> str:
    """An answer that no model gives by chance."""
    place = PEOPLE.index(person)
    return f"{WORDS[(place * 7 + number) % len(WORDS)]} {100 + place * 5 + number}"


def text(assistant: Assistant, people: list[str]) -> Tally:
    """Corrected answers."""
    for person in people:
        for number, wordings in enumerate(QUESTIONS):
            response = assistant.ask(wordings[0], task=TEXT, user_id=person, options={"max_tokens": 1})
            response.rate(correction=f"{secret_of(person, number)}.")
    return asked(assistant, people)


def weights(assistant: Assistant, people: list[str]) -> Tally:
    """Corrected answers in the weights of each person, after a cycle for everyone in each task."""
    for task in assistant.tasks:
        try:
            print(f"  {task}, for everyone: {assistant.learn(task).outcome}", flush=True)
        except errors.LearningError as error:
            print(f"  {task}, for everyone: {error}", flush=True)
    for person in people:
        report = assistant.learn(TEXT, options=CycleOptions(audience=f"user:{person}"))
        print(f"  {person}: {report.outcome} after {report.seconds:.0f} s", flush=True)
    return asked(assistant, people, use_memory=False)


def asked(assistant: Assistant, people: list[str], **options: bool) -> Tally:
    """Asks everybody's questions as everybody."""
    tally = Tally()
    for person in [*people, "stranger", None]:
        for number, wordings in enumerate(QUESTIONS):
            others = [secret_of(other, number) for other in people if other != person]
            for wording in wordings:
                response = assistant.ask(wording, task=TEXT, user_id=person, options={"max_tokens": 20, **options})
                answer = response.text
                tally.others(answer, others, f"{person}, {wording}")
                if person in people:
                    tally.own(secret_of(str(person), number).casefold() in answer.casefold())
    return tally


def pictures(assistant: Assistant, people: list[str]) -> Tally:
    """Taught labels of the same two photos."""
    tally = Tally()
    photos = [ImagePart(path) for path, _ in imagenet_photos()[:2]]
    for person in people:
        for number, photo in enumerate(photos):
            label = f"thing {secret_of(person, number)}"
            assistant.teach("image-classification", photo, label, source=person, audience="user")
    for person in [*people, "stranger", None]:
        for number, photo in enumerate(photos):
            response = assistant.ask(photo, user_id=person, options={"top": 1000})
            labels = [part.label for part in response.parts if isinstance(part, LabelPart)]
            others = [f"thing {secret_of(other, number)}" for other in people if other != person]
            tally.others("\n".join(labels), others, f"{person}, photo {number}")
            if person in people:
                tally.own(labels[0] == f"thing {secret_of(str(person), number)}")
    return tally


def speech(assistant: Assistant, people: list[str]) -> Tally:
    """An invented word in a corrected sentence; the next person asks about it, too."""
    tally = Tally()
    recordings = {person: AudioPart(data=spoken(SENTENCE.format(word))) for person, word in _words(people)}
    for person, word in _words(people):
        response = assistant.ask(recordings[person], user_id=person)
        response.rate(correction=SENTENCE.format(word))
    known = dict(_words(people))
    for place, person in enumerate(people):
        word = known[person]
        tally.own(word.casefold() in assistant.ask(recordings[person], user_id=person).text.casefold())
        for other in (people[(place + 1) % len(people)], "stranger"):
            bare = assistant.ask(recordings[person], user_id=other, options={"use_memory": False}).text
            heard = assistant.ask(recordings[person], user_id=other).text
            # The bare model may spell an invented word right by itself.
            tally.others(heard, [word] if word.casefold() not in bare.casefold() else [], f"{other}, {word}")
    return tally


def films(assistant: Assistant, people: list[str]) -> Tally:
    """Clicks: the recommendations of everybody else stay what they were."""
    tally = Tally()
    assistant.items.add_items(Item(f"film {n}", f"Film {n}") for n in range(N_FILMS))
    rows = [Interaction(f"viewer {n % 12}", f"film {n * 7 % N_FILMS}", at=float(n)) for n in range(240)]
    assistant.items.add_interactions(rows)
    before = {person: _recommended(assistant, person) for person in [*people, "stranger", None]}
    for place, person in enumerate(people):
        for number in range(N_LIKED):
            turn = assistant.ask("anything", task="recommendation", user_id=person).turn
            # The same film is never chosen by three people: then it may count for others.
            film = f"film {(place * N_LIKED + number) % N_FILMS}"
            assistant.give_feedback(Feedback(turn.id, signal="click", item=film, source=person))
            tally.own(film not in _recommended(assistant, person)[:10])  # it is known as seen
    for person in ("stranger", None):
        now = _recommended(assistant, person)
        tally.n_other += len(people) * N_LIKED
        if now != before[person]:
            tally.told.append(f"{person}: other recommendations than before")
    return tally


def _words(people: list[str]) -> Iterator[tuple[str, str]]:
    return zip(people, WORDS, strict=False)


def _recommended(assistant: Assistant, person: str | None) -> list[str]:
    response = assistant.ask("anything", task="recommendation", user_id=person, options={"k": 50})
    return [part.id for part in response.parts if isinstance(part, ItemPart)]


def main() -> int:
    """Prints a line for each task and a JSON line. Returns 1 if anybody was told or too few owners were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=len(PEOPLE), choices=range(2, len(PEOPLE) + 1), metavar="N")
    parser.add_argument("--learn", action="store_true", help="put what was taught into weights, too")
    parser.add_argument("--small", action="store_true", help="SmolLM2-135M instead of Qwen 0.5B")
    args = parser.parse_args()
    people = list(PEOPLE[: args.people])
    tallies = {}
    runs = [("text", text), ("pictures", pictures), ("speech", speech), ("recommendations", films)]
    runs += [("weights", weights)] if args.learn else []
    with opened(SMALL if args.small else QWEN) as (assistant, _):
        for name, run in runs:
            tally = tallies[name] = run(assistant, people)
            share = tally.n_own_right / max(1, tally.n_own)
            print(f"{name}: told to others {len(tally.told)} of {tally.n_other:,}, to their owners {share:.1%}")
            for line in tally.told[:5]:
                print(f"  {line}")
    by_weights = tallies.pop("weights", Tally())
    n_told = len(by_weights.told) + sum(len(tally.told) for tally in tallies.values())
    right, n_own = (sum(getattr(t, name) for t in tallies.values()) for name in ("n_own_right", "n_own"))
    own = right / n_own
    n_other = sum(tally.n_other for tally in (*tallies.values(), by_weights))
    figures = {"told": n_told, "n_other": n_other, "own": own, "n_own": n_own}
    figures |= {f"own_{name}": tally.n_own_right / max(1, tally.n_own) for name, tally in tallies.items()}
    is_enough = own >= MIN_OWN
    if args.learn:
        figures["own_by_weights"] = by_weights.n_own_right / by_weights.n_own
        is_enough &= figures["own_by_weights"] >= MIN_OWN_BY_WEIGHTS
    print(json.dumps(figures))
    return int(bool(n_told) or not is_enough)


if __name__ == "__main__":
    sys.exit(main())
