"""Training of item-item weights. No model is loaded."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.recommend_pairs import FIND, clicks, training_of

from smallai_assistant import errors
from smallai_assistant.learning.evaluation import split
from smallai_recommend.evaluation import TOP, Evaluator
from smallai_recommend.examples import examples_of
from smallai_recommend.training import GRID, MIXES, train
from smallai_recommend.weights import LearnedWeights


def test_training_finds_what_goes_together(context: Any, evaluator: Evaluator, tmp_path: Path) -> None:
    learned_from, held_out = split(examples_of(clicks(), context, FIND))
    held_out = [example for example in held_out if example.payload.choice.item.startswith("b")]
    before = np.mean([score.value for score in evaluator.scores(held_out, None)])
    training = training_of(tmp_path, learned_from)
    assert train(training, evaluator) == "item-weights"
    assert len(training.trials) == len(GRID) + len(MIXES)
    learned = LearnedWeights.load(training.folder)
    scores = evaluator.scores(held_out, learned)
    assert np.mean([score.value for score in scores]) > before + 0.2
    assert all(0 <= score.value <= TOP < 1 for score in scores)
    assert any(score.value == TOP for score in scores)
    assert np.mean([score.value for score in evaluator.scores(held_out, None)]) == before
    assert {path.name for path in training.folder.iterdir()} == {"weights.json", "weights.safetensors"}


def test_examples_without_weight_teach_nothing(context: Any, evaluator: Evaluator, tmp_path: Path) -> None:
    examples = examples_of(clicks(), context, FIND)
    train(training_of(tmp_path, examples), evaluator)
    whole = LearnedWeights.load(tmp_path / "adapter")
    train(training_of(tmp_path, [replace(example, weight=1e-6) for example in examples]), evaluator)
    little = LearnedWeights.load(tmp_path / "adapter")
    asked = [example for example in examples if example.payload.choice.item.startswith("b")]
    found = [np.mean([score.value for score in evaluator.scores(asked, of)]) for of in (whole, little, None)]
    assert found[0] > found[1] + 0.2
    assert found[1] == pytest.approx(found[2], abs=0.1)


def test_training_resumes_stops_and_ends_in_time(context: Any, evaluator: Evaluator, tmp_path: Path) -> None:
    examples = examples_of(clicks(20), context, FIND)
    stop = threading.Event()
    stopped = training_of(tmp_path, examples, cancel=stop, on_progress=lambda *_: stop.set())
    with pytest.raises(errors.Cancelled):
        train(stopped, evaluator)
    (known,) = json.loads((tmp_path / "work" / "settings.json").read_text()).items()
    (tmp_path / "work" / "settings.json").write_text(json.dumps({known[0]: [0.99] * len(known[1])}))
    resumed = training_of(tmp_path, examples)
    train(resumed, evaluator)
    assert resumed.trials[0].loss == pytest.approx(0.01)
    assert LearnedWeights.load(tmp_path / "adapter").settings == GRID[0]
    (tmp_path / "work" / "settings.json").write_text("[")
    late = training_of(tmp_path, examples, deadline=time.monotonic() - 1)
    assert train(late, evaluator) == "item-weights"
    assert late.trials == []
    with pytest.raises(errors.NotEnoughData):
        train(training_of(tmp_path, examples[:2]), evaluator)
