"""`smallai feedback` and `teach`, on a scripted learner."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Run, is_one_error_line
from support.echo_learner import correct, open_echo

from smallai_assistant import (
    Assistant,
    ImagePart,
)
from smallai_assistant.cli import main

PIXEL = b"\x89PNG\r\n\x1a\n"


def ask(assistant: Assistant, text: str, task: str = "echo") -> str:
    return assistant.ask(text, task=task).text


def test_feedback_add_says_what_it_changed(run: Run, own: Assistant) -> None:
    turn = own.ask("hello", task="echo", user_id="ada").turn
    done = run("feedback", "add", turn.id, "--bad", "--correction", "HELLO", "--comment", "too quiet")
    assert (done.code, done.err) == (0, "")
    assert done.out == "For you alone: 'hello' is answered with 'HELLO' from now on\n"
    assert own.ask("hello", task="echo", user_id="ada").text == "HELLO"
    assert ask(own, "hello") == "hello"
    (row,) = own.feedback.rows()
    assert row.feedback is not None
    assert (row.turn_id, row.source) == (turn.id, "ada")
    assert (row.feedback.is_good, row.feedback.correction, row.feedback.comment) == (False, "HELLO", "too quiet")
    assert row.feedback.may_train


def test_add_takes_every_field_and_last(run: Run, own: Assistant) -> None:
    assert "nothing was answered yet" in run("feedback", "add", "last", "--good").err
    ask(own, "one")
    own.teach("echo", "never asked", "NEVER ASKED")  # no answer: not what `last` means
    words = ["--signal", "stars", "--value", "4", "--item", "film-1", "--source", "web", "--no-training", "--key", "k1"]
    row = run("feedback", "add", "last", *words, "--json").row
    assert list(row) == ["feedback_id", "turn_id", "task", "is_new", "effect", "notices"]
    assert (row["task"], row["is_new"], row["effect"], row["notices"]) == ("echo", True, "", [])
    given = own.feedback.get(row["feedback_id"]).feedback
    assert given is not None
    assert own.store.turn(given.turn_id).request.text == "one"
    assert (given.signal, given.value, given.item, given.source) == ("stars", 4.0, "film-1", "web")
    assert (given.may_train, given.key) == (False, "k1")
    again = run("feedback", "add", "last", "--bad", "--key", "k1")
    assert (again.code, again.out) == (0, "known already: nothing was changed\n")
    assert run("feedback", "add", "last", "--bad", "--key", "k1", "--json").row["feedback_id"] == row["feedback_id"]
    assert len(own.feedback.rows()) == 2


def test_add_says_what_becomes_of_feedback(run: Run, own: Assistant) -> None:
    ask(own, "one")
    assert run("feedback", "add", "last", "--good").out == "noted; it counts at the next `smallai learn echo`\n"
    assert "no cycle learns from it" in run("feedback", "add", "last", "--good", "--no-training").out
    ask(own, "two", task="scripted")
    assert run("feedback", "add", "last", "--good").out == "noted; scripted does not learn\n"
    ask(own, "three")
    done = run("feedback", "add", "last", "--correction", "crash")
    assert (done.code, done.out) == (0, "stored\n")
    assert "boom" in done.err
    assert (
        run("feedback", "add", "last", "--correction", "crash", "--json").row["notices"][0]["code"] == "not_learned_yet"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["add", "nowhere", "--good"], "there is no turn 'nowhere'"),
        (["add", "last"], "says nothing"),
        (["add", "last", "--good", "--bad"], "not allowed with"),
        (["add", "--good"], "TURN_ID"),
        (["add", "last", "--correction", "  "], "correction is empty"),
        (["add", "last", "--signal", "like"], "click, skip, dwell, stars"),
        (["add", "last", "--signal", "stars"], "give 1 to 5"),
        (["add", "last", "--signal", "stars", "--value", "many"], "not a number"),
        (["add", "last", "--signal", "stars", "--value", "nan"], "stars must be a number"),
        (["add", "last", "--good", "--value", "3"], "value without a signal"),
        (["add", "last", "--good", "--comment", "a\0b"], "NUL"),
        (["list", "--limit", "0"], "give 1 to"),
        (["erase", "nowhere"], "there is no feedback 'nowhere'"),
        (["undo", "nowhere"], "there is no feedback 'nowhere'"),
        (["undo"], "ID"),
        (["remove", "x"], "unknown"),
    ],
)
def test_wrong_feedback_is_told_in_a_line(run: Run, own: Assistant, words: list[str], reason: str) -> None:
    ask(own, "one")
    done = run("feedback", *words)
    assert (done.code, done.out) == (2, "")
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    assert own.feedback.rows() == []


def test_feedback_list_and_stats(run: Run, own: Assistant) -> None:
    assert "no feedback yet" in run("feedback", "list").out
    assert run("feedback", "stats").out == "no feedback yet\n"
    assert run("feedback", "stats", "--json").out == ""
    ids = correct(own, 3, source="ada")
    own.undo_feedback(ids[0])
    own.erase_feedback([ids[1]])
    ask(own, "evil\x1b[2J", task="scripted")
    assert run("feedback", "add", "last", "--good", "--comment", "because\x1b[2J").code == 0
    done = run("feedback", "list")
    assert "\x1b" not in done.out
    assert "(taken back)" in done.out
    assert "(erased)" in done.out
    assert "should be “SAY 2”, of say 2" in done.out
    assert "good “because[2J”, of evil[2J" in done.out
    rows = run("feedback", "list", "--json").rows
    assert [row["state"] for row in rows] == ["retracted", "erased", "active", "active"]
    assert set(rows[1]) == {"id", "turn_id", "task", "source", "created_at", "state"}
    assert {"correction", "is_good", "key", "may_train"} < set(rows[2])
    assert [row["id"] for row in run("feedback", "list", "--json", "--limit", 2, "--task", "echo").rows] == ids[1:]
    stats = {row["task"]: row for row in run("feedback", "stats", "--json").rows}
    assert stats["echo"] == {
        "task": "echo",
        "source": "ada",
        "rows": 3,
        "good": 0,
        "bad": 0,
        "corrections": 1,
        "signals": 0,
        "retracted": 1,
        "erased": 1,
    }
    shown = run("feedback", "stats").out.splitlines()
    assert shown[0].split() == list(stats["echo"])
    assert shown[1].split() == ["echo", "ada", "3", "0", "0", "1", "0", "1", "1"]


def test_feedback_undo_takes_effect(run: Run, own: Assistant) -> None:
    (feedback_id,) = correct(own, 1)
    assert ask(own, "say 0") == "SAY 0"
    assert run("feedback", "undo", feedback_id).out == "taken back\n"
    assert ask(own, "say 0") == "say 0"
    assert run("feedback", "undo", feedback_id, "--json").row["effect"].startswith("taken back")


def test_erase_names_the_adapters_and_the_remedy(run: Run, own: Assistant) -> None:
    ids = correct(own)
    assert run("learn", "echo").code == 0
    first = own.adapters.champion("echo")
    assert first is not None
    gone = first.feedback_ids[0]
    assert run("feedback", "erase", gone).out.splitlines() == [
        "erased 1 feedback row",
        f"  {first.id} learned from it and served until now: it is deleted",
        "  the bare model serves echo now; learn again with: smallai learn echo",
    ]
    assert run("adapters", "list", "--json").rows == []
    refused = run("adapters", "promote", first.id, "--force")
    assert refused.code == 2
    assert f"{first.id} is gone: it learned from feedback that was erased" in refused.err
    assert run("learn", "echo", "--json").code in (0, 3)
    second = own.adapters.versions()[-1]
    assert set(second.feedback_ids) == set(first.feedback_ids) - {gone}
    run("adapters", "promote", second.id, "--force")
    also_gone = next(feedback_id for feedback_id in ids if feedback_id in second.feedback_ids)
    row = run("feedback", "erase", also_gone, "--json").row
    assert row["erased"] == [also_gone]
    assert (row["turns"], row["media"]) == ([], 0)
    assert (row["champions"], row["adapters"], row["serving"]) == ([second.id], [second.id], {"echo": None})


def test_erase_is_all_or_nothing(run: Run, own: Assistant) -> None:
    (feedback_id,) = correct(own, 1)
    assert run("feedback", "erase", feedback_id, "nowhere").code == 2
    assert own.feedback.get(feedback_id).state == "active"


def test_feedback_goes_to_another_machine(run: Run, own: Assistant, tmp_path: Path, capsys: Any) -> None:
    correct(own, 2)
    (tmp_path / "photo.png").write_bytes(PIXEL)
    run("teach", "wombat", tmp_path / "photo.png")
    file = tmp_path / "feedback.jsonl"
    done = run("feedback", "export", file)
    assert (done.code, done.out) == (0, "exported 3 feedback rows, 3 turns, 1 file\n"), done
    piped = run("feedback", "export", "-", "--no-media", "--task", "echo")
    assert len(piped.rows) == 4  # a header and the rows
    assert "exported 3 feedback rows" in piped.err
    assert run("feedback", "export", file, "--json").row["media"] == 1
    assert "3 known already" in run("feedback", "import", file).out
    with open_echo(tmp_path / "other") as other:
        opener = lambda *_: contextlib.nullcontext(other)  # noqa: E731
        assert main(["feedback", "import", str(file), "--json"], open_assistant=opener) == 0
        row = json.loads(capsys.readouterr().out)
        assert (row["feedback"], row["turns"], row["media"], row["known"]) == (3, 3, 1, 0)
        assert row["tasks"] == ["echo"]
        assert [judged_turn.feedback.correction for judged_turn in other.feedback.judged_turns("echo")] == [
            "SAY 0",
            "SAY 1",
            "wombat",
        ]


def test_a_bad_import_imports_nothing(run: Run, own: Assistant, tmp_path: Path) -> None:
    correct(own, 2)
    file = tmp_path / "feedback.jsonl"
    run("feedback", "export", file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], lines[2][:-5]]))
    done = run("feedback", "import", file)
    assert done.code == 1
    assert is_one_error_line(done.err), done.err
    assert "line 3" in done.err
    assert run("feedback", "import", tmp_path / "nothing.jsonl").code == 2
    assert run("feedback", "export", tmp_path / "nowhere" / "x.jsonl").code == 2
    assert run("feedback", "export", tmp_path).code == 2


def test_teach_shows_what_each_file_changed(run: Run, own: Assistant, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for n, path in enumerate(files):
        path.write_bytes(PIXEL + b"x" * n)
    done = run("teach", "wombat", *files)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"{path}: 'picture {len(PIXEL) + n}' is answered with 'wombat' from now on" for n, path in enumerate(files)
    ]
    assert own.ask(ImagePart(files[0]), task="echo").text == "wombat"
    rows = run("teach", "koala", files[0], tmp_path / "none.png", files[1], "--json", "--source", "ada").rows
    assert list(rows[0]) == ["file", "feedback_id", "turn_id", "task", "is_new", "effect", "notices"]
    assert rows[1]["file"] == str(tmp_path / "none.png")
    assert rows[1]["error"]["code"] == "invalid_input"
    assert own.feedback.rows()[-1].source == "ada"
    assert own.ask(ImagePart(files[1]), task="echo").text == "koala"
    assert run("sessions", "list").out.count("echo") == 0
    assert len(run("sessions", "list", "--json").rows) == 2  # the two questions; what was taught is no talk


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["", "photo.png"], "correction is empty"),
        (["cat", "nothing.png"], "no such file"),
        (["cat", "."], "a folder"),
        (["cat", "note.txt"], "neither a picture nor a recording"),
        (["cat", "memo.wav"], "no task learns from a recording"),
        (["cat", "memo.wav", "--task", "echo"], "echo does not take audio"),
        (["cat", "photo.png", "--task", "eho"], "did you mean 'echo'?"),
        (["cat", "photo.png", "--task", "scripted"], "does not learn"),
        (["cat", "photo.png", "--source", ""], "source is empty"),
        (["cat"], "FILE"),
    ],
)
def test_wrong_teaching_is_told(
    run: Run, own: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(PIXEL)
    Path("memo.wav").write_bytes(b"RIFF0000WAVE")
    Path("note.txt").write_text("x")
    done = run("teach", *words)
    assert (done.code, done.out) == (2, ""), done
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    assert own.feedback.rows() == []
