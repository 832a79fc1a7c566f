"""What a correction says: which words were misheard, as what, and which were right."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from smallai_speech.ordinary import is_name_of_its_own, is_ordinary
from smallai_speech.phonetics import similarity
from smallai_speech.vocabulary import MAX_WORD_CHARS, WORD

MAX_WORDS = 50  # that one correction may teach
_MIN_FORM = 0.3  # a form that sounds less like the word is no mishearing of it
_LONGEST_FORM = 4
_MIN_SHARED, _SHORT = 0.2, 6  # a transcript that shares less with what was heard, and is no short one, is of another


@dataclass(slots=True)
class Findings:
    """What the corrections taught.

    Attributes:
        pairs: (word as the user wrote it, what was heard; empty where nothing fits).
        vetoes: (word of the vocabulary, what the user put back in its place).
        attested: case-folded words that were right.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    vetoes: list[tuple[str, str]] = field(default_factory=list)
    attested: set[str] = field(default_factory=set)


def compare(heard: str, right: str, *, known: frozenset[str] = frozenset()) -> Findings:
    """Aligns the right transcript with what was heard.

    Args:
        heard: empty where nothing was: then every uncommon word of `right` is learnt.
        known: case-folded words of the vocabulary; one that stands where the user wrote something else was put there
            wrongly.
    """
    found = Findings()
    wrong, given = WORD.findall(heard), WORD.findall(right)
    starts = _sentence_starts(right)
    if not wrong:
        found.pairs = [(word, "") for i, word in enumerate(given) if _is_learnable(word, i in starts)]
        found.pairs = list(dict.fromkeys(found.pairs))[:MAX_WORDS]
        return found
    folded, target = [each.casefold() for each in wrong], [each.casefold() for each in given]
    blocks = difflib.SequenceMatcher(a=folded, b=target, autojunk=len(target) > 400).get_opcodes()
    n_shared = sum(end - start for kind, start, end, _, _ in blocks if kind == "equal")
    if n_shared < _MIN_SHARED * len(target) and len(target) > _SHORT:
        return found
    for kind, i1, i2, j1, j2 in blocks:
        if kind == "equal":
            _equal(found, wrong[i1:i2], given[j1:j2], {i - j1 for i in starts}, may_teach=heard != right)
        else:
            _unequal(found, wrong[i1:i2], given[j1:j2], {i - j1 for i in starts}, known)
    found.pairs = found.pairs[:MAX_WORDS]
    return found


def _equal(found: Findings, wrong: Sequence[str], given: Sequence[str], starts: set[int], *, may_teach: bool) -> None:
    for i, (old, new) in enumerate(zip(wrong, given, strict=True)):
        is_respelt = old != new and any(c.isupper() for c in (new[1:] if i in starts else new))
        is_learnable = _is_learnable(new, i in starts)
        if is_respelt and is_learnable:
            found.pairs.append((new, old))  # the same letters in another case
        elif may_teach and is_learnable and not is_ordinary(new):
            found.pairs.append((new, ""))  # right this time; another voice may have it misheard
        else:
            found.attested.add(new.casefold())


def _unequal(
    found: Findings, wrong: Sequence[str], given: Sequence[str], starts: set[int], known: frozenset[str]
) -> None:
    for i, word in enumerate(given):
        if _is_learnable(word, i in starts):
            found.pairs.append((word, _form_of(word, wrong)))
    for word in wrong:
        if word.casefold() in known and word.casefold() not in {each.casefold() for each in given}:
            found.vetoes.append((word, _form_of(word, given)))


def _form_of(word: str, among: Sequence[str]) -> str:
    """The run of words that sounds most like `word`, empty where none does."""
    best, form = _MIN_FORM, ""
    for i in range(len(among)):
        for j in range(i + 1, min(i + _LONGEST_FORM, len(among)) + 1):
            span = " ".join(among[i:j])
            likeness = similarity(span, word)
            if likeness > best:
                best, form = likeness, span
    return form


def _is_learnable(word: str, begins_sentence: bool) -> bool:
    return len(word) <= MAX_WORD_CHARS and is_name_of_its_own(word, begins_sentence=begins_sentence)


def _sentence_starts(text: str) -> set[int]:
    """Indexes of the words that begin a sentence."""
    starts, end = {0}, 0
    for i, match in enumerate(WORD.finditer(text)):
        if any(c in ".!?…\n" for c in text[end : match.start()]):
            starts.add(i)
        end = match.end()
    return starts
