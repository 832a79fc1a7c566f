"""The fast memory of pictures, on vectors that are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smallai_assistant import ImagePart
from smallai_assistant.errors import InvalidInput
from smallai_image.blending import TaughtClasses
from smallai_image.features import MIN_SAME_VECTOR, Features
from smallai_image.feedback import FeedbackKind, LabelFeedback
from smallai_image.memory import FastMemory


def features_of(*values: float, thumbnail: tuple[float, ...] = (1.0, 0.0)) -> Features:
    vector = np.asarray(values, np.float32)
    small = np.asarray(thumbnail, np.float32)
    return Features(str(values), vector / np.linalg.norm(vector), np.zeros(1, np.float32), small)


def feedback(name: str, label: str, kind: FeedbackKind = "labelled") -> LabelFeedback:
    return LabelFeedback(ImagePart(Path(name)), label, kind, name)


def test_similarity_is_weighted_over_pictures() -> None:
    pictures = {"a1": features_of(1, 0.1, 0), "a2": features_of(1, -0.1, 0), "b1": features_of(0, 1, 0)}
    memory = FastMemory()
    assert memory.is_empty
    assert memory.classes(features_of(1, 0, 0)).similarities == {}
    memory.rebuild([feedback(name, name[0]) for name in pictures])
    assert not memory.is_empty
    memory.process_pending(lambda parts: [pictures[part.name] for part in parts])
    known = memory.classes(features_of(1, 0.8, 0))
    found = known.similarities
    assert found["a"].similarity > found["b"].similarity
    assert (found["a"].n_pictures, found["b"].n_pictures) == (2, 1)
    assert found["a"].usual > found["b"].usual  # the two pictures of "a" are alike
    assert not found["a"].is_same
    assert known.probabilities["a"] > known.probabilities["b"] > 0
    same = memory.classes(features_of(1, 0.1, 0)).similarities["a"]
    assert same.is_same
    assert same.similarity == pytest.approx(1.0)  # the same picture again: the other one does not count
    only = memory.classes(features_of(1, 0.2, 0), among={"b"})
    assert (list(only.similarities), only.probabilities) == (["b"], {"b": 1.0})
    assert memory.classes(features_of(1, 0, 0), among={"c"}) == TaughtClasses()
    assert memory.counts() == {"a": 2, "b": 1}


def test_failed_extraction_loses_no_feedback() -> None:
    memory = FastMemory()
    memory.rebuild([feedback("x", "x")])

    def fail(_: object) -> list[Features | None]:
        raise InvalidInput("no model")

    with pytest.raises(InvalidInput):
        memory.process_pending(fail)
    memory.process_pending(lambda _: [features_of(1, 0)])
    assert memory.counts() == {"x": 1}


def test_refusal_covers_nearly_the_same_pictures() -> None:
    memory = FastMemory()
    memory.learn([feedback("x", "Cat", "refused")], lambda _: [features_of(1, 0)])
    assert memory.refused(features_of(1, 0)) == {"cat"}
    assert memory.refused(features_of(1, 0.1)) == {"cat"}
    assert memory.refused(features_of(MIN_SAME_VECTOR - 0.05, 1)) == set()
    # Another written digit is nearly as similar by its vector; its thumbnail shows that it is another picture.
    assert memory.refused(features_of(1, 0.1, thumbnail=(0.8, 0.6))) == set()
    memory.learn([feedback("y", "cat")], lambda _: [features_of(1, 0.1)])
    assert memory.refused(features_of(1, 0)) == set()
