"""`smallai chat` on lines of standard input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Talk

from bench.data import imagenet_photos, librivox
from smallai_assistant import (
    Assistant,
    Turn,
)
from smallai_assistant.errors import StoreFull


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that is a picture by its first bytes; 12 bytes long."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n0000")
    return path


def test_lines_are_answered_until_they_end(talk: Talk, scripted: Assistant) -> None:
    done = talk(scripted, "/task text-generation", "hello", "", "  ", "again", "//slash", "/usr/bin what?")
    assert done.code == 0
    assert done.out.splitlines() == ["task: text-generation", "0:hello", "1:again", "2:/slash", "3:/usr/bin what?"]
    assert done.err.count("note: something is odd\n") == 4


@pytest.mark.parametrize("word", ["/quit", "/exit", "/QUIT"])
def test_quit_ends(talk: Talk, scripted: Assistant, word: str) -> None:
    done = talk(scripted, "one", word, "two", words=("--task", "text-generation"))
    assert (done.code, done.out) == (0, "0:one\n")


def test_an_error_is_printed_and_the_conversation_continues(talk: Talk, scripted: Assistant) -> None:
    lines = ("fail", "crash", "/imgae x.png", "/image", "/image none.png", "/task nope", "/image https://x.org/y", "on")
    done = talk(scripted, *lines, words=("--task", "text-generation"))
    assert (done.code, done.out) == (0, "0:on\n")
    errors = [line for line in done.err.splitlines() if not line.startswith("note:")]
    assert len(errors) == 7
    for line, reason in zip(
        errors,
        (
            "cannot (say something else)",
            "raised RuntimeError: boom",
            "did you mean '/image'?",
            "/image FILE [question]",
            "no such file",
            "there is no task 'nope'",
            "an address",
        ),
        strict=True,
    ):
        assert line.startswith("error: ")
        assert reason in line


def test_commands(talk: Talk, scripted: Assistant, tmp_path: Path) -> None:
    photo = tmp_path / "my photo.png"
    photo.write_bytes(b"12345")
    lines = (
        f"/image '{photo}' what is it?",
        f"/image {photo} isn't it?",
        "/recommend a film",
        "/recommend",
        "/history",
        "/new",
        "/history",
        "/task",
        "/task auto",
        "/help",
    )
    done = talk(scripted, *lines, words=("--task", "text-generation", "--user", "ada"))
    assert done.code == 0, done.err
    out = done.out.splitlines()
    assert out[:4] == ["saw 5 what is it?", "saw 5 isn't it?", "2:a film", "3:recommend something"]
    history = done.out[done.out.index("you:") : done.out.index("a new conversation")]
    assert f"you: [{photo}] what is it?\nassistant: saw 5 what is it?\n" in history
    assert "nothing was said yet" in done.out
    assert "* text-generation  talks" in out
    assert "task: chosen for each message" in out
    for usage in ("/image FILE [question]", "/good [why]", "/learn [TASK]", "/quit"):
        assert usage in done.out
    assert {row["user_id"] for row in scripted.store.session_list()} == {"ada"}


def test_sessions_go_on(talk: Talk, scripted: Assistant) -> None:
    pin = ("--task", "text-generation")
    assert talk(scripted, "hi", words=(*pin, "--resume", "--user", "ada")).out == "0:hi\n"
    assert talk(scripted, "more", words=(*pin, "--resume", "--user", "ada")).out == "1:more\n"
    assert talk(scripted, "hi", words=(*pin, "--resume", "--user", "bob")).out == "0:hi\n"
    session_id = next(row["id"] for row in scripted.store.session_list() if row["user_id"] == "ada")
    assert talk(scripted, "last", words=(*pin, "--session", session_id)).out == "2:last\n"
    lost = talk(scripted, "hi", words=("--session", "nowhere"))
    assert lost.code == 2
    assert "there is no session 'nowhere'" in lost.err
    other = talk(scripted, "hi", words=("--session", session_id, "--user", "bob"))
    assert "another user" in other.err
    assert talk(scripted, "hi", words=("--task", "nope")).code == 2


def test_json_lines(talk: Talk, scripted: Assistant) -> None:
    lines = ("hello", "fail", "/task auto", "/help", "/history")
    done = talk(scripted, *lines, words=("--json", "--task", "text-generation"))
    hello, failed, past = [json.loads(line) for line in done.out.splitlines()]
    assert list(hello) == ["text", "task", "turn_id", "model", "adapter", "notices", "timings"]
    assert hello["notices"] == [{"code": "odd", "text": "something is odd"}]
    assert failed["error"] == {
        "code": "invalid_input",
        "message": "cannot",
        "hint": "say something else",
        "suggestion": None,
    }
    assert past["said"] == "hello"
    assert "/image FILE" in done.err


def test_an_answer_that_cannot_be_stored_is_told(talk: Talk, scripted: Assistant, monkeypatch: Any) -> None:
    stored: Future[Turn] = Future()
    stored.set_exception(StoreFull("the disk is full"))
    monkeypatch.setattr(scripted.store, "add_turn", lambda turn: stored)
    done = talk(scripted, "hello", words=("--task", "text-generation"))
    assert done.out == "0:hello\n"
    assert "error: the disk is full" in done.err


def test_two_slashes_escape_commands_and_files(talk: Talk, scripted: Assistant, photo: Path) -> None:
    done = talk(scripted, "//help", f"/{photo}", words=("--task", "text-generation"))
    assert done.out.splitlines() == ["0:/help", f"1:{photo}"]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("{photo}", "saw 12 "),
        ("what is on {photo}?", "saw 12 what is on?"),
        ("'{photo}' and why", "saw 12 and why"),
        ("is (file://{photo}) a cat", "saw 12 is () a cat"),
    ],
)
def test_a_message_takes_the_picture_it_names(
    talk: Talk, scripted: Assistant, photo: Path, line: str, answer: str
) -> None:
    done = talk(scripted, line.format(photo=photo), words=("--task", "text-generation"))
    assert (done.out, done.err) == (f"{answer}\n", "")


def test_a_path_without_a_picture_stays_text(talk: Talk, scripted: Assistant, photo: Path) -> None:
    wrong = photo.with_name("phot.png")
    done = talk(scripted, str(wrong), f"what is on {wrong}?", words=("--task", "text-generation"))
    assert done.out.splitlines() == [f"0:{wrong}", f"1:what is on {wrong}?"]
    notes = [line for line in done.err.splitlines() if "odd" not in line]
    assert notes == [f"note: sent as text: {wrong}: there is no such file (did you mean 'photo.png'?)"]


@pytest.mark.slow
def test_a_script_of_all_tasks_on_real_models(user_env: dict[str, str]) -> None:
    photo, (clip, words) = imagenet_photos()[0][0], librivox()[0]
    script = f"/image {photo}\n/audio {clip}\n/task text-generation\nSay hello.\n/history\n"
    command = [sys.executable, "-m", "smallai_assistant.cli", "chat"]
    done = subprocess.run(command, input=script, env=user_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "%" in done.stdout
    said = {word for word in words.lower().split() if len(word) > 4}
    assert len(said & set(re.findall(r"[a-z]+", done.stdout.lower()))) >= 0.7 * len(said)
    assert done.stdout.count("you:") == 3
    allowed = ("note: ", "error: ")
    assert all(line.startswith(allowed) for line in done.stderr.splitlines()), done.stderr
    assert "error: " not in done.stderr


@pytest.mark.slow
def test_chat_works_with_the_network_cut(user_env: dict[str, str], tmp_path: Path) -> None:
    """The process can reach no address, only its own files."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*a, **k): raise OSError('the network is cut')\n"
        "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\n"
    )
    env = {**user_env, "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "smallai_assistant.cli", "ask", "Say hello.", "--max-tokens", "5"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
