"""Routing by intent, on a labelled test set that nothing was tuned on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.intents import REQUIRED_ACCURACY, TEST_FILE, TUNE_FILE, read, route_all
from smallai_assistant import Assistant


@pytest.fixture(scope="module")
def assistant(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    with Assistant(models_dir=models_dir, data_dir=tmp_path_factory.mktemp("intents")) as assistant:
        yield assistant


def normalized(text: str) -> str:
    return " ".join("".join(c for c in text.casefold() if c.isalnum() or c.isspace()).split())


def test_test_set_is_large_and_balanced() -> None:
    labels = [task for _, task in read(TEST_FILE)]
    assert len(labels) >= 140
    assert 0.35 <= labels.count("recommendation") / len(labels) <= 0.65


def test_no_utterance_is_in_two_sets(assistant: Assistant) -> None:
    """The test set shares no text with the tuning set or with the utterances of tasks."""
    test = [normalized(text) for text, _ in read(TEST_FILE)]
    tune = [normalized(text) for text, _ in read(TUNE_FILE)]
    offered = [normalized(text) for task in assistant.tasks.values() for text in task.utterances]
    assert len(set(test)) == len(test)
    assert not set(test) & set(tune)
    assert offered
    assert not set(test) & set(offered)


def test_accuracy_of_intents(assistant: Assistant) -> None:
    routed = route_all(assistant)
    wrong = [f"{row.task} taken as {row.chosen}: {row.text}" for row in routed if not row.is_right]
    assert 1 - len(wrong) / len(routed) >= REQUIRED_ACCURACY, "\n".join(wrong)
