"""/good, /bad, /correct, /label and /undo in `smallai chat`."""

from __future__ import annotations

import json
from pathlib import Path

from support.command_line import Talk

from smallai_assistant import (
    Assistant,
)


def test_a_correction_is_known_to_the_next_turn(talk: Talk, learner: Assistant) -> None:
    lines = ("hello", "/correct HELLO!", "hello", "/undo", "hello", "/good", "/bad too quiet")
    done = talk(learner, *lines, words=("--task", "echo", "--user", "ada"))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "hello",
        "For you alone: 'hello' is answered with 'HELLO!' from now on",
        "HELLO!",
        "taken back",
        "hello",
        "noted; it is not for everyone, so a cycle learns it only if 3 people say the same",
        "noted; it is not for everyone, so a cycle learns it only if 3 people say the same",
    ]
    rows = learner.feedback.rows()
    assert [row.state for row in rows] == ["retracted", "active", "active"]
    assert {row.source for row in rows} == {"ada"}
    last = rows[-1].feedback
    assert last is not None
    assert (last.is_good, last.comment) == (False, "too quiet")
    (_, _, third) = learner.store.turns(learner.store.session_list()[0]["id"])
    assert rows[-1].turn_id == third.id


def test_label_is_about_the_last_picture(talk: Talk, learner: Assistant, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"12345")
    lines = (f"/image {photo}", "what a day", "/label wombat", f"/image {photo}")
    done = talk(learner, *lines, words=("--task", "echo"))
    assert done.out.splitlines() == [
        "picture 5",
        "what a day",
        "'picture 5' is answered with 'wombat' from now on",
        "wombat",
    ]


def test_judging_needs_something_to_judge(talk: Talk, learner: Assistant) -> None:
    before = ("/good", "/bad", "/correct x", "/label x", "/undo", "/learn")
    after = ("hello", "/correct", "/label", "/label x", "/new", "/good", "/learn scripted", "/learn eho")
    done = talk(learner, *before, *after)
    assert done.code == 0
    errors = done.err.splitlines()
    wanted = (
        *["there is no answer to judge yet"] * 3,
        "no picture was shown yet",
        "there is no feedback to take back",
        "which task should learn?",
        "the correction is missing (/correct TEXT)",
        "the name is missing (/label NAME)",
        "no picture was shown yet",
        "there is no answer to judge yet",
        "no task 'scripted' learns",
        "did you mean 'echo'?",
    )
    assert len(errors) == len(wanted)
    for line, reason in zip(errors, wanted, strict=True):
        assert line.startswith("error: ")
        assert reason in line
    assert learner.feedback.rows() == []


def test_undo_takes_back_one_after_the_other(talk: Talk, learner: Assistant) -> None:
    lines = ("one", "/good", "/new", "two", "/bad", "/undo", "/undo", "/undo")
    done = talk(learner, *lines, words=("--task", "echo"))
    assert done.out.count("taken back") == 2
    assert done.err == "error: there is no feedback to take back (see `smallai feedback list`)\n"
    assert [row.state for row in learner.feedback.rows()] == ["retracted", "retracted"]


def test_feedback_that_fails_to_be_learned_is_reported(talk: Talk, learner: Assistant) -> None:
    done = talk(learner, "hello", "/correct crash", "hello", words=("--task", "echo"))
    assert done.out.splitlines() == ["hello", "stored", "hello"]
    assert done.err.startswith("note: It is stored, but the next turn does not know: ")
    done = talk(learner, "hello", "/good", words=("--task", "scripted"))
    assert done.out.splitlines() == ["hello", "noted; scripted does not learn"]


def test_resumed_conversations_are_those_of_people(talk: Talk, learner: Assistant) -> None:
    talk(learner, "hello", words=("--task", "echo"))
    learner.teach("echo", "never asked", "NEVER ASKED")  # newer, and no conversation
    done = talk(learner, "/bad", words=("--resume",))
    assert done.err == ""
    (row,) = [row for row in learner.feedback.rows() if row.feedback and row.feedback.is_good is False]
    assert learner.store.turn(row.turn_id).request.text == "hello"


def test_feedback_as_json(talk: Talk, learner: Assistant) -> None:
    done = talk(learner, "hello", "/correct HELLO!", "/undo", "/undo", words=("--json", "--task", "echo"))
    answer, corrected, undone, failed = [json.loads(line) for line in done.out.splitlines()]
    assert list(corrected) == ["feedback_id", "turn_id", "task", "is_new", "effect", "notices"]
    assert corrected["turn_id"] == undone["turn_id"] == answer["turn_id"]
    assert corrected["feedback_id"] == undone["feedback_id"]
    assert failed["error"]["code"] == "invalid_input"
