"""The learning side of the command line: feedback, teach, learn, adapters, doctor; on a scripted learner."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.echo_learner import N_STEPS, Echo, correct, open_echo
from support.scripted import make_task

from smallai_assistant import Assistant, ImagePart
from smallai_assistant.cli import main

PIXEL = b"\x89PNG\r\n\x1a\n"


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def row(self) -> dict[str, Any]:
        (row,) = self.rows
        return row


Run = Callable[..., Ran]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def own(tmp_path: Path, echo: Echo) -> Iterator[Assistant]:
    with open_echo(tmp_path / "data", echo, make_task()) as assistant:
        yield assistant


@pytest.fixture
def run(own: Assistant, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> Ran:
        code = main([str(word) for word in words], open_assistant=lambda *_: contextlib.nullcontext(own))
        return Ran(code, *capsys.readouterr())

    return run


def ask(assistant: Assistant, text: str, task: str = "echo") -> str:
    return assistant.ask(text, task=task).text


def is_one_error_line(text: str) -> bool:
    return text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1


# -- feedback --


def test_feedback_add_says_what_it_changed(run: Run, own: Assistant) -> None:
    turn = own.ask("hello", task="echo", user_id="ada").turn
    done = run("feedback", "add", turn.id, "--bad", "--correction", "HELLO", "--comment", "too quiet")
    assert (done.code, done.err) == (0, "")
    assert done.out == "'hello' is answered with 'HELLO' from now on\n"
    assert ask(own, "hello") == "HELLO"
    (row,) = own.feedback.rows()
    assert row.feedback is not None
    assert (row.turn_id, row.source) == (turn.id, "ada")
    assert (row.feedback.is_good, row.feedback.correction, row.feedback.comment) == (False, "HELLO", "too quiet")
    assert row.feedback.may_train


def test_feedback_add_takes_every_field_and_the_last_turn(run: Run, own: Assistant) -> None:
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


def test_feedback_that_changes_nothing_at_once_says_what_it_is_good_for(run: Run, own: Assistant) -> None:
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
        (["add", "last", "--signal", "stars", "--value", "many"], "no number"),
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


def test_feedback_erase_names_what_learned_from_it_and_how_to_be_rid_of_it(run: Run, own: Assistant) -> None:
    ids = correct(own)
    assert run("learn", "echo").code == 0
    first = own.adapters.champion("echo")
    assert first is not None
    gone = first.feedback_ids[0]
    done = run("feedback", "erase", gone)
    assert done.code == 0
    assert done.out.splitlines() == [
        "erased the content of 1 feedback row",
        f"  {first.id} learned from it, and it serves now",
        "  rebuild without it: smallai learn echo --without-erased",
    ]
    assert run("learn", "--without-erased", "--json").code in (0, 3)
    second = own.adapters.versions()[-1]
    assert second.id != first.id
    assert set(second.feedback_ids) == set(first.feedback_ids) - {gone}
    run("adapters", "promote", second.id, "--force")
    row = run("feedback", "erase", next(each for each in ids if each in second.feedback_ids), "--json").row
    assert row["champions"] == [second.id]
    assert row["adapters"] == [first.id, second.id]
    assert row["rebuild"] == ["echo"]


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


# -- teach --


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


# -- learn --


def test_learn_promotes_and_shows_the_figures(run: Run, own: Assistant) -> None:
    correct(own)
    assert ask(own, "say 99") == "say 99"
    done = run("learn", "echo")
    assert done.code == 0, done
    champion = own.adapters.champion_id("echo")
    lines = done.out.splitlines()
    assert lines[0] == f"echo: {champion} serves now."
    assert lines[1].split() == ["right", "words", "n", "before", "after", "points", "95", "%", "interval"]
    assert lines[2].split()[:2] == ["new", "feedback"]
    assert lines[2].split()[3:6] == ["0.0%", "100.0%", "+100.0"]
    assert any("+ say" in line and "-> SAY" in line for line in lines)
    assert "loss 1 to 0.125" in done.err
    assert ask(own, "say 99") == "SAY 99"


def test_learn_json_is_the_report(run: Run, own: Assistant) -> None:
    correct(own)
    row = run("learn", "echo", "--json").row
    assert (row["task"], row["outcome"], row["is_approved"], row["is_promoted"]) == ("echo", "promoted", True, True)
    assert row["adapter_id"] == own.adapters.champion_id("echo")
    (figures,) = row["slices"]
    assert set(figures) == {"name", "kind", "n", "before", "after", "low", "high", "change"}
    assert row["losses"][-1] == 1 / N_STEPS


def test_a_refusal_is_3_and_changes_nothing(run: Run, own: Assistant, echo: Echo) -> None:
    echo.learns = False
    correct(own)
    done = run("learn", "echo")
    assert done.code == 3
    assert "the gate refused" in done.out
    assert "no sure improvement on new feedback" in done.out
    assert own.adapters.champion_id("echo") is None
    (refused,) = own.adapters.versions()
    forced = run("adapters", "promote", refused.id)
    assert (forced.code, forced.out) == (1, "")
    assert "the gate did not approve" in forced.err
    assert run("adapters", "promote", refused.id, "--json").row["error"]["code"] == "gate_rejected"
    assert run("adapters", "promote", refused.id, "--force").out == f"echo: {refused.id} serves now\n"
    assert "forced" in own.adapters.log("echo")[-1]["reason"]


def test_no_promote_leaves_the_word_to_a_person(run: Run, own: Assistant) -> None:
    correct(own)
    done = run("learn", "echo", "--no-promote")
    assert done.code == 0
    assert "was approved; promote it" in done.out
    assert own.adapters.champion_id("echo") is None
    (approved,) = own.adapters.versions()
    assert run("adapters", "promote", approved.id).code == 0
    assert ask(own, "say 99") == "SAY 99"


def test_learn_without_a_task_takes_those_with_news(run: Run, own: Assistant) -> None:
    done = run("learn")
    assert (done.code, done.out, done.err) == (0, "", "nothing to learn\n")
    correct(own, 2)
    few = run("learn")
    assert (few.code, few.out) == (0, "")
    assert few.err.startswith("skipped: echo: ")
    skipped = run("learn", "--json").row
    assert (skipped["task"], skipped["outcome"]) == ("echo", "skipped")
    assert run("learn", "echo").code == 1  # whoever names it wants it
    correct(own, 18, first=2)
    assert run("learn", "--json").row["outcome"] == "promoted"
    assert run("learn").err == "nothing to learn\n"
    assert run("learn", "--without-erased").err == "nothing was erased that an adapter learned from\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["eho"], "did you mean 'echo'?"),
        (["scripted"], "does not learn"),
        (["echo", "--budget-minutes", "0"], "more than 0"),
        (["echo", "--budget-minutes", "nan"], "more than 0"),
        (["echo", "--budget-minutes", "soon"], "no number"),
        (["echo", "--seed", "-1"], "give 0 to"),
        (["--report", "page.html"], "needs a TASK"),
        (["echo", "--report", "."], "a folder"),
        (["echo", "--report", "nowhere/page.html"], "no such folder"),
    ],
)
def test_wrong_learning_is_told_before_it_begins(
    run: Run, own: Assistant, echo: Echo, words: list[str], reason: str
) -> None:
    done = run("learn", *words)
    assert (done.code, done.out) == (2, ""), done
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    assert echo.begun_at == []


def test_ctrl_c_stops_at_a_step_and_the_next_cycle_goes_on(run: Run, own: Assistant, echo: Echo) -> None:
    """A signal to this very process while it trains."""
    correct(own)
    echo.at_step = lambda step: os.kill(os.getpid(), signal.SIGINT) or time.sleep(1) if step == 3 else None
    done = run("learn", "echo")
    assert done.code == 130
    assert done.out == ""
    assert "stopping at the next step" in done.err
    assert "goes on from the last checkpoint" in done.err
    assert "Traceback" not in done.err
    assert own.adapters.versions() == []
    assert own.adapters.champion_id("echo") is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    echo.at_step = lambda step: None
    assert run("learn", "echo").code == 0
    assert echo.begun_at == [0, 3]


def test_ctrl_c_that_comes_too_late_still_tells_what_came_out(run: Run, own: Assistant, echo: Echo) -> None:
    correct(own)
    real = echo.rebuild

    def slow(judged_turns: Any) -> None:  # it is called once the new adapter serves
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        real(judged_turns)

    echo.rebuild = slow  # type: ignore[method-assign]
    done = run("learn", "echo")
    assert done.code == 130
    assert f"{own.adapters.champion_id('echo')} serves now" in done.out
    assert own.adapters.champion_id("echo") is not None


STUBBORN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from smallai_assistant.cli import main
from support.echo_learner import Echo, open_echo
def hang(step):
    print("step", step, flush=True)
    if step == 2:
        time.sleep(600)
folder = Path({folder!r})
raise SystemExit(main(["learn", "echo"], open_assistant=lambda *_: open_echo(folder, Echo(at_step=hang))))
"""


