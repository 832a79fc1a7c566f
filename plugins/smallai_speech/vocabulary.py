"""A personal vocabulary: the user's words, how each was misheard, and where a text may mean one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from smallai_speech.ordinary import is_ordinary
from smallai_speech.phonetics import similarity, skeleton, sounds

MAX_WORDS = 500
MAX_FORMS = 8  # of one word
MAX_WORD_CHARS = 40
WORD = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")

_LONGEST_SPAN = 4  # words that one long name is misheard as
_MIN_LIKENESS = 0.46  # below, a mishearing cannot be told from chance
_SURE_LIKENESS = 0.85  # above, an uncommon word is a near miss without asking the model
_LEARNT_LIKENESS = 0.95  # of a form that was corrected before


@dataclass(frozen=True, slots=True)
class Entry:
    """A word as the user writes it.

    Attributes:
        heard: what it was taken for, case-folded, the commonest first.
        never: what was wrongly taken for it: forms that the user put back.
        n: corrections that hold it.
    """

    word: str
    heard: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    n: int = 1


@dataclass(frozen=True, slots=True)
class Suspect:
    """A stretch of a text that may be a misheard word.

    Attributes:
        likeness: of the sounds, in [0, 1].
        is_sure: a near miss that holds an uncommon word, or a learnt one: it needs no second opinion.
        n_ordinary: how many words it is where all are ordinary, else 0.
    """

    start: int
    end: int
    entry: Entry
    likeness: float
    is_sure: bool
    n_ordinary: int


@dataclass(frozen=True)
class Vocabulary:
    """The words of one user, at most `MAX_WORDS`; immutable.

    Attributes:
        attested: case-folded words that the user confirmed or wrote, which are as ordinary as the common ones.
    """

    entries: tuple[Entry, ...] = ()
    attested: frozenset[str] = field(default=frozenset())

    def __bool__(self) -> bool:
        return bool(self.entries)

    def suspects(self, text: str, *, most: int = 16) -> list[Suspect]:
        """Where the text may mean a word of the vocabulary, the likeliest first; several may overlap."""
        words = list(WORD.finditer(text))
        found: list[Suspect] = []
        for i, first in enumerate(words):
            for last in words[i : i + _LONGEST_SPAN]:
                span = text[first.start() : last.end()]
                found += self._alike(span, first.start(), last.end())
        found.sort(key=lambda each: (-each.likeness, each.end - each.start))
        return found[:most]

    def repair(self, text: str) -> str:
        """The text with sure near misses put right. Ordinary words stay: whether one was meant the sound must tell."""
        kept: list[Suspect] = []
        for suspect in self.suspects(text, most=1_000):
            if suspect.is_sure and all(suspect.end <= other.start or suspect.start >= other.end for other in kept):
                kept.append(suspect)
        for each in sorted(kept, key=lambda one: -one.start):
            text = replaced(text, each)
        return text

    def with_words_of(self, other: Vocabulary) -> Vocabulary:
        """Both vocabularies as one; the spelling of `other` wins."""
        merged: dict[str, Entry] = {}
        for entry in (*self.entries, *other.entries):
            before = merged.pop(entry.word.casefold(), Entry(entry.word, n=0))
            heard = tuple(dict.fromkeys((*entry.heard, *before.heard)))[:MAX_FORMS]
            never = tuple(dict.fromkeys((*entry.never, *before.never)))[:MAX_FORMS]
            merged[entry.word.casefold()] = Entry(entry.word, heard, never, entry.n + before.n)
        return Vocabulary(tuple(merged.values())[-MAX_WORDS:], self.attested | other.attested)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        words = [
            {"word": entry.word, "heard": list(entry.heard), "never": list(entry.never), "n": entry.n}
            for entry in self.entries
        ]
        return {"words": words, "attested": sorted(self.attested)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vocabulary:
        """Raises ValueError where `values` is not what `to_json` gives."""
        try:
            entries = tuple(
                Entry(_text(row["word"]), _texts(row["heard"]), _texts(row["never"]), int(row["n"]))
                for row in values["words"]
            )
            return cls(entries[:MAX_WORDS], frozenset(_texts(values["attested"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no vocabulary: {error!r}") from error

    @cached_property
    def _forms(self) -> list[tuple[Entry, str, int]]:
        """Each word with its sounds and their skeleton."""
        return [(entry, sounds(entry.word), skeleton(sounds(entry.word))) for entry in self.entries]

    @cached_property
    def _learnt(self) -> dict[str, list[Entry]]:
        learnt: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for form in entry.heard:
                learnt.setdefault(form, []).append(entry)
        return learnt

    def _alike(self, span: str, start: int, end: int) -> Iterable[Suspect]:
        plain = normalized(span)
        learnt = self._learnt.get(plain, [])
        heard = sounds(span)
        bits = skeleton(heard)
        words = WORD.findall(span)
        n_ordinary = len(words) if all(self._is_ordinary(word) for word in words) else 0
        for entry, sound, wanted in self._forms:
            if plain in entry.never or span == entry.word:
                continue
            if entry in learnt:
                yield Suspect(start, end, entry, _LEARNT_LIKENESS, not n_ordinary, n_ordinary)
            elif n_ordinary != 1 and _may_be_alike(sound, wanted, heard, bits):  # one ordinary word is what it is
                likeness = similarity(span, entry.word)
                if likeness >= _MIN_LIKENESS:
                    is_sure = likeness >= _SURE_LIKENESS and not n_ordinary
                    yield Suspect(start, end, entry, likeness, is_sure, n_ordinary)

    def _is_ordinary(self, word: str) -> bool:
        return word.casefold() in self.attested or is_ordinary(word)


def replaced(text: str, suspect: Suspect) -> str:
    """The text with the word in the suspect's place."""
    return text[: suspect.start] + suspect.entry.word + text[suspect.end :]


