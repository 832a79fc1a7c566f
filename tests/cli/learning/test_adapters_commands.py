"""`smallai adapters`, and what `doctor` says about learning, on a scripted learner."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import Run, is_one_error_line
from support.echo_learner import correct

from smallai_assistant import (
    Assistant,
)


def ask(assistant: Assistant, text: str, task: str = "echo") -> str:
    return assistant.ask(text, task=task).text


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
    keys = {
        "id",
        "task",
        "audience",
        "kind",
        "status",
        "is_serving",
        "created_at",
        "parent",
        "n_judged_turns",
        "damage",
    }
    assert set(rows[0]) == keys
    assert rows[0]["damage"] is None
    assert [row["is_serving"] for row in rows] == [False, True]
    assert (rows[0]["kind"], rows[0]["status"], rows[1]["parent"]) == ("voice", "approved", first)
    shown = run("adapters", "list", "--task", "echo").out.splitlines()
    assert (shown[0], shown[2]) == (f"  {first}", f"* {second}")
    assert shown[1].endswith(f"voice, approved, {rows[0]['n_judged_turns']} judged turns, +100.0 points")

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
    assert len(row["feedback_ids"]) == row["n_judged_turns"] > rows[0]["n_judged_turns"]

    apart = run("adapters", "diff", first, second, "--json").row
    assert apart["ids"] == [first, second]
    assert apart["feedback_ids_only"][0] == []
    assert len(apart["feedback_ids_only"][1]) == row["n_judged_turns"] - rows[0]["n_judged_turns"]
    assert apart["changed"]["parent"] == [None, first]
    assert "base model" not in apart["changed"]
    assert "judged turns: " in run("adapters", "diff", first, second).out

    assert run("adapters", "rollback", "echo").out == f"echo: {first} serves now\n"
    assert run("adapters", "rollback", "echo", "--to", "none", "--json").row == {
        "task": "echo",
        "audience": "everyone",
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


def test_show_writes_the_page(run: Run, own: Assistant, tmp_path: Path) -> None:
    correct(own)
    run("learn", "echo")
    adapter_id = str(own.adapters.champion_id("echo"))
    page = tmp_path / "page.html"
    assert run("adapters", "show", adapter_id, "--report", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "It serves now" in text
    assert "SAY" in text
    own.erase_feedback(own.adapters.get(adapter_id).report["held_out_ids"][:1])
    own.rollback("echo")
    run("adapters", "show", adapter_id, "--report", page)
    text = page.read_text(encoding="utf-8")
    assert "It was promoted and no longer serves" in text
    assert "SAY" not in text


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
