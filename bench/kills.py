"""kill -9 while feedback is stored, imported and while champions move: `python -m bench.kills [--n N]`.

A child works, prints what was acknowledged, and is killed at a random moment of its first three steps. Afterwards every
acknowledged row must be there and whole, an import must be there as a whole or not at all, and the champion must be a
version with intact files: the one before or the one after the move that was interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.killer import Killer, Say
from smallai_assistant import Assistant, Feedback, ImagePart, Message, Request, Task, TextPart, Turn, hookimpl
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.feedback_transfer import FeedbackTransfer
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.types import new_id, now

N_IMPORTED = 200  # rows of one import
_CHECK_EVERY = 50  # kills; a check reads every row
_KEPT_VERSIONS = 4  # older ones are removed, so that a kill also hits removals
TASK = "echo"


class Echo(Task):
    """Repeats the message."""

    name = TASK
    accepts = (frozenset({"text", "image"}),)

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        yield TextPart(request.message.text)


class EchoPlugin:
    """Registers the task."""

    @hookimpl
    def register_tasks(self, register: Callable[[Task], None]) -> None:
        register(Echo())


@dataclass(slots=True)
class Result:
    """The result of a series of kills.

    Attributes:
        n_cut: steps that were done or half done, and not acknowledged.
        step_s: duration of a step.
        seconds: duration of the series.
        broken: every broken promise, in words.
    """

    n_kills: int = 0
    n_acknowledged: int = 0
    n_cut: int = 0
    step_s: float = 0.0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    """A data directory and its database."""

    folder: Path
    url: str = ""

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Database, TurnStore]]:
        """Opens both, and closes them at the end."""
        database = Database(self.folder, self.url)
        turns = TurnStore(database, self.folder / "media")
        try:
            yield database, turns
        finally:
            turns.close()
            database.close()


# -- storing --


def picture_of(text: str) -> bytes:
    """Makes the bytes of a picture that belong to a text, 3,200 of them."""
    return hashlib.sha256(text.encode()).digest() * 100


def store_feedback(place: Place, number: int, say: Say) -> None:
    """Asks and corrects through the assistant until it is killed."""
    assistant = Assistant(
        data_dir=place.folder,
        models_dir=place.folder / "models",
        database_url=place.url,
        plugins=[EchoPlugin()],
        disabled_plugins=("chat", "image", "speech", "recommend"),
        device="cpu",
    )
    session = assistant.session("ann")
    say("ready")
    for n in range(10**9):  # the key of each feedback holds its number
        text = f"{number}-{n}"
        turn = session.send([text, ImagePart(data=picture_of(text))], task=TASK).turn
        receipt = assistant.give_feedback(Feedback(turn.id, correction=text, key=text))
        say(f"{turn.id} {receipt.feedback.id} {text}")


def lost_rows(place: Place, acknowledged: list[list[str]]) -> list[str]:
    """Returns the acknowledged rows that are missing or not as they were given.

    Args:
        acknowledged: turn id, feedback id and text of each row.
    """
    lost = []
    with place.open() as (database, turns):
        store = FeedbackStore(database, turns)
        judged_turns = {judged_turn.feedback.id: judged_turn for judged_turn in store.judged_turns(TASK)}
        for turn_id, feedback_id, text in acknowledged:
            judged_turn = judged_turns.get(feedback_id)
            if judged_turn is None or judged_turn.turn.id != turn_id or judged_turn.feedback.correction != text:
                lost.append(f"feedback {text}")
                continue
            picture = judged_turn.turn.request.parts[-1]
            if judged_turn.turn.request.text != text or judged_turn.turn.text != text:
                lost.append(f"turn {text}")
            elif not isinstance(picture, ImagePart) or picture.read() != picture_of(text):
                lost.append(f"picture {text}")
        if database.is_sqlite:
            with database.read() as connection:
                answer = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
                lost += [] if answer == "ok" else [f"integrity_check: {answer}"]
    return lost


def kill_storing(place: Place, n: int, rng: random.Random) -> Result:
    """Kills `n` children that store feedback."""
    result, begun, killer = Result(), time.monotonic(), Killer(rng)
    acknowledged = killer.measure(lambda say: store_feedback(place, -1, say))[1:]
    for number in range(n):
        said = killer.run(lambda say, number=number: store_feedback(place, number, say))  # type: ignore[misc]
        acknowledged += said[1:]
        result.n_kills += 1
        if number % _CHECK_EVERY == _CHECK_EVERY - 1 or number == n - 1:
            result.broken += lost_rows(place, acknowledged)
    with place.open() as (database, turns):
        result.n_cut = len(FeedbackStore(database, turns).rows()) - len(
            acknowledged
        )  # committed and not yet acknowledged
    result.n_acknowledged, result.seconds = len(acknowledged), time.monotonic() - begun
    result.step_s = killer.step_s
    return result


# -- importing --


def prepare_import(place: Place) -> None:
    """Writes an export of `N_IMPORTED` rows on one turn into the place, which holds no feedback itself."""
    with tempfile.TemporaryDirectory() as folder:
        source = Place(Path(folder))
        with source.open() as (database, turns):
            turn = Turn("turn", "session", None, TASK, Message((TextPart("hi"),)), (), now())
            turns.add_turn(turn).result()
            FeedbackStore(database, turns).add_all([Feedback("turn", is_good=True) for _ in range(N_IMPORTED)])
            place.folder.mkdir(parents=True, exist_ok=True)
            FeedbackTransfer(database, source.folder / "media").export_to(place.folder / "export")


def import_files(place: Place, say: Say) -> None:
    """Imports one file after another, each with new rows, until it is killed."""
    database = Database(place.folder, place.url)
    transfer = FeedbackTransfer(database, place.folder / "media")
    header, *rows = map(json.loads, (place.folder / "export").read_text().splitlines())
    file = place.folder / f"import-{os.getpid()}"
    say("ready")
    while True:
        for row in rows:
            row["feedback"]["id"] = new_id()
        file.write_text("\n".join(map(json.dumps, [header, *rows])))
        transfer.import_from(file)
        say("done")


def kill_importing(place: Place, n: int, rng: random.Random) -> Result:
    """Kills `n` children that import files."""
    result, begun, killer = Result(), time.monotonic(), Killer(rng)
    prepare_import(place)
    n_rows = 0
    for number in range(n + 1):
        run = killer.run if number else killer.measure
        n_done = len(run(lambda say: import_files(place, say))) - 1
        result.n_kills += 1
        result.n_acknowledged += n_done
        with place.open() as (database, turns):
            n_now = len(FeedbackStore(database, turns).rows())
        # A kill between commit and acknowledgement leaves one import more than was acknowledged.
        n_new, odd = divmod(n_now - n_rows, N_IMPORTED)
        if odd or not n_done <= n_new <= n_done + 1:
            result.broken.append(f"{n_now - n_rows} rows after {n_done} imports of {N_IMPORTED}")
        result.n_cut += n_new - n_done
        n_rows = n_now
    result.seconds, result.step_s = time.monotonic() - begun, killer.step_s
    return result


# -- promoting --


def move_champions(place: Place, number: int, say: Say) -> None:
    """Adds, promotes, rolls back and removes versions until it is killed; prints what it will do and what it did."""
    rng = random.Random(number)
    store = AdapterStore(Database(place.folder, place.url), place.folder / "adapters")
    say(f"ready {store.champion_id(TASK)}")
    while True:
        if rng.random() < 0.3 and store.champion_id(TASK) is not None:
            say(f"will {store.previous_id(TASK)}")
            now_serving = store.rollback(TASK)
            say(f"did {now_serving.id if now_serving else None}")
            continue
        with store.work_folder() as work:
            (work / "weights.bin").write_bytes(rng.randbytes(50_000))
            (work / "config.json").write_text("{}")
            adapter = store.add(work, task=TASK, kind="test", base={}, feedback_ids=["f"])
        store.judge(adapter.id, "approved", {})
        say(f"will {adapter.id}")
        store.promote(adapter.id)
        say(f"did {adapter.id}")
        kept = {store.champion_id(TASK), store.previous_id(TASK)}
        for version in store.versions(TASK)[:-_KEPT_VERSIONS]:
            if version.id not in kept:
                store.remove(version.id)


def check_champion(place: Place, allowed: set[str]) -> list[str]:
    """Returns what is wrong with the champion, the log and the folders.

    Args:
        allowed: ids of the versions that may serve.
    """
    wrong = []
    database = Database(place.folder, place.url)
    try:
        store = AdapterStore(database, place.folder / "adapters")
        champion = store.champion_id(TASK)
        if str(champion) not in allowed:
            wrong.append(f"{champion} serves, and not one of {sorted(allowed)}")
        for version in [version.id for version in store.versions(TASK)]:
            store.verify(version)
        if champion is not None:
            store.verify(champion)
        log = store.log(TASK)
        if (log[-1]["adapter_id"] if log else None) != champion:
            wrong.append(f"the log ends with {log[-1:]}, {champion} serves")
        if left := list((place.folder / "adapters").glob(".work-*")):
            wrong.append(f"{left[0].name} was left")
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        database.close()
    return wrong


def kill_promoting(place: Place, n: int, rng: random.Random) -> Result:
    """Kills `n` children that move champions."""
    result, begun, killer = Result(), time.monotonic(), Killer(rng, words_per_step=2)
    for number in range(n + 1):
        run = killer.run if number else killer.measure
        said = run(lambda say, number=number: move_champions(place, number, say))  # type: ignore[misc]
        result.n_kills += 1
        result.n_acknowledged += sum(word == "did" for word, _ in said)
        result.n_cut += said[-1][0] == "will"
        # What served for certain, and the target of a move that was announced and perhaps done.
        before = [name for word, name in said if word != "will"][-1]
        result.broken += check_champion(place, {before, said[-1][1]})
    result.seconds, result.step_s = time.monotonic() - begun, killer.step_s
    return result


KINDS: dict[str, Callable[[Place, int, random.Random], Result]] = {
    "storing": kill_storing,
    "importing": kill_importing,
    "promoting": kill_promoting,
}


def run_all(name: str, places: Mapping[str, Place], counts: Mapping[str, int]) -> dict[str, Any]:
    """Runs all kinds on one database, each in a separate place; prints a line for each.

    Args:
        counts: number of kills by kind.
    """
    figures: dict[str, Any] = {}
    for number, (kind, n) in enumerate(counts.items()):
        result = KINDS[kind](places[kind], n, random.Random(number))
        figures[f"{name}_{kind}"] = {
            "kills": result.n_kills,
            "acknowledged": result.n_acknowledged,
            "cut": result.n_cut,
            "step_ms": round(result.step_s * 1e3, 1),
            "broken": len(result.broken),
            "seconds": round(result.seconds, 1),
        }
        print(f"{name:10} {kind:10} {result.n_kills:5} kills, {result.n_acknowledged:6} acknowledged, "
              f"{result.n_cut:4} cut, {result.step_s * 1e3:.0f} ms a step, {len(result.broken)} promises broken (0), "
              f"{result.seconds:.0f} s", flush=True)  # fmt: skip
        for promise in result.broken[:5]:
            print(f"    {promise}")
    return figures


def main() -> int:
    """Prints a table and a JSON line. Returns 1 if a promise was broken or nothing was acknowledged."""
    from tests.support.databases import NoServer, temporary_schema, temporary_server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--n",
        type=int,
        default=1000,
        help="kills while storing; a fifth while promoting",
    )
    parser.add_argument("--n-postgres", type=int, default=100, help="the same on PostgreSQL")
    args = parser.parse_args()

    def counts(n: int) -> dict[str, int]:
        return {"storing": n, "importing": max(1, n // 20), "promoting": max(1, n // 5)}

    figures: dict[str, Any] = {"bench": "kills"}
    with tempfile.TemporaryDirectory() as folder:
        if args.n:
            places = {kind: Place(Path(folder) / f"sqlite-{kind}") for kind in KINDS}
            figures |= run_all("sqlite", places, counts(args.n))
        if args.n_postgres:
            try:
                with contextlib.ExitStack() as stack:
                    server = stack.enter_context(temporary_server())
                    urls = {kind: stack.enter_context(temporary_schema(server)) for kind in KINDS}
                    places = {kind: Place(Path(folder) / f"postgresql-{kind}", url) for kind, url in urls.items()}
                    figures |= run_all("postgresql", places, counts(args.n_postgres))
            except NoServer as error:
                print(f"postgresql not measured: {error}")
    print(json.dumps(figures))
    tables = [figure for figure in figures.values() if isinstance(figure, dict)]
    return 1 if any(table["broken"] or not table["acknowledged"] for table in tables) else 0


if __name__ == "__main__":
    sys.exit(main())
