"""What is erased is gone: from memory, weights, files and every way back."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.adapters import add
from support.damage import files_with, run_sql
from support.echo_learner import Echo, correct, open_echo
from support.scripted_learner import DRINKS, NAME, PLANTS, SEAS, UNKNOWN, ask, learn, open_assistant, served_by

from smallai_assistant import Assistant, AudioPart, Feedback, ImagePart, InvalidInput, TextPart, errors
from smallai_assistant.storage import database as database_module
from smallai_assistant.storage import feedback_store

PICTURE, RECORDING = b"\x89PNG\r\n\x1a\n" + b"PICTURE-BYTES" * 99, b"RIFF0000WAVE" + b"RECORDING-BYTES" * 99
WORDS = (b"SECRET", b"secret", b"PICTURE-BYTES", b"RECORDING-BYTES")


class Mixed(Echo):
    """Takes pictures and recordings beside text."""

    accepts = (*Echo.accepts, frozenset({"audio"}), frozenset({"text", "image", "audio"}))


@pytest.fixture(params=["delete", "wal"])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory, once in each journal mode of SQLite."""
    monkeypatch.setattr(database_module, "has_wal_reset_bug", lambda _: request.param == "delete")
    return tmp_path / "data"


@pytest.fixture
def own(data: Path) -> Iterator[Assistant]:
    with open_echo(data, Mixed()) as opened:
        yield opened


def media_of(assistant: Assistant) -> list[Path]:
    folder = assistant.store.media_dir
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


# -- turns and their files --


def test_no_file_holds_what_was_erased(own: Assistant, data: Path) -> None:
    correct(own, 4)
    session = own.session("ada OWNER")
    parts = [TextPart("SECRET question"), ImagePart(data=PICTURE), AudioPart(data=RECORDING)]
    response = session.send(parts, task="echo")
    response.rate(correction="SECRET answer", comment="SECRET comment")
    (data / "smallai.schema2.sqlite").write_bytes(b"a copy with SECRET")
    typed = ["SECRET   question 'a b.png'", "/correct secret ANSWER", "other"]
    (data / "chat_history").write_text("".join(f"\n# 2026-01-01\n+{line}\n" for line in typed))
    own.database.engine.dispose()
    assert {name.split("/")[0] for name in files_with(data, *WORDS)} >= {"media", "smallai.sqlite", "chat_history"}
    erased = own.erase_turns([response.turn.id])
    assert (len(erased.feedback_ids), erased.turn_ids, erased.n_media) == (1, (response.turn.id,), 2)
    assert erased.backups == ("smallai.schema2.sqlite",)
    assert files_with(data, *WORDS) == []
    assert (data / "chat_history").read_text() == "\n# 2026-01-01\n+other\n"
    own.erase_session(session.id)
    assert own.store.user_of_session(session.id) is None
    # Who gave erased feedback stays, so that it can be counted.
    assert [row["source"] for row in own.feedback.stats() if row["erased"]] == ["ada OWNER"]
    assert len(own.feedback.judged_turns("echo")) == 4


def test_a_taught_picture_goes_with_its_last_feedback(own: Assistant, data: Path) -> None:
    first = own.teach("echo", ImagePart(data=PICTURE), "wombat").feedback
    second = own.give_feedback(Feedback(first.turn_id, correction="koala")).feedback
    assert own.erase_feedback([first.id]).turn_ids == ()
    assert len(media_of(own)) == 1
    erased = own.erase_feedback([second.id])
    assert (erased.turn_ids, erased.n_media) == ((first.turn_id,), 1)
    assert media_of(own) == []
    assert files_with(data, b"wombat", b"koala", b"PICTURE") == []


def test_a_picture_stays_as_long_as_a_turn_has_it(own: Assistant) -> None:
    asked = own.ask(ImagePart(data=PICTURE), task="echo").turn
    taught = own.teach("echo", ImagePart(data=PICTURE), "wombat").feedback
    assert own.erase_feedback([taught.id]).n_media == 0
    [part] = own.store.turn(asked.id).request.parts
    assert isinstance(part, ImagePart)
    assert part.read() == PICTURE
    assert own.erase_turns([asked.id]).n_media == 1


