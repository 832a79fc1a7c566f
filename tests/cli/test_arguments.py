"""The arguments of the command line: help, versions, misspelt words, wrong paths."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Run, is_one_error_line

from smallai_assistant.cli import main, make_parser


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["cht"], "did you mean 'chat'?"),
        (["ask", "hi", "--jsn"], "did you mean '--json'?"),
        (["models", "pll"], "did you mean 'pull'?"),
        (["classify", "x.png", "--label", "a"], "did you mean '--labels'?"),
        (["ask", "hi", "there"], "smallai ask --help"),
        (["ask"], "TEXT"),
        (["recommend"], "--user"),
        (["ask", "hi", "--max-tokens", "many"], "--max-tokens"),
        (["--device", "gpu", "doctor"], "cuda:N"),
        (["--config", "nowhere.toml", "doctor"], "no such file"),
        (["ask", "hi", "--image", ""], "empty path"),
        (["models"], "COMMAND"),
        (["feedbak"], "did you mean 'feedback'?"),
        (["completion", "fsh"], "did you mean 'fish'?"),
        (["learn", "--no-promot"], "did you mean '--no-promote'?"),
        (["adapters", "promote"], "ID"),
        (["ask", "a\nb", "c\nd\x1b[2J"], "unexpected"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(run: Run, words: list[str], hint: str) -> None:
    done = run(*words)
    assert done.code == 2
    assert done.out == ""
    assert is_one_error_line(done.err), done.err
    assert hint in done.err
    assert "\x1b" not in done.err


def test_general_options_stand_before_or_after_the_command(tmp_path: Path) -> None:
    for words in (["--json", "--data-dir", str(tmp_path), "doctor"], ["doctor", "--data-dir", str(tmp_path), "--json"]):
        args = make_parser().parse_args(words)
        assert (args.json, args.data_dir, args.run) == (True, tmp_path, "doctor:doctor")
    assert make_parser().parse_args(["doctor"]).json is False


@pytest.mark.parametrize("columns", ["1", "20", "80"])
def test_every_help_prints_at_any_width(run: Run, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "commands:" in run("--help").out
    assert run().out.startswith("usage: smallai")
    groups = [[], ["models"], ["items"], ["interactions"], ["sessions"], ["feedback"], ["adapters"]]
    for group in groups:
        parser = make_parser()
        for name in group:
            parser = next(a for a in parser._actions if isinstance(a.choices, dict)).choices[name]
        actions = next(a for a in parser._actions if isinstance(a.choices, dict))
        for name in actions.choices:
            done = run(*group, name, "--help")
            assert done.code == 0
            assert done.out.startswith("usage: smallai")


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys; from smallai_assistant.cli import main; main(['--help']); main(['--version']); main(['chta'])\n"
        "heavy = {'argcomplete', 'torch', 'rich', 'sqlalchemy', 'prompt_toolkit', 'numpy', 'pluggy', 'transformers'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^smallai \d+\.\d+", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("words", [["classify"], ["transcribe"], ["ask", "x", "--image"], ["ask", "x", "--audio"]])
def test_wrong_paths_are_told_before_anything_is_opened(run: Run, bare: Path, words: list[str]) -> None:
    (bare / "photo.jpg").write_bytes(b"x")
    for path, reason in (
        (bare / "phoot.jpg", "did you mean 'photo.jpg'?"),
        (bare, "a folder"),
        (bare / "photo.jpg" / "x", "photo.jpg/x"),
        ("https://example.org/photo.jpg", "an address"),
        ("x" * 5000, "xxx"),
        ("a\0b", "NUL"),
    ):
        done = run(*words, path)
        assert done.code == 2, done
        assert is_one_error_line(done.err), done.err
        assert reason in done.err
        assert "Traceback" not in done.err


def test_names_that_look_like_options_are_names(run: Run, bare: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(bare)
    for name in ("-i x", "$(touch owned).wav", "../../x.wav", "; touch owned"):
        done = run("transcribe", "--", name)
        assert done.code == 2
        assert is_one_error_line(done.err)
        assert name in done.err
    assert not (bare / "owned").exists()


def test_debug_shows_the_stack_and_keeps_the_line(run: Run, bare: Path) -> None:
    done = run("--debug", "classify", bare / "nothing.png")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


def test_a_defect_is_one_line(run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Any, progress: Any) -> Any:
        raise RuntimeError("boom\nboom")

    assert main(["plugins"], open_assistant=broken) == 1
    done = run("--config", bare / "none.toml", "plugins")
    assert is_one_error_line(done.err.splitlines()[0] + "\n")
    assert "internal error: RuntimeError: boom boom" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["plugins", "--data-dir", "~nobody-of-that-name/x"], 1),
        (["plugins", "--config", "~nobody-of-that-name.toml"], 2),
        (["classify", "~nobody-of-that-name/x.png"], 2),
        (["items", "import", "~nobody-of-that-name/x.csv"], 2),
        (["feedback", "import", "~nobody-of-that-name/x.jsonl"], 2),
    ],
)
def test_the_home_of_an_unknown_user_is_an_error_in_one_line(
    run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    monkeypatch.chdir(bare)
    done = run(*words)
    assert done.code == code
    assert is_one_error_line(done.err), done.err
    assert "nobody-of-that-name" in done.err
    assert not list(bare.glob("~*"))
