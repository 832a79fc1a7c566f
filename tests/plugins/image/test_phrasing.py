"""Sentences about pictures are as confident as the scores."""

from __future__ import annotations

import pytest

from smallai_assistant import LabelPart
from smallai_image.phrasing import describe


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ((0.7, 0.12, 0.1), "This looks like a tabby (70 %); it could also be an Egyptian cat (12 %) or jeans (10 %)."),
        ((0.95, 0.02, 0.01), "This looks like a tabby (95 %)."),
        ((0.4, 0.3, 0.01), "This may be a tabby (40 %); it could also be an Egyptian cat (30 %)."),
        (
            (0.03, 0.02, 0.001),
            "I am not sure what this is: perhaps a tabby (3 %), an Egyptian cat (2 %) or jeans (under 1 %).",
        ),
    ],
)
def test_confidence_of_the_sentence_follows_the_scores(scores: tuple[float, ...], sentence: str) -> None:
    names = ("tabby", "Egyptian cat", "jeans")
    labels = [LabelPart(name, i, score) for i, (name, score) in enumerate(zip(names, scores, strict=True))]
    assert describe(labels) == sentence
