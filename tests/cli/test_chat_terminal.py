"""`smallai chat` and `ask` with a person at a terminal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.echo_learner import correct, open_echo
from support.pseudo_terminal import Terminal
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import (
    Assistant,
    AssistantConfig,
    Request,
    TextPart,
)
from smallai_assistant.cli import make_parser
from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.repl import Repl


def test_ctrl_c_stops_the_answer_and_its_compute(scripted: Assistant, capsys: pytest.CaptureFixture[str]) -> None:
    """The signal comes while this process waits for the next part."""
    steps: list[int] = []
    ended = threading.Event()

    def endless(request: Request) -> Iterator[Any]:
        try:
            while True:
                steps.append(1)
                yield TextPart(".")
                if len(steps) == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                request.cancel.wait(0.01)
        finally:
            ended.set()

    task = make_task(endless, name="endless")
    with Assistant(data_dir=scripted.config.data_dir / "own", plugins=[ScriptedPlugin(task)]) as own:
        args = make_parser().parse_args(["chat", "--task", "endless"])
        chat = Repl(CommandContext(args), own).chat
        chat.confirm = lambda question: False
        assert chat.handle("go") is True
        assert ended.wait(60)
        assert "stopped" in capsys.readouterr().err
        chat.confirm = None
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            chat.handle("go")
        session_id = chat.session.id
    # Closing the assistant has waited for the writer of the turns.
    with Assistant(data_dir=scripted.config.data_dir / "own") as own:
        assert [turn.error for turn in own.store.turns(session_id)] == ["cancelled", "cancelled"]


def test_a_missing_model_is_offered(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer "no" leaves the error; "yes" pulls, which here links a model that is there."""
    questions: list[str] = []
    pulled: list[list[str]] = []
    config = AssistantConfig(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu")
    with Assistant(config) as own:
        chat = Repl(CommandContext(make_parser().parse_args(["chat", "--task", "text-generation"])), own).chat

        def pull(names: list[str], **_: Any) -> list[str]:
            pulled.append(names)
            (tmp_path / "models").mkdir(exist_ok=True)
            os.symlink(models_dir / "smollm2-135m-instruct", tmp_path / "models" / "smollm2-135m-instruct")
            return names

        own.catalog.pull = pull  # type: ignore[method-assign]
        chat.confirm = lambda question: bool(questions.append(question)) or len(questions) > 1
        assert chat.handle("Hello") is True
        assert "smallai models pull starter" in capsys.readouterr().err
        assert pulled == []
        assert chat.handle("Hello") is True
        assert pulled == [["starter"]]
        assert capsys.readouterr().out.strip()
        assert "Get starter now?" in questions[0]


RENDERED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from smallai_assistant import Assistant, TextPart
from smallai_assistant.cli import main
from support.scripted import ScriptedPlugin, make_task
def answer(request):
    for word in "It has **bold** words that are wrapped.\\n\\n```python\\nx = 1\\n".split(" "):
        yield TextPart(word + " ")
    yield TextPart("hostile\\x1b]0;owned\\x07")
    request.cancel.wait(600)
task = make_task(answer, name="talk")
raise SystemExit(main(["chat", "--task", "talk"], open_assistant=lambda *_: Assistant(
    data_dir=Path({folder!r}), disabled_plugins=("chat", "image", "speech", "recommend"), plugins=[ScriptedPlugin(task)]
)))
"""


def test_ctrl_c_keeps_the_rendered_answer(tmp_path: Path) -> None:
    code = RENDERED.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "own"))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    terminal = Terminal({**env, "TERM": "xterm"}, python=("-c", code), size=(30, 24))
    terminal.wait_for("talk>")
    terminal.type("hello\r")
    terminal.wait_for("hostile")
    assert "It has \x1b[1mbold\x1b[0m words that are\x1b[K\r\nwrapped." in terminal.seen
    assert "─── python" in terminal.seen
    assert "```" not in terminal.seen
    assert "\x1b]0;" not in terminal.seen
    terminal.type("\x03")
    terminal.wait_for(r"stopped[\s\S]*talk>")
    assert "^C" not in terminal.seen
    assert "\x1b[J" not in terminal.seen.split("stopped")[0]
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen


@pytest.mark.slow
def test_a_conversation_at_a_terminal(user_env: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal(user_env, "chat", "--task", "text-generation")
    terminal.wait_for("Ctrl-D ends")
    terminal.wait_for("text-generation>")
    terminal.type("/imag\t")
    terminal.wait_for(r"/imag(\x1b\[[\d;?]*\w)*e")  # on a busy machine, the last cell is drawn separately
    terminal.type("\x03")
    terminal.wait_for(r"Ctrl-D or /quit ends[\s\S]*text-generation>")
    terminal.type("Tell me a long story about a ship.\r")
    terminal.wait_for(r"[A-Z]\w* \w+ \w+[^\n]*\x1b\[K\r?\n", seconds=300)  # a line of the answer
    terminal.type("\x03")
    terminal.wait_for("stopped")
    terminal.wait_for("text-generation>")
    terminal.type("/history\r")
    terminal.wait_for(r"assistant:[\s\S]*text-generation>")  # what is typed before the prompt is there may be lost
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "smallai chat --session" in terminal.seen
    assert "Traceback" not in terminal.seen
    history = tmp_path / "data" / "chat_history"
    assert "long story" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


LEARNING = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.echo_learner import Echo, open_echo
from smallai_assistant.cli import main
task = Echo(at_step=lambda step: time.sleep(0.3))
raise SystemExit(main(["chat", "--task", "echo"], open_assistant=lambda *_: open_echo(Path({folder!r}), task)))
"""


def test_learning_from_feedback_at_a_terminal(tmp_path: Path) -> None:
    """The terminal gets only the cells that change, so the test can wait for new words only."""
    folder = tmp_path / "own"
    with open_echo(folder) as own:
        correct(own)
    code = LEARNING.format(tests=str(Path(__file__).parents[1]), folder=str(folder))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    terminal = Terminal(env, python=("-c", code))
    terminal.wait_for("echo>")
    terminal.type("hello\r/corr\t")
    terminal.wait_for("ect")  # completes /corr
    terminal.type(" HI\r")
    terminal.wait_for("is answered with 'HI' from now on[^>]*echo>")
    terminal.type("/learn\r")
    terminal.wait_for(r"learns: .*%")
    terminal.wait_for("press")
    terminal.type("\r")
    terminal.wait_for(r"serves now[\s\S]*echo>")
    terminal.type("say 99\r")
    terminal.wait_for(r"SAY 99[^>]*echo>")
    terminal.type("/quit\r")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen


@pytest.mark.slow
def test_ctrl_c_ends_ask_with_130(user_env: dict[str, str]) -> None:
    terminal = Terminal(user_env, "ask", "Tell me a long story about a ship.", "--task", "text-generation")
    terminal.wait_for(r"\S+ \S+ \S+ \S+")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.seen
