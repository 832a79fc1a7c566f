"""Acknowledged feedback is on disk, once and complete, until it is retracted or erased. On both databases."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.turns import a_turn

from smallai_assistant import AudioPart, Feedback, ImagePart, InvalidInput, Message, TextPart, Turn, filesystem
from smallai_assistant.errors import InputTooLarge, StoreError, StoreFull
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore, feedback_from_json, feedback_to_json
from smallai_assistant.storage.schema import adapters as adapters_table
from smallai_assistant.storage.schema import feedback, learned
from smallai_assistant.storage.schema import turns as turns_table
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.types import new_id, now


@pytest.fixture
def turns(database: Database, tmp_path: Path) -> Iterator[TurnStore]:
    opened = TurnStore(database, tmp_path / "media")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database, turns: TurnStore) -> FeedbackStore:
    return FeedbackStore(database, turns)


@pytest.fixture
def turn(turns: TurnStore) -> Turn:
    return turns.add_turn(a_turn("what is it?")).result()


def test_a_feedback_comes_back_as_it_was_given(store: FeedbackStore, turn: Turn) -> None:
    given = Feedback(
        turn.id,
        is_good=False,
        correction="naïve \U0001f600 \u202e",
        comment="why\nso",
        signal="stars",
        value=2.0,
        item="i",
        is_explicit=False,
        source="ann",
        may_train=False,
        key="k",
    )
    stored, is_new = store.add(given)
    assert is_new
    assert stored.task == "scripted"
    again = store.get(given.id).feedback
    assert again == stored
    assert feedback_from_json(feedback_to_json(stored)) == stored
    assert [(judged_turn.feedback, judged_turn.turn) for judged_turn in store.judged_turns("scripted")] == [
        (stored, turn)
    ]
    assert store.judged_turns("other") == []


def test_the_log_keeps_up_and_then_down(store: FeedbackStore, turn: Turn) -> None:
    up, down = Feedback(turn.id, is_good=True), Feedback(turn.id, is_good=False)
    store.add(up)
    store.add(down)
    assert [row.feedback.is_good for row in store.rows(turn_id=turn.id) if row.feedback] == [True, False]
    assert [row.id for row in store.rows(limit=1)] == [down.id]
    assert [judged_turn.feedback.id for judged_turn in store.judged_turns("scripted")] == [up.id, down.id]


def test_an_unknown_turn_stores_nothing_of_the_batch(store: FeedbackStore, turn: Turn) -> None:
    with pytest.raises(InvalidInput, match="no turn 'nope'"):
        store.add_all([Feedback(turn.id, is_good=True), Feedback("nope", is_good=True)])
    assert store.rows() == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"signal": "stars", "value": 6.0}, InvalidInput),
        ({"signal": "stars", "value": float("nan")}, InvalidInput),
        ({"signal": "stars"}, InvalidInput),
        ({"signal": "shrug"}, InvalidInput),
        ({"value": 1.0, "is_good": True}, InvalidInput),
        ({}, InvalidInput),
        ({"is_good": "yes"}, InvalidInput),
        ({"correction": "  "}, InvalidInput),
        ({"correction": "\0"}, InvalidInput),
        ({"correction": "\ud800"}, InvalidInput),
        ({"comment": "x" * 10_000_000}, InputTooLarge),
        ({"correction": "x" * 20_001}, InputTooLarge),
        ({"is_good": True, "key": "x" * 201}, InputTooLarge),
        ({"is_good": True, "source": ""}, InvalidInput),
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, object], kind: type[InvalidInput]) -> None:
    with pytest.raises(kind):
        Feedback("t", **values)  # type: ignore[arg-type]


# -- idempotent --


def test_a_known_key_gives_the_earlier_row(store: FeedbackStore, turn: Turn) -> None:
    first, is_new = store.add(Feedback(turn.id, is_good=True, key="k"))
    second, is_new_too = store.add(Feedback(turn.id, is_good=False, key="k"))
    assert (is_new, is_new_too) == (True, False)
    assert second == first
    batch = store.add_all([Feedback(turn.id, is_good=False, key=key) for key in ("k", "l", "l")])
    assert [is_new for _, is_new in batch] == [False, True, False]
    assert len(store.rows()) == 2


def test_the_same_feedback_given_again_is_one_row(store: FeedbackStore, turn: Turn) -> None:
    """As by a caller that got no answer and repeats the call."""
    given = Feedback(turn.id, is_good=True)
    assert [store.add(given)[1], store.add(given)[1]] == [True, False]
    store.retract(given.id)
    assert store.add(given)[1] is False
    assert store.get(given.id).state == "retracted"
    store.erase([given.id])
    with pytest.raises(InvalidInput, match="was erased"):
        store.add(given)


def test_threads_with_one_key_store_one_row(store: FeedbackStore, turn: Turn, database: Database) -> None:
    n_threads, n_keys = 4, 10
    start = threading.Barrier(n_threads)
    results: list[tuple[str, str, bool]] = []

    def give() -> None:
        for number in range(n_keys):
            start.wait(30)
            stored, is_new = store.add(Feedback(turn.id, is_good=True, key=f"k{number}"))
            results.append((f"k{number}", stored.id, is_new))

    threads = [threading.Thread(target=give) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == n_threads * n_keys  # no call failed
    assert len({(key, row_id) for key, row_id, _ in results}) == n_keys  # each key is one row
    assert sum(is_new for *_, is_new in results) == n_keys
    assert len(store.rows()) == n_keys


GIVE = """
import sys
from pathlib import Path
from smallai_assistant import Feedback
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.turn_store import TurnStore
database = Database(Path(sys.argv[1]), sys.argv[2])
store = FeedbackStore(database, TurnStore(database, Path(sys.argv[1]) / "media"))
print("ready", flush=True)
sys.stdin.read()
for n in range(20):
    print(store.add(Feedback(sys.argv[3], is_good=True, key=f"k{n}"))[0].id)
