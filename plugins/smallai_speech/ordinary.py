"""Words that anybody might say, which no personal vocabulary may touch.

The list is Whisper's own: its tokenizer keeps the commonest words whole, some 30,000 of them. It ships with
openai-whisper, so nothing is fetched and nothing grows old.
"""

from __future__ import annotations

import functools
import re

_ENDINGS = ("'s", "’s", "n't", "s", "es", "ed", "d", "ing", "er", "ers", "est", "ly", "y", "ness", "able", "ment")
_MIN_STEM = 3
_PARTS = re.compile(r"[-'’./]")


@functools.cache
def common_words() -> tuple[frozenset[str], frozenset[str]]:
    """Words that are one token after a space: as they are where all is lower case, and all of them case-folded."""
    from whisper.tokenizer import get_tokenizer

    encoding = get_tokenizer(multilingual=False).encoding
    lower, folded = set(), set()
    for token in range(encoding.eot_token):
        text = encoding.decode_single_token_bytes(token).decode("utf-8", errors="ignore")
        if text[:1] == " " and text[1:].isalpha():
            folded.add(text[1:].casefold())
            if text[1:].islower():
                lower.add(text[1:])
    return frozenset(lower), frozenset(folded)


def is_ordinary(word: str) -> bool:
    """Whether the word, an inflection of it or each of its parts is a common one; numbers are."""
    folded = word.casefold()
    return _is_known(folded, common_words()[1]) or all(
        not part or _is_known(part, common_words()[1]) for part in _PARTS.split(folded)
    )


def is_name_of_its_own(word: str, *, begins_sentence: bool) -> bool:
    """Whether a word is worth a place in a vocabulary: an uncommon one, or one written as a name that is no word."""
    if sum(c.isalnum() for c in word) < 3:
        return False
    if not is_ordinary(word) or (any(c.isupper() for c in word[1:]) and not word.isupper()):
        return True  # GitHub
    looks_like_a_name = any(c.isupper() or c.isdigit() for c in (word[1:] if begins_sentence else word))
    return looks_like_a_name and not word.isdigit() and not _is_known(word.casefold(), common_words()[0])


def _is_known(folded: str, words: frozenset[str]) -> bool:
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
