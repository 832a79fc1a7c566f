"""Measures what a sentence embedding model's similarities mean, language by language.

Similarity 0.7 is close for one model and usual among unrelated texts for another, and a model can know one script and
not the next. `calibration.jsonl` has ten everyday questions with a paraphrase in each language: how similar the model
finds unrelated ones and paraphrases sets the scale. Where it cannot tell them apart, its vectors mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from smallai_chat.question_words import read

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

Embed = Callable[[Sequence[str]], "FloatArray"]

# Probability that a paraphrase is more similar than an unrelated question. all-MiniLM-L6-v2 has 1.0 in English, 0.91 to
# 1.0 in the languages where its vectors find paraphrases, 0.84 and less in Korean, Hindi, Arabic and Chinese;
# multilingual-e5-small has 0.999 and more in all ten.
MIN_RELIABILITY = 0.9
# A model with one similarity for all texts would otherwise divide by zero.
_MIN_SPAN = 0.05


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the similarities of an embedding model mean in one language.

    Attributes:
        unrelated, paraphrase: mean cosine of unrelated questions, and of a question and its paraphrase.
        unrelated_words: mean cosine of unrelated words.
        reliability: probability that a paraphrase is more similar than an unrelated question, 0.5 for a coin.
    """

    unrelated: float
    paraphrase: float
    unrelated_words: float
    reliability: float

    @property
    def is_reliable(self) -> bool:
        """Whether the vectors tell paraphrases from unrelated questions."""
        return self.reliability >= MIN_RELIABILITY

    def closeness(self, cosine: float) -> float:
        """Returns the cosine of two questions on a scale where 0 is usual for unrelated ones and 1 for paraphrases."""
        return (cosine - self.unrelated) / max(_MIN_SPAN, self.paraphrase - self.unrelated)

    def word_closeness(self, cosine: float) -> float:
        """Returns the cosine of two words on a scale where 0 is usual for unrelated words and 1 is the same word."""
        return (cosine - self.unrelated_words) / max(_MIN_SPAN, 1 - self.unrelated_words)


# No reference questions are in the language, so nothing is known about the vectors.
UNKNOWN = Meaning(unrelated=0.0, paraphrase=1.0, unrelated_words=0.0, reliability=0.0)


class Calibration:
    """The meanings of one embedding model's similarities, each measured when its language is first met.

    Args:
        known: meanings that were measured before, by language.
    """

    def __init__(self, known: Mapping[str, Meaning] | None = None) -> None:
        self._known = dict(known or {})

    def of(self, language: str, embed: Embed) -> Meaning:
        """Returns the meaning of similarities in a language.

        Raises:
            ModelError: the embedding model is not available.
        """
        if language not in self._known:
            self._known[language] = _measured(language, embed)
        return self._known[language]

    def as_json(self) -> dict[str, dict[str, float]]:
        """Returns what was measured so far, for a file."""
        return {language: asdict(meaning) for language, meaning in self._known.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Mapping[str, Any]]) -> Calibration:
        """Returns the calibration that `as_json` described.

        Raises:
            TypeError, ValueError: it describes none.
        """
        return cls(
            {
                language: Meaning(**{name: float(value) for name, value in row.items()})
                for language, row in stored.items()
            }
        )


def _measured(language: str, embed: Embed) -> Meaning:
    import numpy as np

    rows = [row for row in _references() if row["language"] == language]
    if not rows:
        return UNKNOWN
    questions = [row["question"] for row in rows]
    # One word of each question: the words of different everyday questions have little to do with each other.
    words = [next(iter(read(question, language).words), question) for question in questions]
    vectors = embed([*questions, *(row["paraphrase"] for row in rows), *words])
    n = len(rows)
    others = ~np.eye(n, dtype=bool)
    cosines = vectors[:n] @ vectors[n : 2 * n].T
    word_cosines = vectors[2 * n :] @ vectors[2 * n :].T
    same, unrelated = np.diag(cosines), cosines[others]
    return Meaning(
        unrelated=float(unrelated.mean()),
        paraphrase=float(same.mean()),
        unrelated_words=float(word_cosines[others].mean()),
        reliability=float((same[:, None] > unrelated[None]).mean()),
    )


@cache
def _references() -> tuple[Mapping[str, str], ...]:
    lines = (resources.files(__package__) / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)
