"""Compares a correction with what was heard: which words were misheard, as what, and which were right."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from smallai_speech.ordinary import is_distinctive, is_ordinary
from smallai_speech.phonetics import similarity
from smallai_speech.vocabulary import MAX_WORD_CHARS, WORD

MAX_WORDS = 50  # taught by one correction
_MIN_FORM = 0.3  # a run of words that sounds less like the word is not a mishearing of it
_MAX_FORM_WORDS = 4  # words that one name is misheard as
# A longer correction that shares fewer of its words with what was heard belongs to another recording.
_MIN_SHARED, _SHORT_WORDS = 0.2, 6


@dataclass(slots=True)
class Findings:
    """What the corrections taught.

    Attributes:
        pairs: (word as the user wrote it, what was heard; empty if nothing there sounds like it).
        vetoes: (word of the vocabulary, what the user put back in its place).
        attested: case-folded words that were right.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    vetoes: list[tuple[str, str]] = field(default_factory=list)
    attested: set[str] = field(default_factory=set)


def compare(heard: str, right: str, *, known: frozenset[str] = frozenset()) -> Findings:
    """Aligns the right transcript with what was heard.

    Args:
        heard: what the model wrote; if it is empty, every uncommon word of `right` is learned.
        known: case-folded words of the vocabulary. If the user replaced one of them, the vocabulary had put it there
            wrongly: that becomes a veto.
    """
    found = Findings()
    wrong, given = WORD.findall(heard), WORD.findall(right)
    starts = _sentence_starts(right)
    if not wrong:
        found.pairs = [(word, "") for i, word in enumerate(given) if _is_learnable(word, i in starts)]
        found.pairs = list(dict.fromkeys(found.pairs))[:MAX_WORDS]
        return found
    folded, target = [word.casefold() for word in wrong], [word.casefold() for word in given]
    # autojunk ignores frequent words: without it a long text that repeats a word takes quadratic time, with it a short
    # text would lose its commonest words.
    blocks = difflib.SequenceMatcher(a=folded, b=target, autojunk=len(target) > 400).get_opcodes()
    n_shared = sum(end - start for kind, start, end, _, _ in blocks if kind == "equal")
    if n_shared < _MIN_SHARED * len(target) and len(target) > _SHORT_WORDS:
        return found
    for kind, i1, i2, j1, j2 in blocks:
        if kind == "equal":
            _equal(found, wrong[i1:i2], given[j1:j2], {i - j1 for i in starts}, may_teach=heard != right)
        else:
            _unequal(found, wrong[i1:i2], given[j1:j2], {i - j1 for i in starts}, known)
    found.pairs = found.pairs[:MAX_WORDS]
    return found


def _equal(found: Findings, wrong: Sequence[str], given: Sequence[str], starts: set[int], *, may_teach: bool) -> None:
    """Adds what a run of words teaches that is the same in both texts, case aside."""
    for i, (old, new) in enumerate(zip(wrong, given, strict=True)):
        is_respelled = old != new and any(c.isupper() for c in (new[1:] if i in starts else new))
        is_learnable = _is_learnable(new, i in starts)
        if is_respelled and is_learnable:
            found.pairs.append((new, old))  # the same letters in another case
        elif may_teach and is_learnable and not is_ordinary(new):
            found.pairs.append((new, ""))  # right this time; in another voice it may be misheard
        else:
            found.attested.add(new.casefold())


def _unequal(
    found: Findings, wrong: Sequence[str], given: Sequence[str], starts: set[int], known: frozenset[str]
) -> None:
    """Adds what a run of words teaches that the user replaced."""
    for i, word in enumerate(given):
        if _is_learnable(word, i in starts):
            found.pairs.append((word, _form_of(word, wrong)))
    wanted = {word.casefold() for word in given}
    for word in wrong:
        if word.casefold() in known and word.casefold() not in wanted:
            found.vetoes.append((word, _form_of(word, given)))


def _form_of(word: str, among: Sequence[str]) -> str:
    """The run of words that sounds most like `word`; empty if none sounds like it."""
    best, form = _MIN_FORM, ""
    for i in range(len(among)):
        for j in range(i + 1, min(i + _MAX_FORM_WORDS, len(among)) + 1):
            span = " ".join(among[i:j])
            likeness = similarity(span, word)
            if likeness > best:
                best, form = likeness, span
    return form


def _is_learnable(word: str, begins_sentence: bool) -> bool:
    return len(word) <= MAX_WORD_CHARS and is_distinctive(word, begins_sentence=begins_sentence)


def _sentence_starts(text: str) -> set[int]:
    """Indexes of the words that begin a sentence: a capital there does not tell a name."""
    starts, end = {0}, 0
    for i, match in enumerate(WORD.finditer(text)):
        if any(c in ".!?…\n" for c in text[end : match.start()]):
            starts.add(i)
        end = match.end()
    return starts