def test_undone_feedback_of_a_taught_turn_goes_too(own: Assistant, data: Path) -> None:
    taught = own.teach("echo", "what is it", "SECRET one").feedback
    other = own.give_feedback(Feedback(taught.turn_id, correction="another")).feedback
    own.undo_feedback(taught.id)
    assert set(own.erase_feedback([other.id]).feedback_ids) == {taught.id, other.id}
    assert files_with(data, b"SECRET") == []


def test_a_tombstone_is_skipped_everywhere(own: Assistant, tmp_path: Path) -> None:
    session = own.session("ada")
    kept = session.send("one", task="echo").turn
    gone = session.send("two", task="echo").turn
    given = own.give_feedback(Feedback(gone.id, correction="TWO")).feedback
    own.export_feedback(tmp_path / "before.jsonl")
    own.erase_turns([gone.id])
    assert [turn.id for turn in own.store.turns(session.id)] == [kept.id]
    assert own.store.turns_by_id([gone.id, kept.id]).keys() == {kept.id}
    assert [row["n_turns"] for row in own.store.session_list()] == [1]
    for call in (lambda: own.store.turn(gone.id), lambda: own.give_feedback(Feedback(gone.id, is_good=True))):
        with pytest.raises(InvalidInput, match="was erased"):
            call()
    assert own.session(session_id=session.id).history == (kept,)
    assert own.export_feedback(tmp_path / "after.jsonl").n_erased == 1
    # What was erased here does not come back by a file, under another id neither, nor does its picture.
    done = own.import_feedback(tmp_path / "before.jsonl")
    assert (done.n_feedback, done.n_known) == (0, 1)
    text = (tmp_path / "before.jsonl").read_text()
    (tmp_path / "before.jsonl").write_text(text.replace(given.id, "0" * 32))
    done = own.import_feedback(tmp_path / "before.jsonl")
    assert (done.n_feedback, done.n_erased) == (0, 1)
    assert own.erase_turns([gone.id]).n_media == 0  # once more
    own.erase_session(session.id)
    assert own.store.session_list() == []
    assert own.store.user_of_session(session.id) is None


def test_an_import_leaves_no_picture_of_erased_turns(own: Assistant, tmp_path: Path) -> None:
    taught = own.teach("echo", ImagePart(data=PICTURE), "wombat").feedback
    own.export_feedback(tmp_path / "file")
    own.erase_feedback([taught.id])
    assert own.import_feedback(tmp_path / "file").n_known == 1
    assert media_of(own) == []


@pytest.mark.parametrize(("feedback_ids", "turn_ids"), [(["nope"], []), ([], ["nope"])])
def test_an_unknown_id_erases_nothing(own: Assistant, feedback_ids: list[str], turn_ids: list[str]) -> None:
    [known] = correct(own, 1)
    turn_id = own.feedback.get(known).turn_id
    with pytest.raises(InvalidInput, match="nope"):
        own.erase_feedback([known, *feedback_ids]) if feedback_ids else own.erase_turns([turn_id, *turn_ids])
    with pytest.raises(InvalidInput, match="no session"):
        own.erase_session("nope")
    assert own.feedback.get(known).state == "active"