def normalized(text: str) -> str:
    """Case-folded words with single spaces."""
    return " ".join(WORD.findall(text.casefold()))


def entries_of(
    pairs: Sequence[tuple[str, str]], vetoes: Sequence[tuple[str, str]], *, attested: frozenset[str] = frozenset()
) -> Vocabulary:
    """A vocabulary from confusions, oldest first.

    Args:
        pairs: (word as the user wrote it, what was heard; empty where nothing is known to be).
        vetoes: (word that was put there, what the user put back).
    """
    words: dict[str, str] = {}
    heard: dict[str, dict[str, int]] = {}
    for word, form in pairs:
        key = word.casefold()
        words.pop(key, None)  # the latest spelling, and its place, count
        words[key] = word
        forms = heard.setdefault(key, {})
        forms[normalized(form)] = forms.get(normalized(form), 0) + 1
    never: dict[str, list[str]] = {}
    for word, form in vetoes:
        never.setdefault(word.casefold(), []).append(normalized(form))
    entries = []
    for key, word in list(words.items())[-MAX_WORDS:]:
        refused = tuple(dict.fromkeys(reversed(never.get(key, []))))[:MAX_FORMS]
        counted = sorted(heard[key].items(), key=lambda each: -each[1])
        forms_of = tuple(form for form, _ in counted if form and form != key and form not in refused)[:MAX_FORMS]
        entries.append(Entry(word, forms_of, refused, sum(heard[key].values())))
    return Vocabulary(tuple(entries), attested - words.keys())


def _may_be_alike(first: str, first_bits: int, second: str, second_bits: int) -> bool:
    if not second or not 0.5 <= len(second) / max(len(first), 1) <= 2.0:
        return False
    in_common, in_all = (first_bits & second_bits).bit_count(), (first_bits | second_bits).bit_count()
    return in_all == 0 or in_common >= 0.4 * in_all


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_WORD_CHARS * 4:
        raise TypeError(f"a word is {value!r}")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)
