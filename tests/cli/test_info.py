"""`smallai plugins`, `sessions` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.command_line import Run
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import (
    Assistant,
)


def test_plugins_lists_what_works_and_what_is_broken(run: Run, tmp_path: Path) -> None:
    class Broken(ScriptedPlugin):
        pass

    with Assistant(
        data_dir=tmp_path, plugins=[ScriptedPlugin(make_task()), Broken(make_task(name="other", accepts="text"))]
    ) as own:
        done = run("plugins", assistant=own)
        rows = {row["name"]: row for row in run("plugins", "--json", assistant=own).rows}
    assert done.code == 0
    assert "left out:" in done.out
    assert "accepts must be a tuple" in rows["Broken"]["broken"]
    assert {"chat", "image", "speech", "recommend"} <= set(rows)
    for name, task in (
        ("chat", "text-generation"),
        ("image", "image-classification"),
        ("speech", "automatic-speech-recognition"),
        ("recommend", "recommendation"),
    ):
        assert [row["name"] for row in rows[name]["tasks"]] == [task]
        assert rows[name]["broken"] is None


def test_sessions_list(run: Run, tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path, plugins=[ScriptedPlugin(make_task())]) as own:
        assert "no conversation yet" in run("sessions", "list", assistant=own).out
        for text in ("first\x1b[2J", "second"):
            _ = own.ask(text, task="scripted", user_id="ada").turn
        done = run("sessions", "list", assistant=own)
        rows = run("sessions", "list", "--json", "--limit", 1, assistant=own).rows
    assert done.out.index("second") < done.out.index("first")
    assert "\x1b" not in done.out
    (row,) = rows
    assert (row["first_text"], row["user_id"], row["n_turns"]) == ("second", "ada", 1)


@pytest.mark.slow
def test_doctor_is_content_with_the_starter_models(run: Run, shared: Assistant) -> None:
    words = ["doctor", "--models-dir", shared.config.models_dir, "--data-dir", shared.config.data_dir]
    done = run(*words, assistant=shared)
    assert done.code == 0, done.out
    assert done.out.splitlines()[-1] == "all is well"
    rows = {row["name"]: row for row in run(*words, "--json", assistant=shared).rows}
    assert {row["status"] for row in rows.values()} <= {"ok", "note"}
    assert {"python", "torch", "memory", "sqlite", "plugin chat", "disk of data_dir"} <= set(rows)
    assert "journal mode" in rows["sqlite"]["text"]


def test_doctor_says_how_to_get_what_is_missing(run: Run, bare: Path, monkeypatch: Any) -> None:
    done = run("doctor")
    assert done.code == 1
    assert "smallai models pull starter" in done.out
    rows = run("doctor", "--json", "--device", "cuda:7").rows
    missing = {row["name"] for row in rows if row["status"] == "missing"}
    assert "model for text-generation" in missing
    import torch

    if not torch.cuda.is_available():
        assert "device" in missing
    (bare / "file").write_text("")
    broken = run("doctor", "--json", "--data-dir", bare / "file")
    assert broken.code == 1
    assert any("data directory" in row["text"] and row["status"] == "missing" for row in broken.rows)