def test_a_killed_erasure_ends_at_the_next_start(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    with open_echo(data) as own:
        taught = own.teach("echo", ImagePart(data=PICTURE), "wombat").feedback
        with monkeypatch.context() as patch:
            patch.setattr(feedback_store, "delete_unused", killed)
            with pytest.raises(KeyboardInterrupt):
                own.erase_feedback([taught.id])
        assert len(media_of(own)) == 1
    with open_echo(data) as own:
        assert media_of(own) == []


# -- versions --


def test_no_way_leads_back_to_a_version_that_learned_it(opened: Assistant, tmp_path: Path) -> None:
    first = learn(opened, DRINKS)
    second = learn(opened, PLANTS)
    third = learn(opened, SEAS)
    assert opened.adapters.get(third).feedback_ids
    row = next(
        row for row in opened.adapters.get(second).feedback_ids if row not in opened.adapters.get(first).feedback_ids
    )
    erased = opened.erase_feedback([row])
    # The third began with the second: it holds what that one learned.
    assert (erased.adapter_ids, erased.champions, erased.serving) == ((second, third), (third,), {NAME: first})
    assert served_by(opened) == first
    assert not list((tmp_path / "data/adapters").glob(f"{second}*"))
    for call in (
        lambda: opened.promote(second, force=True),
        lambda: opened.promote(third),
        lambda: opened.rollback(NAME, to=third),
        lambda: opened.rollback(NAME, to=second),
    ):
        with pytest.raises(InvalidInput, match="is gone: it learned from feedback that was erased"):
            call()
    assert opened.rollback(NAME) is None
    moves = [(entry["kind"], entry["adapter_id"], entry["previous_id"]) for entry in opened.adapters.log(NAME)]
    assert moves[3:] == [("erased", third, second), ("erased", first, third), ("rollback", None, first)]
    # What the versions had taken over from the fast memory is in it again.
    assert ask(opened, "tell me the fog") == SEAS["fog"]


def test_erasing_a_whole_label_leaves_no_trace_of_it(opened: Assistant, tmp_path: Path) -> None:
    champion = learn(opened, DRINKS)
    rows = [row for row in opened.feedback.judged_turns(NAME) if row.feedback.correction == DRINKS["tea"]]
    assert opened.erase_feedback([row.feedback.id for row in rows]).champions == (champion,)
    assert ask(opened, "what of tea") == UNKNOWN
    assert served_by(opened) is None
    assert files_with(tmp_path / "data", DRINKS["tea"].encode()) == []
    assert ask(opened, "tell me milk") == DRINKS["milk"]


def test_a_version_of_an_earlier_program_is_followed_by_its_parent(tmp_path: Path) -> None:
    with open_echo(tmp_path) as own:
        ids = correct(own, 4)
        parent = add(own.adapters, "a", task="echo", ids=ids[:2])
        own.adapters.promote(parent.id)
        child = add(own.adapters, "b", task="echo", ids=ids[2:])
        own.adapters.promote(child.id)
    # Its manifest does not tell which version its training began with.
    manifest = tmp_path / "adapters" / child.id / "smallai-adapter.json"
    content = json.loads(manifest.read_bytes())
    assert content.pop("started_from") is None
    manifest.write_text(json.dumps(content))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    run_sql(tmp_path / "smallai.sqlite", "UPDATE adapters SET manifest_sha256 = ? WHERE id = ?", digest, child.id)
    with open_echo(tmp_path) as own:
        assert own.erase_feedback(ids[:1]).adapter_ids == (parent.id, child.id)
        assert own.adapters.champion_id("echo") is None


def test_an_erasure_of_an_earlier_program_is_made_up_for(tmp_path: Path) -> None:
    with open_echo(tmp_path) as own:
        ids = correct(own, 2)
        adapter = add(own.adapters, task="echo", ids=ids)
        own.adapters.promote(adapter.id)
    # It erased rows and let the version serve.
    run_sql(tmp_path / "smallai.sqlite", "UPDATE feedback SET state = 'erased', body = '{}' WHERE id = ?", ids[0])
    with open_echo(tmp_path) as own:
        assert own.adapters.champion_id("echo") is None
        assert own.adapters.log("echo")[-1]["kind"] == "erased"
        assert not (tmp_path / "adapters" / adapter.id).exists()


def test_a_version_that_began_with_an_erased_one_is_not_registered(tmp_path: Path) -> None:
    with open_echo(tmp_path) as own, own.adapters.work_folder() as folder:
        (folder / "x").write_text("x")
        with pytest.raises(errors.TrainingFailed, match="is gone"):
            own.adapters.add(folder, task="echo", kind="k", base={}, started_from="gone")


def test_an_undone_row_lets_its_version_serve(opened: Assistant) -> None:
    champion = learn(opened, DRINKS)
    row = opened.adapters.get(champion).feedback_ids[0]
    assert f"the adapter {champion} learned from it and still serves" in opened.undo_feedback(row).effect
    assert served_by(opened) == champion


def test_another_process_stops_using_a_withdrawn_version(opened: Assistant, tmp_path: Path) -> None:
    champion = learn(opened, DRINKS)
    with open_assistant(tmp_path) as other:
        assert served_by(other) == champion
        opened.erase_feedback(opened.adapters.get(champion).feedback_ids[:1])
        assert served_by(other) is None
        assert ask(other, "tell me milk") == DRINKS["milk"]


def test_the_tables_hold_no_text_of_it(own: Assistant, data: Path) -> None:
    taught = own.teach("echo", "SECRET", "SECRET").feedback
    own.erase_feedback([taught.id])
    with sqlite3.connect(data / "smallai.sqlite") as connection:
        rows = connection.execute("SELECT user_id, body FROM turns").fetchall()
    connection.close()
    assert rows == [(None, "{}")]
