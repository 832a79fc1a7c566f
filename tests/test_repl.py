"""`smallai chat`: scripted through standard input, and with a person at a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from scripted import ScriptedPlugin, make_task

from bench.data import imagenet_photos, librivox
from smallai_assistant import Assistant, AssistantConfig, InvalidInput, Notice, Request, TextPart
from smallai_assistant.cli import main
from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.parser import make_parser
from smallai_assistant.cli.prompt import ChatCompleter
from smallai_assistant.cli.repl import COMMANDS, Chat, split_path


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Talk = Callable[..., Ran]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Runs `smallai chat` on lines of standard input."""

    def talk(assistant: Assistant, *lines: str, words: tuple[str, ...] = ()) -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", *words], open_assistant=lambda config, progress: contextlib.nullcontext(assistant))
        return Ran(code, *capsys.readouterr())

    return talk


def story(request: Request) -> Iterator[Any]:
    """Echoes; raises on "fail"; says how much it remembers."""
    if request.message.text == "fail":
        raise InvalidInput("cannot", hint="say something else")
    if request.message.text == "crash":
        raise RuntimeError("boom")
    yield TextPart(f"{len(request.history)}:")
    yield TextPart(request.message.text)
    yield Notice("odd", "something is odd")


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Assistant]:
    """Three scripted tasks and nothing else."""
    tasks = (
        make_task(story, name="text-generation", title="talks"),
        make_task(story, name="recommendation"),
        make_task(
            lambda request: iter([TextPart(f"saw {len(request.message.parts[0].read())} {request.message.text}")]),
            name="image-classification",
            accepts=(frozenset({"image"}), frozenset({"image", "text"})),
        ),
    )
    config = AssistantConfig(
        data_dir=tmp_path / "data", device="cpu", disabled_plugins=("chat", "image", "speech", "recommend")
    )
    with Assistant(config, plugins=[ScriptedPlugin(*tasks)]) as assistant:
        yield assistant


# -- lines of standard input --


def test_lines_are_answered_until_they_end(talk: Talk, scripted: Assistant) -> None:
    done = talk(scripted, "/task text-generation", "hello", "", "  ", "again", "//slash", "/usr/bin what?")
    assert done.code == 0
    assert done.out.splitlines() == ["task: text-generation", "0:hello", "1:again", "2:/slash", "3:/usr/bin what?"]
    assert done.err.count("note: something is odd\n") == 4


@pytest.mark.parametrize("word", ["/quit", "/exit", "/QUIT"])
def test_quit_ends(talk: Talk, scripted: Assistant, word: str) -> None:
    done = talk(scripted, "one", word, "two", words=("--task", "text-generation"))
    assert (done.code, done.out) == (0, "0:one\n")


def test_an_error_is_one_line_and_the_talk_goes_on(talk: Talk, scripted: Assistant) -> None:
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
    for command in COMMANDS.values():
        assert command.usage in done.out
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
    assert failed == {"error": {"code": "invalid_input", "message": "cannot", "hint": "say something else"}}
    assert past["said"] == "hello"
    assert "/image FILE" in done.err