def test_a_second_ctrl_c_ends_a_step_that_hangs(tmp_path: Path) -> None:
    with open_echo(tmp_path / "data") as assistant:
        correct(assistant)
    code = STUBBORN.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "data"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    while "step 2" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    while "once more ends at once" not in (line := process.stderr.readline()):
        assert line
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err
    with open_echo(tmp_path / "data", echo := Echo()) as assistant:
        assert assistant.adapters.champion_id("echo") is None
        assert assistant.learn("echo").is_promoted
    assert echo.begun_at == [2]


def test_two_cycles_at_once_are_refused(run: Run, own: Assistant, echo: Echo) -> None:
    correct(own)
    go = threading.Event()
    echo.at_step = lambda step: go.wait(30)
    job = own.learn_in_background("echo")
    while not echo.begun_at:
        time.sleep(0.01)
    done = run("learn", "echo")
    go.set()
    assert job.result(30).is_promoted
    assert done.code == 1
    assert "another learning cycle runs" in done.err


def test_the_report_is_written_as_a_page(run: Run, own: Assistant, tmp_path: Path) -> None:
    correct(own)
    page = tmp_path / "page.html"
    assert run("learn", "echo", "--report", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert str(own.adapters.champion_id("echo")) in text
    assert "<html" in text


# -- adapters --


def test_adapters_from_list_to_remove(run: Run, own: Assistant) -> None:
    assert "nothing was learned yet" in run("adapters", "list").out
    assert run("adapters", "verify").out == "nothing was learned yet\n"
    correct(own)
    run("learn", "echo")
    correct(own, first=20)
    run("learn", "echo")
    first, second = (version.id for version in own.adapters.versions())
    if own.adapters.champion_id("echo") != second:  # nothing was left to improve
        assert run("adapters", "promote", second, "--force").code == 0

    rows = run("adapters", "list", "--json").rows
    assert [row["id"] for row in rows] == [first, second]
    assert set(rows[0]) == {"id", "task", "kind", "status", "is_serving", "created_at", "parent", "n_lessons"}
    assert [row["is_serving"] for row in rows] == [False, True]
    assert (rows[0]["kind"], rows[0]["status"], rows[1]["parent"]) == ("voice", "approved", first)
    shown = run("adapters", "list", "--task", "echo").out.splitlines()
    assert (shown[0], shown[2]) == (f"  {first}", f"* {second}")
    assert shown[1].endswith(f"voice, approved, {rows[0]['n_judged_turns']} lessons, +100.0 points")

    shown_first = run("adapters", "show", first).out
    assert "base model: echo-1" in shown_first
    assert "file voice.json: 15 B" in shown_first
    assert "after: the bare model" in shown_first
    assert "serves: the gate approved it" in shown_first
    row = run("adapters", "show", second, "--json").row
    assert row["base"] == {"model": "echo-1"}
    assert list(row["files"]["voice.json"]) == ["sha256", "n_bytes"]
    assert row["report"]["task"] == "echo"
    assert row["log"][-1]["adapter_id"] == second
    assert len(row["feedback_ids"]) == row["n_lessons"] > rows[0]["n_lessons"]

    apart = run("adapters", "diff", first, second, "--json").row
    assert apart["ids"] == [first, second]
    assert apart["feedback_ids_only"][0] == []
    assert len(apart["feedback_ids_only"][1]) == row["n_lessons"] - rows[0]["n_lessons"]
    assert apart["changed"]["parent"] == [None, first]
    assert "base model" not in apart["changed"]
    assert "lessons: " in run("adapters", "diff", first, second).out

    assert run("adapters", "rollback", "echo").out == f"echo: {first} serves now\n"
    assert run("adapters", "rollback", "echo", "--to", "none", "--json").row == {
        "task": "echo",
        "before": first,
        "serves": None,
    }
    assert ask(own, "say 99") == "say 99"
    assert run("adapters", "rollback", "echo", "--to", second).code == 0
    kept = run("adapters", "remove", first, second)
    assert kept.code == 1
    assert kept.out.startswith(f"{first}: removed, ")
    assert "serves echo" in kept.err
    assert [row["id"] for row in run("adapters", "list", "--json").rows] == [second]


def test_a_damaged_adapter_is_found(run: Run, own: Assistant) -> None:
    correct(own)
    run("learn", "echo")
    adapter = own.adapters.versions()[0]
    assert run("adapters", "verify", "--json").row == {"id": adapter.id, "is_intact": True}
    (adapter.folder / "voice.json").write_text("{}")
    broken = run("adapters", "verify", "--json")
    assert broken.code == 1
    assert broken.row["error"]["code"] == "integrity_error"
    assert broken.row["id"] == adapter.id
    (adapter.folder / "smallai-adapter.json").unlink()
    assert "1 damaged version left out" in run("adapters", "list").err
    assert run("adapters", "verify").code == 1  # those without a manifest too
    assert run("adapters", "show", adapter.id).code == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["show", "x"], "there is no adapter 'x'"),
        (["promote", "x"], "there is no adapter 'x'"),
        (["diff", "x", "y"], "there is no adapter 'x'"),
        (["verify", "x"], "there is no adapter 'x'"),
        (["remove", "../../x"], "there is no adapter"),
        (["rollback", "echo"], "no adapter serves echo"),
        (["rollback", "eho", "--to", "none"], "did you mean 'echo'?"),
        (["rollback", "echo", "--to", "x"], "there is no adapter 'x'"),
        (["diff", "x"], "B"),
        (["lst"], "did you mean 'list'?"),
    ],
)
def test_wrong_adapters_are_told(run: Run, own: Assistant, words: list[str], reason: str) -> None:
    done = run("adapters", *words)
    assert (done.code, done.out) == (2, ""), done
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    assert own.adapters.log("eho") == []