"""


def test_processes_with_one_key_store_one_row(
    tmp_path: Path, database_url: str, store: FeedbackStore, turn: Turn
) -> None:
    command = [sys.executable, "-c", GIVE, str(tmp_path), database_url, turn.id]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both are ready: the end of their standard input starts them together
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    out = [process.communicate(timeout=100)[0].split() for process in processes]
    assert out[0] == out[1]
    assert sorted(out[0]) == sorted(row.id for row in store.rows())
    assert len(out[0]) == 20


# -- retracted, erased --


def test_retracted_feedback_stays_in_the_log_only(store: FeedbackStore, turn: Turn) -> None:
    given = store.add(Feedback(turn.id, is_good=True))[0]
    assert store.retract(given.id).state == "retracted"
    assert store.retract(given.id).feedback == given  # idempotent
    assert store.judged_turns("scripted") == []
    assert [row.state for row in store.rows()] == ["retracted"]
    with pytest.raises(InvalidInput, match="no feedback"):
        store.retract("nope")


def test_erasing_names_the_adapters_that_learned(store: FeedbackStore, turn: Turn, database: Database) -> None:
    ids = [store.add(Feedback(turn.id, comment=f"c{n}", key=f"k{n}"))[0].id for n in range(3)]
    with database.write() as connection:
        row = {"task": "scripted", "status": "candidate", "manifest_sha256": "", "report": "{}"}
        connection.execute(sa.insert(adapters_table), [row | {"id": name} for name in ("b", "a", "c")])
        pairs = [("a", ids[0]), ("b", ids[0]), ("b", ids[1]), ("c", ids[2])]
        connection.execute(sa.insert(learned), [{"adapter_id": a, "feedback_id": f} for a, f in pairs])
    with pytest.raises(InvalidInput, match="no feedback 'nope'"):
        store.erase([ids[0], "nope"])
    assert store.get(ids[0]).state == "active"
    assert store.erase([ids[0], ids[0]]).adapter_ids == ["b", "a"]  # oldest first
    assert store.get(ids[0]).feedback is None
    assert [judged_turn.feedback.id for judged_turn in store.judged_turns("scripted")] == ids[1:]
    with pytest.raises(InvalidInput, match="was erased"):
        store.retract(ids[0])
    assert store.stats()[0] | {"source": ""} == {
        "task": "scripted",
        "source": "",
        "rows": 3,
        "good": 0,
        "bad": 0,
        "corrections": 0,
        "signals": 0,
        "retracted": 0,
        "erased": 1,
    }


@pytest.mark.parametrize("is_affected", [True, False], ids=["rollback journal", "wal"])
def test_no_file_holds_what_was_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_affected: bool) -> None:
    monkeypatch.setattr(database_module, "has_wal_reset_bug", lambda _: is_affected)
    database = Database(tmp_path)
    assert database.journal_mode == ("delete" if is_affected else "wal")
    turns = TurnStore(database, tmp_path / "media")
    store = FeedbackStore(database, turns)
    about = turns.add_turn(a_turn("hi")).result()
    given = store.add(Feedback(about.id, correction="SECRET" * 3000))[0]  # several pages long

    def is_found() -> bool:
        return any(b"SECRETSECRET" in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())

    assert is_found()
    store.erase([given.id])
    store.finish_erasure()
    assert not is_found()
    turns.close()
    database.close()


# -- many, and large --


def test_ten_thousand_from_one_source_are_stored(store: FeedbackStore, turn: Turn) -> None:
    store.add_all([Feedback(turn.id, is_good=True, source="bot", key=str(n)) for n in range(10_000)])
    assert store.stats()[0]["good"] == 10_000
    assert len(store.judged_turns("scripted")) == 10_000
    assert store.erase([row.id for row in store.rows()]).adapter_ids == []


def test_a_full_disk_keeps_what_was_stored(tmp_path: Path) -> None:
    database = Database(tmp_path)
    turns = TurnStore(database, tmp_path / "media")
    store = FeedbackStore(database, turns)
    about = turns.add_turn(a_turn("hi")).result()
    first = store.add(Feedback(about.id, is_good=True))[0]
    with database.read() as connection:
        n_pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @sa.event.listens_for(database.engine, "begin")
    def shrink(connection: sa.Connection) -> None:  # SQLite reports its page limit as a full disk
        connection.exec_driver_sql(f"PRAGMA max_page_count={n_pages}")

    with pytest.raises(StoreFull):
        store.add_all([Feedback(about.id, correction="x" * 20_000) for _ in range(50)])
    assert [row.id for row in store.rows()] == [first.id]
    turns.close()
    database.close()


@pytest.mark.parametrize("row", [{}, {"turn_id": 5}, {"turn_id": "t", "is_good": True, "x": 1}, {"is_good": True}])
def test_malformed_json_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        feedback_from_json(row)


@pytest.mark.parametrize(
    "change",
    [
        {"created_at": 5},
        {"created_at": "yesterday"},
        {"may_train": "false"},
        {"is_explicit": 1},
        {"signal": []},
        {"id": 7},
        {"id": "x" * 65},
        {"task": "\0"},
        {"comment": None},
        {"value": "1"},
    ],
)
def test_wrong_types_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        feedback_from_json({"turn_id": "t", "is_good": True, **change})


# -- the turns that it is about --


def test_a_bad_turn_does_not_prevent_others(turns: TurnStore, database: Database) -> None:
    bad = a_turn("bad")
    object.__setattr__(bad, "timings", {"total_s": object()})
    # The writer thread can begin only one batch while this block holds the database. Whether that is the first turn
    # alone or more of them, the bad one shares its batch with another turn.
    with database.write():
        futures = [turns.add_turn(turn) for turn in (a_turn("first"), a_turn("second"), bad, a_turn("third"))]
    assert [future.result(30).text for future in (*futures[:2], futures[3])] == ["first", "second", "third"]
    with pytest.raises(StoreError, match="not stored"):
        futures[2].result(30)
    assert [turn.text for turn in turns.turns("s")] == ["first", "second", "third"]


def test_an_observer_may_flush_and_give_feedback(turns: TurnStore, store: FeedbackStore, database: Database) -> None:
    judged = threading.Event()

    def observe(done: object) -> None:
        turns.add_turn(a_turn("by the observer"))
        turns.flush()
        store.add(Feedback(first.id, is_good=True))
        judged.set()

    first = a_turn("first")
    with database.write():
        turns.add_turn(first).add_done_callback(observe)
    assert judged.wait(20), "the observer hangs"
    assert [turn.text for turn in turns.turns("s")] == ["first", "by the observer"]
    assert len(store.rows()) == 1


def test_turns_during_close_are_stored_or_refused(tmp_path: Path, database: Database) -> None:
    store = TurnStore(database, tmp_path / "media")
    futures = []
    go = threading.Event()

    def add() -> None:
        go.wait()
        futures.extend(store.add_turn(a_turn(str(n))) for n in range(200))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    go.set()
    store.close()
    for thread in threads:
        thread.join()
    n_stored = 0
    for future in futures:
        n_stored += future.exception(10) is None
    assert len(futures) == 600
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(turns_table)) == n_stored


def test_media_are_on_disk_before_the_turn(turns: TurnStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the folders that were created for them: their parent folders are synced."""
    synced: list[Path] = []
    monkeypatch.setattr(filesystem, "sync_path", lambda path: synced.append(path))
    synced_files: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced_files.append(descriptor), real(descriptor)))
    parts = (TextPart("x"), ImagePart(data=b"picture"), AudioPart(data=b"sound"))
    turn = Turn(new_id(), "s", None, "scripted", Message(parts), (), now())
    turns.add_turn(turn).result()
    stored = turns.turn(turn.id).request.parts
    files = [part.path for part in stored if isinstance(part, (ImagePart, AudioPart)) and part.path]
    assert [path.read_bytes() for path in files] == [b"picture", b"sound"]
    assert {path.parent for path in files} <= set(synced)
    assert {tmp_path / "media", tmp_path} <= set(synced)
    assert len(synced_files) >= 2


def test_a_turn_with_feedback_cannot_be_deleted(store: FeedbackStore, turn: Turn, database: Database) -> None:
    store.add(Feedback(turn.id, is_good=True))
    with pytest.raises(StoreError, match=r"(?i)foreign key"), database.write() as connection:
        connection.execute(sa.delete(turns_table))
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(feedback)) == 1
