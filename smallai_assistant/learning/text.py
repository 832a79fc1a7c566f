"""Comparing texts: two ways to write the same question or answer are equal once they are normalized."""

from __future__ import annotations

import unicodedata

# Quotation marks and sentence marks of several languages. Signs such as `+`, `#` and `-` are not in the list: they
# carry meaning (see `normalized`).
_PUNCTUATION = ".,;:!?…¿¡'\"`´‘’“”„«»()[]{}"


def normalized(text: str) -> str:
    """Removes case, repeated whitespace, the punctuation around words, and differences in how accents are stored.

    Signs within and between words stay: `C`, `C++` and `C#` are different things, and so are `2+2` and `2-2`.

    Returns:
        The words, joined by single spaces; if nothing but punctuation is left, the stripped text. Idempotent.
    """
    folded = text.casefold()
    if not folded.isascii():
        # Unicode's canonical caseless match (The Unicode Standard, section 3.13).
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    words = (word.strip(_PUNCTUATION) for word in folded.split())
    return " ".join(word for word in words if word) or text.strip()


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard similarity of two sets of words, 0 to 1: the share of all their words that both have."""
    return len(first & second) / max(1, len(first | second))
