"""Closed pipes, missing streams, narrow terminals, encodings, styles, hostile text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import SMALLAI, Run, start
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import (
    Assistant,
    Item,
    TextPart,
)


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    for words in (["--help"], ["models", "list"], ["doctor", "--json"], ["plugins"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = start(words, tmp_path, stdout=write_end)
        os.close(write_end)
        _, err = process.communicate(timeout=60)
        # argparse itself swallows the error if the output is not buffered.
        assert process.returncode == 141 or words == ["--help"], (words, err)
        assert b"Traceback" not in err
        assert b"BrokenPipe" not in err


def test_an_ascii_terminal_of_20_columns(tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path / "data", plugins=[ScriptedPlugin(make_task())]) as own:
        _ = own.ask("Grüße 🙂 \ud800 日本語", task="scripted", user_id="Ünal").turn
        own.items.add_items([Item("1", "Ärger")])
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "COLUMNS": "20"}
    for words in (["sessions", "list"], ["sessions", "list", "--json"], ["classify", "nö.png"], ["ask", "x", "ü"]):
        process = start(words, tmp_path, stdout=subprocess.PIPE, env=env)
        out, err = process.communicate(timeout=60)
        assert process.returncode == (0 if words[0] == "sessions" else 2), err
        assert b"Traceback" not in err
        assert (out + err).isascii()


def test_streams_that_are_not_there(tmp_path: Path) -> None:
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path)}
    for redirect in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = " ".join([*SMALLAI, "chat", redirect])
        done = subprocess.run(["sh", "-c", command], env=env, input="", text=True, capture_output=True, check=False)
        assert done.returncode == 0, (redirect, done)
        assert "Traceback" not in done.stderr


def test_style_only_where_it_is_wanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from smallai_assistant.cli.render import Screen

    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Screen().note("a")
    assert capsys.readouterr().err == "\x1b[2ma\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    screen.note("a")
    screen.heading("b")
    assert capsys.readouterr() == ("b\n", "a\n")


def test_text_cannot_command_the_terminal(run: Run, tmp_path: Path) -> None:
    evil = "a\x1b]0;owned\x07\x9b2J\r\nb\x08\u202ec"
    with Assistant(
        data_dir=tmp_path, plugins=[ScriptedPlugin(make_task(lambda request: iter([TextPart(evil)])))]
    ) as own:
        done = run("ask", "x", "--task", "scripted", assistant=own)
        (row,) = run("ask", "x", "--task", "scripted", "--json", assistant=own).rows
    assert done.out == "a]0;owned2J\nbc\n"
    assert row["text"] == evil
