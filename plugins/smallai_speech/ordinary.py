"""Knows the words that anybody might say, which a personal vocabulary must not touch.

The list is Whisper's own: its tokenizer keeps some 30,000 of the commonest words whole. It ships with openai-whisper,
so that nothing has to be fetched or kept up to date.
"""

from __future__ import annotations

import functools
import re

_ENDINGS = ("'s", "’s", "n't", "s", "es", "ed", "d", "ing", "er", "ers", "est", "ly", "y", "ness", "able", "ment")
_MIN_STEM = 3  # letters; shorter stems fit too many names
_PARTS = re.compile(r"[-'’./]")
_MIN_ALNUM = 3  # in a word to learn; shorter ones sound like too much


@functools.cache
def common_words() -> tuple[frozenset[str], frozenset[str]]:
    """Words that are one token after a space: those in lower case as they are, and all of them case-folded."""
    from whisper.tokenizer import get_tokenizer

    encoding = get_tokenizer(multilingual=False).encoding
    lower, folded = set(), set()
    for token in range(encoding.eot_token):
        text = encoding.decode_single_token_bytes(token).decode("utf-8", errors="ignore")
        # Only a token with the space before it is a whole word; the others are parts of words.
        if text[:1] == " " and text[1:].isalpha():
            folded.add(text[1:].casefold())
            if text[1:].islower():
                lower.add(text[1:])
    return frozenset(lower), frozenset(folded)


def is_ordinary(word: str) -> bool:
    """Whether the word, the stem of its inflection or every part of it is common. Numbers count as common."""
    folded = word.casefold()
    return _is_known(folded, common_words()[1]) or all(
        not part or _is_known(part, common_words()[1]) for part in _PARTS.split(folded)
    )


def is_distinctive(word: str, *, begins_sentence: bool) -> bool:
    """Whether a vocabulary should hold the word: it is uncommon, or it is written as a name that is not a word."""
    if sum(c.isalnum() for c in word) < _MIN_ALNUM:
        return False
    if not is_ordinary(word) or (any(c.isupper() for c in word[1:]) and not word.isupper()):
        return True  # capitals inside, as in GitHub, are the user's spelling
    looks_like_a_name = any(c.isupper() or c.isdigit() for c in (word[1:] if begins_sentence else word))
    return looks_like_a_name and not word.isdigit() and not _is_known(word.casefold(), common_words()[0])


def _is_known(folded: str, words: frozenset[str]) -> bool:
    """Whether a case-folded word is one of `words`, an inflection of one, a number or a single letter."""
    if folded in words or folded.isdigit() or len(folded) < 2:
        return True
    for ending in _ENDINGS:
        stem = folded.removesuffix(ending)
        if stem != folded and len(stem) >= _MIN_STEM and (stem in words or f"{stem}e" in words):
            return True
        if stem != folded and len(stem) > _MIN_STEM and (stem[-1] == stem[-2] and stem[:-1] in words):
            return True  # planned
        if stem != folded and stem.endswith("i") and f"{stem[:-1]}y" in words:
            return True  # tried
    return False
