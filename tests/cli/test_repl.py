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
from support.echo_learner import Echo, correct, open_echo
from support.scripted import ScriptedPlugin, make_task

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


# -- what a person says of the answers --


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Assistant]:
    """A scripted task that learns, pictures included, and one that does not."""
    with open_echo(tmp_path / "learner", Echo(), make_task()) as assistant:
        yield assistant


def test_a_correction_is_known_to_the_next_turn(talk: Talk, learner: Assistant) -> None:
    lines = ("hello", "/correct HELLO!", "hello", "/undo", "hello", "/good", "/bad too quiet")
    done = talk(learner, *lines, words=("--task", "echo", "--user", "ada"))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "hello",
        "'hello' is answered with 'HELLO!' from now on",
        "HELLO!",
        "taken back",
        "hello",
        "noted; it counts at the next `smallai learn echo`",
        "noted; it counts at the next `smallai learn echo`",
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


def test_feedback_that_cannot_be_learned_at_once_is_told(talk: Talk, learner: Assistant) -> None:
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


def test_learn_goes_on_in_the_background(talk: Talk, tmp_path: Path) -> None:
    """Answers come while it learns; the end of the input waits for it."""
    go = threading.Event()
    echo = Echo(at_step=lambda step: step < 1 or go.wait(30))
    with open_echo(tmp_path / "own", echo) as own:
        correct(own)
        real, asked = echo.run, []

        def run(request: Request, models: Any) -> Iterator[Any]:
            asked.append(request.message.text)
            if request.message.text == "go on":
                go.set()
            return real(request, models)

        echo.run = run  # type: ignore[method-assign]
        done = talk(own, "/learn", "/learn echo", "say 99", "/learn", "go on", words=("--task", "echo"))
        champion = own.adapters.champion_id("echo")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[:3] == ["echo learns in the background; go on talking", "say 99", "go on"]
    assert lines[3] == f"echo: {champion} serves now."
    assert done.err.count("echo still learns") == 2
    assert asked[:2] == ["say 99", "go on"]


def test_a_cycle_that_fails_is_told_and_the_talk_goes_on(talk: Talk, learner: Assistant) -> None:
    done = talk(learner, "one", "/learn", "two", words=("--task", "echo"))
    assert done.out.splitlines() == ["one", "echo learns in the background; go on talking", "two"]
    assert done.err.startswith("error: echo: 0 rows of feedback")
    done = talk(learner, "/learn echo", words=("--json",))
    assert json.loads(done.out)["error"]["code"] == "not_enough_data"


def test_the_status_of_a_cycle_stands_beside_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go = threading.Event()
    with open_echo(tmp_path / "own", Echo(at_step=lambda step: go.wait(30))) as own:
        correct(own)
        chat = Chat(CommandContext(make_parser().parse_args(["chat", "--task", "echo"])), own)
        assert chat.cycles.status() == ""
        chat.handle("/learn")
        deadline = time.monotonic() + 30
        while "training" not in chat.cycles.status() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert re.fullmatch(r"echo learns: training, \d+%", chat.cycles.status())
        go.set()
        while "press Enter" not in chat.cycles.status() and time.monotonic() < deadline:
            time.sleep(0.01)
        chat.handle("")
        assert "serves now" in capsys.readouterr().out
        assert chat.cycles.status() == ""
        go.clear()
        correct(own, first=20)
        chat.handle("/learn")
        go.set()
        chat.cycles.stop()  # as at Ctrl-D
        assert "`smallai learn echo` goes on from there" in capsys.readouterr().err


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
        ("/learn ", ["text-generation"]),
        ("/learn a", []),
        ("/go", ["/good"]),
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

    def __init__(self, env: dict[str, str], *words: str, python: tuple[str, ...] = ("-m", "smallai_assistant.cli")):
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.execve(sys.executable, [sys.executable, *python, *words], env)

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
    terminal.wait_for(r"/imag(\x1b\[[\d;?]*\w)*e")  # on a busy machine the last cell comes by itself
    terminal.type("\x03")
    terminal.wait_for(r"Ctrl-D or /quit ends[\s\S]*text-generation>")
    terminal.type("Tell me a long story about a ship.\r")
    terminal.wait_for(r"\x1b\[2K[A-Z]\w* \w+ \w+", seconds=300)  # the bar is gone, the answer is on its way
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
    """What is shown comes as the cells that changed, so that only words that stand new can be waited for."""
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
