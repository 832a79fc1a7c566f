"""Standard output has the command's own lines and nothing else, and an error if it cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import SMALLAI, Run, is_one_error_line
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import Assistant, Request, TextPart
from smallai_assistant.cli import main
from smallai_assistant.cli.streams import own_output, write

NOISY = """
import atexit, ctypes, os, sys
print("from Python")
sys.__stdout__.write("from the first stream\\n")
sys.__stdout__.flush()
os.write(1, b"from the descriptor\\n")
libc = ctypes.CDLL(None)
libc.puts(b"from C")
libc.fflush(None)
atexit.register(lambda: os.write(1, b"at the end\\n"))
"""


@pytest.fixture
def noisy(tmp_path: Path) -> dict[str, str]:
    """An environment with an installed plugin that prints in every way."""
    (tmp_path / "noisy.py").write_text(NOISY)
    info = tmp_path / "noisy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smallai_assistant]\nnoisy = noisy\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "SMALLAI_DATA_DIR": str(tmp_path / "data")}


def test_what_a_plugin_prints_goes_to_standard_error(noisy: dict[str, str]) -> None:
    for words in (["plugins", "--json"], ["doctor", "--json"], ["sessions", "list", "--json"]):
        done = subprocess.run([*SMALLAI, *words], env=noisy, capture_output=True, text=True, check=False)
        assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines()), done.stdout
        for text in ("from Python", "from the first stream", "from the descriptor", "from C", "at the end"):
            assert text in done.stderr


def test_a_task_that_prints_does_not_disturb_the_answer(run: Run, tmp_path: Path) -> None:
    def script(request: Request) -> object:
        print("thinking")
        yield TextPart("the answer")

    with Assistant(data_dir=tmp_path, plugins=[ScriptedPlugin(make_task(script))]) as assistant:
        done = run("ask", "x", "--task", "scripted", assistant=assistant)
    assert done.out == "the answer\n"
    assert "thinking" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["plugins"], ["plugins", "--json"], ["models", "list"], ["ask", "--help"]]
)
def test_standard_output_that_is_full(tmp_path: Path, words: list[str]) -> None:
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path)}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*SMALLAI, *words], env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert is_one_error_line(done.stderr), done.stderr
    assert done.stderr.startswith("error: standard output cannot be written: No space left")


def test_a_full_standard_output_ends_the_chat(tmp_path: Path) -> None:
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path)}
    with Path("/dev/full").open("wb") as full:
        command = [*SMALLAI, "chat"]
        done = subprocess.run(
            command, env=env, input="/help\n/task\n", stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert is_one_error_line(done.stderr), done.stderr


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    (tmp_path / "print_all.py").write_text("import os\nos.write(1, b'one')\nos.write(2, b'two')\n")
    code = (
        "import os, sys; from smallai_assistant.cli import main; "
        "sys.argv = ['smallai', 'plugins']; main(); "
        "sys.exit(any(os.readlink(f'/proc/self/fd/{n}') != '/dev/null' for n in (0, 1, 2)))"
    )
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path / "data")}
    command = ["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    assert subprocess.run(command, env=env, check=False).returncode == 0


def test_a_program_gets_its_standard_output_back(tmp_path: Path) -> None:
    code = (
        "import os; from smallai_assistant.cli import main; "
        "print('before'); code = main(['--version']); os.write(1, b'after, on the descriptor\\n'); print('after', code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, version, *after = done.stdout.splitlines()
    assert (before, after) == ("before", ["after, on the descriptor", "after 0"])
    assert version.startswith("smallai ")


def test_commands_may_be_nested(capsys: pytest.CaptureFixture[str]) -> None:
    with own_output(is_whole_process=False):
        write("one\n")
        assert main(["--version"]) == 0
        write("two\n")
        print("not mine")
    print("mine again")
    done = capsys.readouterr()
    assert [line.split()[0] for line in done.out.splitlines()] == ["one", "smallai", "two", "mine"]
    assert done.err == "not mine\n"
