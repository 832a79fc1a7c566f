"""What is said of the labels, as surely as their scores allow."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smallai_assistant import LabelPart

_WORTH_SAYING = 0.1


def sentence(guesses: Sequence[LabelPart]) -> str:
    """What the picture shows, as surely as the scores allow."""
    best, *others = (_named(guess) for guess in guesses[:3])
    score = guesses[0].score
    if score < 0.2:
        return f"I am not sure what this is: perhaps {listed([best, *others], 'or')}."
    others = [text for text, each in zip(others, guesses[1:3], strict=True) if each.score >= _WORTH_SAYING]
    opening = f"This looks like {best}" if score >= 0.5 else f"This may be {best}"
    return f"{opening}; it could also be {listed(others, 'or')}." if others else f"{opening}."


def fit_sentence(guesses: Sequence[LabelPart]) -> str:
    """Which of the user's labels fits."""
    best, *others = (f"“{guess.label}” ({_percent(guess.score)})" for guess in guesses[:3])
    if guesses[0].score < 1.5 / len(guesses):  # hardly above what each label would get by chance
        return f"None of your labels stands out: {listed([best, *others], 'and')}."
    return f"Of your labels {best} fits best, then {listed(others, 'and')}."


def _named(guess: LabelPart) -> str:
    label = f"“{guess.label}”" if guess.id == -1 else _with_article(guess.label)  # the user's own may be a name
    return f"{label} ({_percent(guess.score)})"


def _with_article(label: str) -> str:
    if re.search(r"[^sui]s$", label):  # sunglasses, not bus, iris, abyss
        return label
    vowel = re.match(r"(?!uni|eu|us|uku)[aeiou]|hour", label, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {label}"


def _percent(score: float) -> str:
    return "under 1 %" if score < 0.01 else f"{100 * score:.0f} %"


def listed(texts: Sequence[str], conjunction: str) -> str:
    """`a, b or c`."""
    *first, last = texts
    return f"{', '.join(first)} {conjunction} {last}" if first else last
