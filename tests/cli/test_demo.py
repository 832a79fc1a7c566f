"""`smallai demo`, the tour."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.cli import demo_data, main
from smallai_assistant.config import ModelsConfig
from smallai_assistant.errors import DownloadError, IntegrityError


@pytest.fixture
def samples(models_dir: Path) -> Path:
    """The folder of the photo and the recording, fetched once. If they cannot be fetched, the test fails."""
    folder = models_dir / ".samples"
    for sample in (demo_data.PHOTO, demo_data.RECORDING):
        demo_data.fetch(sample, folder)
    return folder


@pytest.mark.slow
def test_the_tour_shows_every_task(
    samples: Path, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("SMALLAI_DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("SMALLAI_MODELS__CHAT", "smollm2-135m-instruct")
    monkeypatch.setenv("SMALLAI_DEVICE", "cpu")
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    for number, title in enumerate(("Chat", "Pictures", "Speech", "Recommendations", "One door"), 1):
        assert f"{number} of 5  {title}" in out
    assert ">>> session.send('What is the capital of France?" in out
    assert "tabby" in out or "Egyptian cat" in out
    assert "no matter. try again" in out.lower()
    titles = re.findall(r"^ +\d+\. (.+)$", out, re.MULTILINE)
    assert len(titles) >= 6
    assert "The Time Machine" not in titles, "was read already"
    assert out.index("What to try next") > out.index("5 of 5")
    assert "error" not in err
    assert not (tmp_path / "mine").exists(), "the tour must leave the user's data alone"


@pytest.mark.slow
def test_the_tour_as_json_without_inputs(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new models folder has no samples: with --offline, the tour leaves out two stops and says so."""
    folder = tmp_path / "models"
    folder.mkdir()
    for model in models_dir.iterdir():
        if model.is_dir() and not model.name.startswith("."):
            (folder / model.name).symlink_to(model)
    words = ["demo", "--offline", "--json", "--models-dir", str(folder), "--device", "cpu"]
    with Assistant(
        AssistantConfig(
            data_dir=tmp_path / "data",
            models_dir=folder,
            device="cpu",
            models=ModelsConfig(chat="smollm2-135m-instruct"),
        )
    ) as own:
        assert main(words, open_assistant=lambda config, progress: contextlib.nullcontext(own)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    skipped = [row for row in rows if "skipped" in row]
    assert [row["reason"] for row in skipped] == ["--offline was given"] * 2
    tasks = Counter(row["task"] for row in rows if "task" in row)
    assert tasks["recommendation"] >= 3
    assert tasks["text-generation"] >= 3


def test_the_tour_needs_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--models-dir", str(tmp_path)]) == 1
    assert "smallai models pull starter" in capsys.readouterr().err


def test_a_sample_is_checked(samples: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    (tmp_path / demo_data.RECORDING.file).write_bytes(b"something else")
    assert demo_data.fetch(demo_data.RECORDING, tmp_path).stat().st_size == 318_978
    forged = replace(demo_data.RECORDING, file="other.wav", sha256="0" * 64)
    with pytest.raises(IntegrityError):
        demo_data.fetch(forged, tmp_path)
    with pytest.raises(DownloadError):
        demo_data.fetch(replace(forged, member="no/such.wav"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beckett.wav"]


def test_the_library_is_sound() -> None:
    books = {book.id for book in demo_data.books()}
    readings = demo_data.readings()
    assert len(books) == 30
    assert {row.item for row in readings} <= books
    assert len({(row.user, row.item) for row in readings}) == len(readings)
    assert {row.item for row in readings if row.user == demo_data.READER} == {"time", "worlds", "leagues"}
