"""Turns labels and scores into sentences that are as confident as the scores allow."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smallai_assistant import LabelPart

# Below this score the best label is only one of several possibilities.
_MIN_GUESS = 0.2
# From this score on the best label is likelier than all others together.
_MIN_CONFIDENT = 0.5
# A second or third label below this score is not worth mentioning.
_MIN_ALTERNATIVE = 0.1
# If the best label's score is less than this multiple of an equal share, the picture hardly distinguishes the labels.
_MIN_OVER_CHANCE = 1.5


def describe(labels: Sequence[LabelPart]) -> str:
    """Returns a sentence that says what is on the picture.

    Args:
        labels: at least one, best first.
    """
    best, *others = (_named(label) for label in labels[:3])
    score = labels[0].score
    if score < _MIN_GUESS:
        return f"I am not sure what this is: perhaps {join([best, *others], 'or')}."
    others = [text for text, label in zip(others, labels[1:3], strict=True) if label.score >= _MIN_ALTERNATIVE]
    opening = f"This looks like {best}" if score >= _MIN_CONFIDENT else f"This may be {best}"
    return f"{opening}; it could also be {join(others, 'or')}." if others else f"{opening}."


def describe_choice(labels: Sequence[LabelPart]) -> str:
    """Returns a sentence that says which of the user's labels fits best.

    Args:
        labels: all of the user's labels, at least one, best first.
    """
    best, *others = (f"“{label.label}” ({_percent(label.score)})" for label in labels[:3])
    if not others:
        return f"There is only one label of yours: {best}."
    if labels[0].score < _MIN_OVER_CHANCE / len(labels):
        return f"None of your labels stands out: {join([best, *others], 'and')}."
    return f"Of your labels {best} fits best, then {join(others, 'and')}."


def join(texts: Sequence[str], conjunction: str) -> str:
    """Returns `a, b or c` for three texts and the conjunction `or`."""
    *first, last = texts
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _named(label: LabelPart) -> str:
    # A taught label may be a name, which has no article: it is quoted instead.
    text = f"“{label.label}”" if label.id == -1 else _with_article(label.label)
    return f"{text} ({_percent(label.score)})"


def _with_article(label: str) -> str:
    # A plural has no article: "sunglasses" ends like one, "bus", "iris" and "abyss" do not.
    if re.search(r"[^sui]s$", label):
        return label
    # By sound and not by spelling: "a unicycle", "a European fire salamander", "a ukulele", "an hourglass".
    vowel = re.match(r"(?!uni|eu|us|uku)[aeiou]|hour", label, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {label}"


def _percent(score: float) -> str:
    return "under 1 %" if score < 0.01 else f"{100 * score:.0f} %"
