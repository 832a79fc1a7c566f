"""The model's labels, the head and the fast memory are combined into one answer."""

from __future__ import annotations

import pytest

from smallai_assistant import LabelPart
from smallai_image.blending import ClassSimilarity, TaughtPrediction, blend, predict_taught, without


def prediction(
    memory: dict[str, ClassSimilarity],
    head: dict[str, ClassSimilarity] | None = None,
    head_probabilities: dict[str, float] | None = None,
) -> TaughtPrediction:
    found = predict_taught(memory, head, head_probabilities)
    assert found is not None
    return found


HEAD = {"b": ClassSimilarity(0.5, 9), "c": ClassSimilarity(0.5, 9)}
HEAD_PROBABILITIES = {"b": 0.9, "c": 0.1}


def test_confidence_grows_with_similarity() -> None:
    assert predict_taught({}) is None
    near = prediction({"a": ClassSimilarity(0.7, 3), "b": ClassSimilarity(0.4, 3)})
    assert near.probabilities["a"] > 0.99
    assert near.confidence > 0.95
    assert prediction({"a": ClassSimilarity(0.2, 3)}).confidence < 0.05


def test_memory_and_head_give_one_prediction() -> None:
    assert prediction({}, HEAD, HEAD_PROBABILITIES).probabilities == pytest.approx(HEAD_PROBABILITIES)
    # An unlike class of the memory does not displace the classes of the head.
    both = prediction({"a": ClassSimilarity(0.3, 3)}, HEAD, HEAD_PROBABILITIES)
    assert both.probabilities["a"] < 0.05
    # The head's nine pictures of the class outweigh the memory's one.
    shared = prediction({"B": ClassSimilarity(0.1, 1)}, HEAD, HEAD_PROBABILITIES)
    assert shared.probabilities["B"] == pytest.approx(shared.probabilities["c"], abs=0.4)
    # A picture that was corrected has the label of the correction.
    same = prediction({"c": ClassSimilarity(0.98, 1)}, HEAD, HEAD_PROBABILITIES)
    assert same.probabilities["c"] > 0.99


def test_prediction_is_blended_into_the_labels() -> None:
    labels = [LabelPart("cat", 0, 0.7), LabelPart("dog", 1, 0.3)]
    mixed = blend(labels, TaughtPrediction({"Dog": 0.5, "mug": 0.5}, 0.8))
    assert [(label.label, label.id) for label in mixed] == [("dog", 1), ("mug", -1), ("cat", 0)]
    assert [label.score for label in mixed] == pytest.approx([0.46, 0.4, 0.14])
    assert blend(labels, None) == tuple(labels)


def test_refused_labels_are_left_out() -> None:
    labels = [LabelPart("dog", 1, 0.46), LabelPart("mug", -1, 0.4), LabelPart("cat", 0, 0.14)]
    assert [(label.label, label.score) for label in without(labels, {"dog"})] == [
        ("mug", pytest.approx(0.4 / 0.54)),
        ("cat", pytest.approx(0.14 / 0.54)),
    ]
    assert without(labels, {"cat", "dog", "mug"}) == tuple(labels)  # an answer needs at least one label
