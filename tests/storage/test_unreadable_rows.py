"""A row or a page that cannot be read is set aside and named; everything else goes on, and a repair moves it out."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import overwrite_page, run_sql
from support.echo_learner import correct, open_echo

from smallai_assistant import Assistant, ImagePart, Interaction, Item
from smallai_assistant.errors import StoreError
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.repair import find_unreadable, repair

YEAR_0 = -62135647200.0  # the first day of the calendar, in a zone fourteen hours ahead


def check_all_works(own: Assistant, folder: Path, left: list[str], *, gone: str) -> None:
    """Everything that reads or changes feedback, with all rows but one."""
    assert [row.id for row in own.feedback.rows()] == left
    assert sum(row["rows"] for row in own.feedback.stats()) == len(left)
    assert [judged_turn.feedback.id for judged_turn in own.feedback.judged_turns("echo")] == left
    done = own.export_feedback(folder / "export.jsonl")
    assert (done.n_feedback, done.n_unreadable) == (len(left), 1)
    assert own.ask("say 1", task="echo").text == "SAY 1"
    assert own.store.session_list()
    own.undo_feedback(left[1])
    own.erase_feedback([left[2]])
    own.erase_feedback([gone])  # what cannot be read can be erased
    assert own.give_feedback(own.feedback.rows()[0].feedback).is_new is False  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "break_row",
    [
        lambda path, feedback_id, turn_id: run_sql(path, "UPDATE feedback SET body = '[' WHERE id = ?", feedback_id),
        lambda path, feedback_id, turn_id: run_sql(
            path, "UPDATE feedback SET created_at = ? WHERE id = ?", YEAR_0, feedback_id
        ),
        lambda path, feedback_id, turn_id: run_sql(
            path, "UPDATE feedback SET created_at = 'soon' WHERE id = ?", feedback_id
        ),
        lambda path, feedback_id, turn_id: run_sql(
            path, "UPDATE feedback SET body = CAST(x'ff22' AS TEXT) WHERE id = ?", feedback_id
        ),
        lambda path, feedback_id, turn_id: run_sql(
            path, "UPDATE turns SET body = ? WHERE id = ?", "[" * 100_000, turn_id
        ),
        lambda path, feedback_id, turn_id: run_sql(path, "UPDATE turns SET created_at = 1e300 WHERE id = ?", turn_id),
        lambda path, feedback_id, turn_id: run_sql(
            path, "UPDATE turns SET body = replace(body, '\"response\"', '\"answer\"') WHERE id = ?", turn_id
        ),
    ],
    ids=["no JSON", "year 0", "a word as time", "no UTF-8", "deep turn", "far turn", "odd turn"],
)
def test_one_bad_row_hides_no_other(
    tmp_path: Path, break_row: Callable[[Path, str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with open_echo(tmp_path / "data") as own:
        ids = correct(own, 6)
        turn_id = own.feedback.get(ids[3]).turn_id
    break_row(tmp_path / "data/smallai.sqlite", ids[3], turn_id)
    left = [row_id for row_id in ids if row_id != ids[3]]
    with open_echo(tmp_path / "data") as own:
        readable = {row.id for row in own.feedback.rows()}
        if ids[3] in readable:  # its turn is the bad row: it is listed, and teaches nothing
            assert [row.feedback.id for row in own.feedback.judged_turns("echo")] == left
            assert own.ask("say 1", task="echo").turn.text == "SAY 1"
            assert len(own.store.turns(None)) == 6  # five and the answer
        else:
            check_all_works(own, tmp_path, left, gone=ids[3])
    assert "cannot be read and is set aside" in caplog.text
    assert caplog.text.count(f" {ids[3]}: ") + caplog.text.count(f" {turn_id}: ") <= 3  # once for each opening


@pytest.mark.parametrize("table", ["feedback", "turns", "items"])
def test_a_damaged_page_costs_its_own_rows(tmp_path: Path, table: str) -> None:
    with open_echo(tmp_path / "data") as own:
        ids = correct(own, 120)
        own.items.add_items([Item(f"i{n:04}", "t", "x" * 100 + f"MARK{n:04}") for n in range(200)])
        own.items.add_interactions([Interaction("u", f"i{n:04}", at=n + 1.0) for n in range(200)])
    path = tmp_path / "data/smallai.sqlite"
    marker = {"feedback": b"SAY 60", "turns": b'"say 60"', "items": b"MARK0100"}[table]
    if table == "feedback":  # the words are in the turns as well
        run_sql(path, "UPDATE feedback SET body = replace(body, 'SAY 60', 'HEY 60')")
        marker = b"HEY 60"
    assert overwrite_page(path, marker) == 1
    with open_echo(tmp_path / "data") as own:
        n_judged = len(own.feedback.judged_turns("echo"))
        assert 60 <= n_judged <= 119 if table != "items" else n_judged == 120
        assert len(own.items.items()) == 200 if table != "items" else 100 < len(own.items.items()) < 200
        assert len(own.items.interactions()) == 200
        assert own.ask("say 3", task="echo").text == "SAY 3"
        assert own.export_feedback(tmp_path / "x").n_feedback == n_judged
        assert own.store.session_list(limit=5)
        assert own.undo_feedback(ids[3]).effect == "taken back"
        own.erase_feedback([ids[4]])
        assert find_unreadable(own.database)
    done = repair(tmp_path / "data")
    assert {row.table for row in done.moved} >= {table}
    assert (done.folder / "damaged.sqlite").is_file()
    with open_echo(tmp_path / "data") as own:
        assert find_unreadable(own.database) == []
        assert own.ask("say 5", task="echo").text == "SAY 5"
        correct(own, 5, first=500)  # writing works again
        assert len(own.feedback.judged_turns("echo")) == n_judged - 2 * (table != "items") + 5 - 2 * (table == "items")
    assert repair(tmp_path / "data").moved == []


def test_a_repair_moves_rows_into_a_private_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_echo(data) as own:
        ids = correct(own, 3)
        turn_id = own.feedback.get(ids[1]).turn_id
    run_sql(data / "smallai.sqlite", "UPDATE feedback SET body = 'SECRET' WHERE id = ?", ids[0])
    run_sql(data / "smallai.sqlite", "UPDATE turns SET body = '{' WHERE id = ?", turn_id)
    done = repair(data)
    assert {(row.table, row.id) for row in done.moved} == {
        ("feedback", ids[0]),
        ("turns", turn_id),
        ("feedback", ids[1]),  # nobody can learn from it without its turn
    }
    rows = data / "set_aside/rows.jsonl"
    assert stat.S_IMODE(rows.stat().st_mode) == 0o600
    assert stat.S_IMODE(rows.parent.stat().st_mode) == 0o700
    moved = {row["id"]: row for row in map(json.loads, rows.read_text().splitlines())}
    assert moved[ids[0]]["row"]["body"] == "SECRET"
    with open_echo(data) as own:
        assert [row.id for row in own.feedback.rows()] == [ids[2]]
        own.erase_feedback([ids[2]])
        assert len(rows.read_text().splitlines()) == 3
    # An erasure reaches what was set aside: by the id of the turn, here.
    with open_echo(data) as own:
        session = own.store.turn(own.store.turns(None)[0].id).session_id
        assert session


def test_an_erasure_reaches_what_was_set_aside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_echo(data) as own:
        session = own.session("ada")
        turn = session.send("SECRET one", task="echo").turn
        session.send("SECRET two", task="echo").turn  # noqa: B018  (waits until it is stored)
    run_sql(data / "smallai.sqlite", "UPDATE turns SET created_at = 'never' WHERE id = ?", turn.id)
    repair(data)
    assert "SECRET one" in (data / "set_aside/rows.jsonl").read_text()
    with open_echo(data) as own:
        erased = own.erase_session(session.id)
    assert erased.backups == ("rows.jsonl",)
    assert "SECRET" not in (data / "set_aside/rows.jsonl").read_text()


@pytest.mark.parametrize("how", ["missing", "empty", "no database"])
def test_a_lost_database_is_never_made_again_in_silence(tmp_path: Path, how: str) -> None:
    data = tmp_path / "data"
    with open_echo(data) as own:
        own.ask([ImagePart(data=b"picture")], task="echo").turn  # noqa: B018  (waits until it is stored)
        correct(own)
        own.learn("echo")
    path = data / "smallai.sqlite"
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else b"junk" * 5000)
    with pytest.raises(StoreError) as caught:
        Database(data)
    assert how == "no database" or "doctor --repair" in caught.value.hint
    assert (data / "adapters").is_dir()
    done = repair(data)
    assert {name.split("-")[0] for name in done.files} >= {"adapters", "media"}
    with open_echo(data) as own:
        assert own.ask("hi", task="echo").text == "hi"
        assert not any((data / "media").glob("*"))
    assert len(list((data / "set_aside").iterdir())) == len(done.files)


def test_a_new_data_directory_and_one_of_a_server_open(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media/.tmp-1").write_bytes(b"")  # what a kill leaves is no loss
    Database(tmp_path).close()
    shutil.rmtree(tmp_path / "media")
    os.unlink(tmp_path / "smallai.sqlite")
    Database(tmp_path).close()