def test_an_answer_that_cannot_be_stored_is_told(talk: Talk, scripted: Assistant, monkeypatch: Any) -> None:
    from smallai_assistant.errors import StoreFull

    def full(*_: Any) -> Any:
        raise StoreFull("the disk is full")

    monkeypatch.setattr(scripted.store, "_row_of", full)
    done = talk(scripted, "hello", words=("--task", "text-generation"))
    assert done.out == "0:hello\n"
    assert "error: the disk is full" in done.err


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    [
        ("a.png", "a.png", ""),
        ("a.png what's this?", "a.png", "what's this?"),
        ("'b c.png' what?", "b c.png", "what?"),
        ('"b c.png"', "b c.png", ""),
        (r"b\ c.png what?", "b c.png", "what?"),
        ("b c.png what?", "b c.png", "what?"),
        ("b c.png", "b c.png", ""),
        ("it's.png and", "it's.png", "and"),
        ("none.png x y", "none.png", "x y"),
        ("~/a.png hm", str(Path("~/a.png").expanduser()), "hm"),
    ],
)
def test_split_path(text: str, name: str, rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.png", "b c.png", "it's.png"):
        (tmp_path / file).write_bytes(b"")
    assert split_path(text, usage="") == (Path(name), rest)


# -- completion --


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/", [f"/{name}" for name in COMMANDS]),
        ("/i", ["/image"]),
        ("/task ", ["auto", "text-generation"]),
        ("/task te", ["text-generation"]),
        ("/image ph", ["photo.png"]),
        ("/image 'my", ["'my photo.png'"]),
        (r"/image my\ p", ["'my photo.png'"]),
        ("/audio f", ["folder/"]),
        ("/audio folder/", ["folder/memo.wav"]),
        ("/image .h", [".hidden"]),
        ("/image photo.png what", []),
        ("/image nowhere/x", []),
        ("hello", []),
        ("", []),
    ],
)
def test_completion(typed: str, completed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for file in ("photo.png", "my photo.png", ".hidden", "folder/memo.wav"):
        (tmp_path / file).write_bytes(b"")
    found = ChatCompleter(COMMANDS, ["auto", "text-generation"]).get_completions(Document(typed), CompleteEvent())
    assert [each.text for each in found] == completed


# -- somebody is there --


def test_ctrl_c_stops_the_answer_and_its_compute(scripted: Assistant, capsys: pytest.CaptureFixture[str]) -> None:
    """A signal to this very process while it waits for the next part."""
    steps: list[int] = []
    ended = threading.Event()

    def endless(request: Request) -> Iterator[Any]:
        try:
            while True:
                steps.append(1)
                yield TextPart(".")
                if len(steps) == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        finally:
            ended.set()

    task = make_task(endless, name="endless")
    with Assistant(data_dir=scripted.config.data_dir / "own", plugins=[ScriptedPlugin(task)]) as own:
        args = make_parser().parse_args(["chat", "--task", "endless"])
        chat = Chat(CommandContext(args), own)
        chat.confirm = lambda question: False
        assert chat.handle("go") is True
        assert ended.wait(5)
        assert "stopped" in capsys.readouterr().err
        session_id = chat.session.id
        deadline = time.monotonic() + 5
        while not own.store.turns(session_id) and time.monotonic() < deadline:
            time.sleep(0.01)  # the stopped turn is stored behind the prompt's back
        assert [turn.error for turn in own.store.turns(session_id)] == ["cancelled"]
        chat.confirm = None
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            chat.handle("go")


def test_a_missing_model_is_offered(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`yes` pulls, from what the test lays into the folder; `no` leaves the error."""
    questions: list[str] = []
    pulled: list[list[str]] = []
    config = AssistantConfig(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu")
    with Assistant(config) as own:
        chat = Chat(CommandContext(make_parser().parse_args(["chat", "--task", "text-generation"])), own)

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


class Terminal:
    """`smallai chat` on a terminal of its own."""

    def __init__(self, env: dict[str, str], *words: str) -> None:
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "smallai_assistant.cli", *words], env)

    def wait_for(self, pattern: str, *, seconds: float = 60) -> None:
        """Reads until what is shown since the last key matches."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, f"{pattern!r} never came: {self.seen[-2000:]!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended before {pattern!r}: {self.seen[-2000:]!r}") from None

    def type(self, keys: str) -> None:
        self.seen = ""
        os.write(self._fd, keys.encode())

    def end(self, *, seconds: float = 30) -> int:
        """The exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if select.select([self._fd], [], [], 0.05)[0]:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        raise AssertionError(f"it did not end: {self.seen[-2000:]!r}")


@pytest.fixture
def user_env(models_dir: Path, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SMALLAI_MODELS_DIR": str(models_dir),
        "SMALLAI_DATA_DIR": str(tmp_path / "data"),
        "SMALLAI_MODELS__CHAT": "smollm2-135m-instruct",
        "SMALLAI_MODELS__CHAT_QUANTIZATION": "none",
        "SMALLAI_TASKS__TEXT_GENERATION__MAX_TOKENS": "400",
        "SMALLAI_DEVICE": "cpu",
        "TERM": "xterm",
        "COLUMNS": "100",
    }


@pytest.mark.slow
def test_a_conversation_at_a_terminal(user_env: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal(user_env, "chat", "--task", "text-generation")
    terminal.wait_for("Ctrl-D ends")
    terminal.wait_for("text-generation>")
    terminal.type("/imag\t")
    terminal.wait_for("/image")
    terminal.type("\x03")
    terminal.wait_for("Ctrl-D or /quit ends")
    terminal.type("Tell me a long story about a ship.\r")
    terminal.wait_for(r"\r\n\S+ \S+ \S+ \S+")  # the answer is on its way
    terminal.type("\x03")
    terminal.wait_for("stopped")
    terminal.wait_for("text-generation>")
    terminal.type("/history\r")
    terminal.wait_for("assistant:")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "smallai chat --session" in terminal.seen
    assert "Traceback" not in terminal.seen
    history = tmp_path / "data" / "chat_history"
    assert "long story" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_ctrl_c_ends_a_one_shot_command_with_130(user_env: dict[str, str]) -> None:
    terminal = Terminal(user_env, "ask", "Tell me a long story about a ship.", "--task", "text-generation")
    terminal.wait_for(r"\S+ \S+ \S+ \S+")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.seen


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
    """Every address of the process but its own files is out of reach."""
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
