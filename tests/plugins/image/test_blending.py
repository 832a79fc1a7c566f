"""The model's labels, the head and the fast memory are combined into one answer."""

from __future__ import annotations

import pytest

from smallai_assistant import LabelPart
from smallai_image.blending import (
    ClassSimilarity,
    TaughtClasses,
    TaughtPrediction,
    blend,
    predict_taught,
    usual_similarity,
    without,
)

HEAD = TaughtClasses({"b": ClassSimilarity(0.5, 9), "c": ClassSimilarity(0.5, 9)}, {"b": 0.9, "c": 0.1})


def prediction(memory: dict[str, ClassSimilarity], head: TaughtClasses | None = None) -> TaughtPrediction:
    found = predict_taught(TaughtClasses(memory), *([head] if head is not None else []))
    assert found is not None
    return found


def test_confidence_grows_with_similarity() -> None:
    assert predict_taught(TaughtClasses()) is None
    near = prediction({"a": ClassSimilarity(0.7, 3), "b": ClassSimilarity(0.4, 3)})
    assert near.probabilities["a"] > 0.99
    assert near.confidence > 0.95
    assert prediction({"a": ClassSimilarity(0.2, 3)}).confidence < 0.05


def test_confidence_is_relative_to_the_class() -> None:
    """Pictures that resemble each other little make a class that a picture joins easily."""
    diverse = prediction({"season": ClassSimilarity(0.4, 5, usual=0.4)})
    narrow = prediction({"Bella": ClassSimilarity(0.4, 5, usual=0.85)})
    assert diverse.confidence > 0.95
    assert narrow.confidence < 0.1


@pytest.mark.parametrize(("within", "n"), [(0.9, 20), (0.4, 20), (0.9, 2), (0.4, 2)])
def test_usual_similarity_leans_on_the_prior_with_few_pictures(within: float, n: int) -> None:
    found = usual_similarity((1 + (n - 1) * within) / n, n)
    assert min(within, 0.5) <= found <= max(within, 0.5)
    assert abs(found - within) < (0.05 if n == 20 else 0.3)
    assert usual_similarity(1.0, 1) == pytest.approx(0.5)
    assert usual_similarity(0.0, 50) > 0  # opposite pictures: nothing is divided by zero


def test_memory_and_head_give_one_prediction() -> None:
    assert prediction({}, HEAD).probabilities == pytest.approx(HEAD.probabilities)
    # An unlike class of the memory does not displace the classes of the head.
    both = prediction({"a": ClassSimilarity(0.3, 3)}, HEAD)
    assert both.probabilities["a"] < 0.05
    # The head's nine pictures of the class outweigh the memory's one.
    shared = prediction({"B": ClassSimilarity(0.1, 1)}, HEAD)
    assert shared.probabilities["B"] == pytest.approx(shared.probabilities["c"], abs=0.4)
    # A picture that was corrected has the label of the correction, however similar other classes are.
    same = prediction({"c": ClassSimilarity(0.98, 1, is_same=True), "d": ClassSimilarity(0.97, 5)}, HEAD)
    assert same.probabilities == pytest.approx({"c": 1.0, "d": 0.0, "b": 0.0})


def test_classifier_of_the_memory_decides_between_alike_classes() -> None:
    alike = {"3": ClassSimilarity(0.84, 5), "8": ClassSimilarity(0.85, 5)}
    found = predict_taught(TaughtClasses(alike, {"3": 0.9, "8": 0.1}), HEAD)
    assert found is not None
    assert found.probabilities["3"] > found.probabilities["8"] > 0
    assert sum(found.probabilities.values()) == pytest.approx(1.0)


def test_prediction_is_blended_into_the_labels() -> None:
    labels = [LabelPart("cat", 0, 0.7), LabelPart("dog", 1, 0.3)]
    mixed = blend(labels, TaughtPrediction({"Dog": 0.5, "mug": 0.5}, 0.8))
    assert [(label.label, label.id) for label in mixed] == [("dog", 1), ("mug", -1), ("cat", 0)]
    assert [label.score for label in mixed] == pytest.approx([0.46, 0.4, 0.14])
    assert blend(labels, None) == tuple(labels)
    alone = blend([], TaughtPrediction({"mug": 0.7, "cup": 0.3}, 0.2))
    assert [(label.label, label.score) for label in alone] == [("mug", 0.7), ("cup", 0.3)]


def test_refused_labels_are_left_out() -> None:
    labels = [LabelPart("dog", 1, 0.46), LabelPart("mug", -1, 0.4), LabelPart("cat", 0, 0.14)]
    assert [(label.label, label.score) for label in without(labels, {"dog"})] == [
        ("mug", pytest.approx(0.4 / 0.54)),
        ("cat", pytest.approx(0.14 / 0.54)),
    ]
    assert without(labels, {"cat", "dog", "mug"}) == tuple(labels)  # an answer needs at least one label
