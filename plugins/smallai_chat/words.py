"""Compares texts by their words."""

from __future__ import annotations

import re
import unicodedata

# Question words and verbs of asking are included: they say how something is asked, not what about.
_STOP_WORDS_TEXT = """
a an the of in on at to for from by with and or is are was were be been do does did have has had can could may might
must should would will shall i me my you your he she it its we us our they them their this that these those there here
what which who whom whose where when why how many much please tell know give name find get go say
"""
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


def question_key(question: str) -> str:
    """Returns what questions are compared by: two questions with the same key are one.

    Case, white space, the punctuation at the end and the way an accent is stored make no difference. Other signs do:
    "What is C?" and "What is C++?" are two questions.
    """
    folded = unicodedata.normalize("NFD", " ".join(question.split())).casefold()
    return unicodedata.normalize("NFC", folded).rstrip(" ?.!") or question


def normalized(text: str) -> str:
    """Returns the words in lower case, separated by single spaces, without punctuation."""
    # NFC, because an accent that is stored as a character of its own would end the word.
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text.casefold())))


def content_words(text: str) -> frozenset[str]:
    """Returns the words that carry meaning, in lower case, without plural, possessive and verb endings."""
    words = re.findall(r"\w+", re.sub(r"['’]s?\b", "", unicodedata.normalize("NFC", text.casefold())))
    return frozenset(re.sub(r"(ies|es|s|ing|ed)$", "", word) or word for word in words if word not in _STOP_WORDS)


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """Returns the overlap coefficient of two sets, in [0, 1]."""
    return len(first & second) / max(1, min(len(first), len(second)))
