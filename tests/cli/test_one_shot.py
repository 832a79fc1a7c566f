"""`smallai ask`, `transcribe` and `classify` on the real models."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Run, is_one_error_line

from bench.data import imagenet_photos, librivox
from smallai_assistant import (
    Assistant,
)


@pytest.mark.slow
def test_ask_streams_text_and_stores_the_turn(run: Run, shared: Assistant) -> None:
    done = run("ask", "Say hello.", "--max-tokens", 8, "--system", "You are kind.", assistant=shared)
    assert done.code == 0, done.err
    assert done.out.strip()
    done = run("ask", "Say hello.", "--max-tokens", 8, "--json", "--user", "ada", assistant=shared)
    (row,) = done.rows
    assert list(row) == ["text", "task", "turn_id", "model", "adapter", "notices", "timings"]
    assert row["text"].strip()
    assert (row["task"], row["adapter"]) == ("text-generation", None)
    assert "smollm2" in row["model"]
    assert row["timings"]["total_s"] > 0
    turn = shared.store.turn(row["turn_id"])
    assert (turn.user_id, turn.text) == ("ada", row["text"])


@pytest.mark.slow
def test_ask_reads_standard_input(run: Run, shared: Assistant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "question").write_bytes("Qu'est-ce que c'est ? \xff".encode("latin-1"))
    with (tmp_path / "question").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        done = run("ask", "-", "--task", "text-generation", "--max-tokens", 4, "--json", assistant=shared)
    assert done.code == 0, done.err
    asked = shared.store.turn(done.rows[0]["turn_id"]).request.text
    assert asked.startswith("Qu'est-ce que c'est ?")


@pytest.mark.slow
def test_ask_about_a_picture(run: Run, shared: Assistant) -> None:
    photo = imagenet_photos()[0][0]
    done = run("ask", "What is this?", "--image", photo, assistant=shared)
    assert done.code == 0, done.err
    assert "%" in done.out
    (row,) = run("ask", "", "--image", photo, "--json", assistant=shared).rows
    assert row["task"] == "image-classification"


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["ask", "   "], 2, "empty"),
        (["ask", "hi", "--task", "text-generatoin"], 2, "did you mean 'text-generation'?"),
        (["ask", "hi", "--task", "image-classification"], 2, "takes image"),
        (["ask", "hi", "--max-tokens", "0"], 2, "max_tokens is 0"),
        (["ask", "hi", "--max-tokens", "-1"], 2, "max_tokens is -1"),
        (["ask", "hi", "--max-tokens", "9" * 18], 2, "max_tokens"),
        (["ask", "x" * 1_000_001], 1, "1,000,001 characters"),
        (["recommend", "--user", "ada", "-k", "0"], 2, "k is 0"),
        (["recommend", "--user", ""], 2, "user"),
    ],
)
def test_wrong_values_are_told(run: Run, shared: Assistant, words: list[str], code: int, reason: str) -> None:
    done = run(*words, assistant=shared)
    assert (done.code, done.out) == (code, "")
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    (row,) = run(*words, "--json", assistant=shared).rows
    assert set(row["error"]) == {"code", "message", "hint", "suggestion"}


def test_a_missing_model_says_how_to_get_it(run: Run, bare: Path) -> None:
    done = run("ask", "hi", "--task", "text-generation")
    assert done.code == 1
    assert "smallai models pull starter" in done.err.splitlines()[-1]


@pytest.mark.slow
def test_transcribe(run: Run, shared: Assistant) -> None:
    path, reference = librivox()[0]
    (row,) = run("transcribe", path, "--json", assistant=shared).rows
    assert list(row) == ["file", "text", "language", "duration_s", "segments"]
    assert row["file"] == str(path)
    said = set(re.findall(r"[a-z]+", reference.lower()))
    heard = set(re.findall(r"[a-z]+", row["text"].lower()))
    assert len(said & heard) / len(said) > 0.9
    assert row["language"] == "en"
    assert row["duration_s"] > 1
    assert all(list(segment) == ["start_s", "end_s", "text"] for segment in row["segments"])
    assert row["segments"][-1]["end_s"] <= row["duration_s"] + 0.1

    plain = run("transcribe", path, assistant=shared)
    assert plain.out.strip() == row["text"].strip()
    stamped = run("transcribe", path, "--timestamps", assistant=shared)
    assert re.match(r"\[00:00:0\d\.\d{3} - 00:00:\d\d\.\d{3}\] \S", stamped.out)
    srt = run("transcribe", path, "--srt", assistant=shared)
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:\d\d,\d{3}\n\S", srt.out)


@pytest.mark.slow
def test_transcribe_goes_on_after_a_bad_file(run: Run, shared: Assistant, tmp_path: Path) -> None:
    path = librivox()[0][0]
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    done = run("transcribe", bad, tmp_path / "none.wav", path, "--json", assistant=shared)
    assert done.code == 1
    assert [list(row) for row in done.rows[:2]] == [["file", "error"]] * 2
    assert done.rows[0]["error"]["code"] == "invalid_audio"
    assert done.rows[2]["text"]
    assert done.err.count("error: ") == 2
    assert run("transcribe", bad, assistant=shared).code == 1


@pytest.mark.slow
def test_transcribe_is_not_answered(models_dir: Path, tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setenv("SMALLAI_REPLY_TO_SPEECH", "true")
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("SMALLAI_DATA_DIR", str(tmp_path))
    path, reference = librivox()[0]
    done = run("transcribe", path, "--device", "cpu")
    assert done.code == 0, done.err
    assert reference.split()[0].lower() in done.out.lower()
    assert [row["n_turns"] for row in run("sessions", "list", "--json").rows] == [1]


@pytest.mark.slow
def test_classify(run: Run, shared: Assistant) -> None:
    photos = imagenet_photos()[:3]
    done = run("classify", *(path for path, _ in photos), "--top", 2, "--json", assistant=shared)
    assert done.code == 0, done.err
    for row, (path, index) in zip(done.rows, photos, strict=True):
        assert list(row) == ["file", "labels"]
        assert row["file"] == str(path)
        assert [list(label) for label in row["labels"]] == [["label", "id", "score"]] * 2
        assert index in [label["id"] for label in row["labels"]]
    shown = run("classify", photos[0][0], assistant=shared).out.splitlines()
    assert shown[0] == str(photos[0][0])
    assert len(shown) == 6
    assert re.search(r"\d\.\d%", shown[1])

    (row,) = run("classify", photos[0][0], "--labels", "cat, dog,bird", "--json", assistant=shared).rows
    assert {label["label"] for label in row["labels"]} == {"cat", "dog", "bird"}
    assert {label["id"] for label in row["labels"]} == {-1}


@pytest.mark.slow
def test_classify_goes_on_after_a_bad_file(run: Run, shared: Assistant, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    good = imagenet_photos()[0][0]
    done = run("classify", bad, good, tmp_path, assistant=shared)
    assert done.code == 1
    assert str(good) in done.out
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 2
    assert run("classify", good, "--top", 0, assistant=shared).code == 2
    assert run("classify", good, "--labels", ",", assistant=shared).code == 2


@pytest.mark.slow
def test_classify_among_taught_labels(run: Run, shared: Assistant) -> None:
    photos = [path for path, _ in imagenet_photos()[:2]]
    assert "no label was taught" in run("classify", photos[0], "--taught", assistant=shared).err
    given = [shared.teach("image-classification", path, f"thing {n}").feedback.id for n, path in enumerate(photos)]
    rows = run("classify", *photos, "--taught", "--json", assistant=shared).rows
    assert [row["labels"][0]["label"] for row in rows] == ["thing 0", "thing 1"]
    assert {label["label"] for row in rows for label in row["labels"]} == {"thing 0", "thing 1"}
    assert run("classify", photos[0], "--taught", "--labels", "a,b", assistant=shared).code == 2
    shared.erase_feedback(given)