# -- doctor, narrow terminals --


def test_doctor_shows_what_was_learned(run: Run, own: Assistant) -> None:
    rows = {row["name"]: row for row in run("doctor", "--json").rows}
    assert rows["feedback"]["text"] == "none yet"
    assert rows["extra [train]"]["status"] in ("ok", "note")
    ids = correct(own)
    own.undo_feedback(ids[0])
    run("learn", "echo")
    rows = {row["name"]: row for row in run("doctor", "--json").rows}
    assert rows["feedback"]["text"] == "19 of echo"
    champion = own.adapters.champion("echo")
    assert champion is not None
    assert rows["champion of echo"]["text"] == f"{champion.id} (the gate approved it)"
    (champion.folder / "voice.json").write_text("{}")
    rows = {row["name"]: row for row in run("doctor", "--json").rows}
    assert rows["champion of echo"]["status"] == "missing"
    assert "voice.json has changed" in rows["champion of echo"]["text"]


def test_doctor_says_how_to_get_what_training_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from smallai_assistant.cli import doctor

    monkeypatch.setattr(doctor, "_TRAIN_PACKAGES", ("json", "no-such-package"))
    rows = {row["name"]: row for row in run("doctor", "--json").rows}
    assert rows["extra [train]"]["status"] == "note"
    assert "no-such-package" in rows["extra [train]"]["text"]
    assert rows["extra [train]"]["hint"] == "pip install 'smallai-assistant[train]'"


def test_tables_fit_a_terminal_of_20_columns(run: Run, own: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    correct(own)
    monkeypatch.setenv("COLUMNS", "20")
    done = run("learn", "echo")
    assert "  right words new feedback, n " in done.out
    for words in (["feedback", "list"], ["feedback", "stats"], ["adapters", "list"]):
        assert run(*words).code == 0
