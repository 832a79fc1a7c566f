"""A personal vocabulary: the user's words, how each was misheard, and which parts of a text may mean one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from smallai_assistant import Adapter, errors
from smallai_speech.ordinary import is_ordinary
from smallai_speech.phonetics import similarity, skeleton, sounds

VOCABULARY_FILE = "vocabulary.json"  # in an adapter's folder
MAX_WORDS = 500  # the newest are kept
MAX_FORMS = 8  # of one word
MAX_WORD_CHARS = 40
WORD = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")

_MAX_SPAN_WORDS = 4  # words that one long name is misheard as
_MIN_LIKENESS = 0.46  # below it, a mishearing cannot be told from chance
_SURE_LIKENESS = 0.85  # above it, an uncommon word is a near miss without asking the model
_LEARNED_LIKENESS = 0.95  # of a form that was corrected before
_MIN_SHARED_GROUPS = 0.4  # of the consonant groups of two texts that may sound alike
_MAX_FILE_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A word as the user writes it.

    Attributes:
        heard: what it was taken for, case-folded, the commonest first.
        never: forms that were replaced by it wrongly: the user put them back.
        n: number of corrections that hold it.
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
        is_sure: whether it is a near miss or a learned form that holds an uncommon word: it is replaced whatever the
            model says.
        n_ordinary: number of its words if all of them are ordinary, else 0.
    """

    start: int
    end: int
    entry: Entry
    likeness: float
    is_sure: bool
    n_ordinary: int


@dataclass(frozen=True, slots=True)
class _Sounding:
    """An entry with the sounds of its word and their skeleton."""

    entry: Entry
    sounds: str
    bits: int


@dataclass(frozen=True)
class Vocabulary:
    """The words of one user, at most `MAX_WORDS`; immutable.

    Attributes:
        attested: case-folded words that the user confirmed or wrote; they are treated like common ones.
    """

    entries: tuple[Entry, ...] = ()
    attested: frozenset[str] = field(default=frozenset())

    def __bool__(self) -> bool:
        return bool(self.entries)

    def suspects(self, text: str, *, limit: int = 16) -> list[Suspect]:
        """The stretches that may mean a word of the vocabulary, the likeliest first; they may overlap."""
        words = list(WORD.finditer(text))
        found: list[Suspect] = []
        for i, first in enumerate(words):
            for last in words[i : i + _MAX_SPAN_WORDS]:
                span = text[first.start() : last.end()]
                found += self._alike(span, first.start(), last.end())
        found.sort(key=lambda suspect: (-suspect.likeness, suspect.end - suspect.start))
        return found[:limit]

    def repair(self, text: str) -> str:
        """The text with sure near misses replaced.

        Ordinary words stay: only the sound can tell whether the user's word was meant.
        """
        kept: list[Suspect] = []
        for suspect in self.suspects(text, limit=1_000):
            if suspect.is_sure and all(suspect.end <= other.start or suspect.start >= other.end for other in kept):
                kept.append(suspect)
        # From the end, so that the positions before stay right.
        for suspect in sorted(kept, key=lambda suspect: -suspect.start):
            text = replaced(text, suspect)
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
        """The inverse of `to_json`.

        Raises:
            ValueError: `values` is not what `to_json` returns.
        """
        try:
            entries = tuple(
                Entry(_text(row["word"]), _texts(row["heard"]), _texts(row["never"]), int(row["n"]))
                for row in values["words"]
            )
            return cls(entries[:MAX_WORDS], frozenset(_texts(values["attested"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a vocabulary: {error!r}") from error

    @cached_property
    def _soundings(self) -> list[_Sounding]:
        return [_Sounding(entry, sounds(entry.word), skeleton(sounds(entry.word))) for entry in self.entries]

    @cached_property
    def _entries_by_form(self) -> dict[str, list[Entry]]:
        by_form: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for form in entry.heard:
                by_form.setdefault(form, []).append(entry)
        return by_form

    def _alike(self, span: str, start: int, end: int) -> Iterable[Suspect]:
        """The words that a stretch of text may mean."""
        plain = normalized(span)
        learned = self._entries_by_form.get(plain, [])
        heard = sounds(span)
        bits = skeleton(heard)
        words = WORD.findall(span)
        n_ordinary = len(words) if all(self._is_ordinary(word) for word in words) else 0
        for sounding in self._soundings:
            entry = sounding.entry
            if plain in entry.never or span == entry.word:
                continue
            if entry in learned:
                yield Suspect(start, end, entry, _LEARNED_LIKENESS, not n_ordinary, n_ordinary)
            # A single ordinary word is suspected only if the user corrected that very word before.
            elif n_ordinary != 1 and _may_be_alike(sounding, heard, bits):
                likeness = similarity(span, entry.word)
                if likeness >= _MIN_LIKENESS:
                    is_sure = likeness >= _SURE_LIKENESS and not n_ordinary
                    yield Suspect(start, end, entry, likeness, is_sure, n_ordinary)

    def _is_ordinary(self, word: str) -> bool:
        return word.casefold() in self.attested or is_ordinary(word)


def vocabulary_in(adapter: Adapter) -> Vocabulary | None:
    """Reads the adapter's words. Returns None if its kind has none.

    Raises:
        AdapterMismatch: the file cannot be read.
    """
    if "vocabulary" not in adapter.kind:
        return None
    path = adapter.folder / VOCABULARY_FILE
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        return Vocabulary.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.AdapterMismatch(f"{path}: {error}") from error


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Writes the file that `vocabulary_in` reads."""
    text = json.dumps(vocabulary.to_json(), indent=1, ensure_ascii=False)
    (folder / VOCABULARY_FILE).write_text(text, encoding="utf-8")


def replaced(text: str, suspect: Suspect) -> str:
    """The text with the word in the suspect's place."""
    return text[: suspect.start] + suspect.entry.word + text[suspect.end :]


def normalized(text: str) -> str:
    """Case-folded words with single spaces."""
    return " ".join(WORD.findall(text.casefold()))


def entries_of(
    pairs: Sequence[tuple[str, str]], vetoes: Sequence[tuple[str, str]], *, attested: frozenset[str] = frozenset()
) -> Vocabulary:
    """Makes a vocabulary from confusions, oldest first.

    Args:
        pairs: (word as the user wrote it, what was heard; empty if that is not known).
        vetoes: (word that was put there, what the user put back).
        attested: case-folded words that were right.
    """
    words: dict[str, str] = {}
    heard: dict[str, dict[str, int]] = {}
    for word, form in pairs:
        key = word.casefold()
        words.pop(key, None)  # the latest spelling counts, and moves to the end, which is kept longest
        words[key] = word
        forms = heard.setdefault(key, {})
        forms[normalized(form)] = forms.get(normalized(form), 0) + 1
    never: dict[str, list[str]] = {}
    for word, form in vetoes:
        never.setdefault(word.casefold(), []).append(normalized(form))
    entries = []
    for key, word in list(words.items())[-MAX_WORDS:]:
        refused = tuple(dict.fromkeys(reversed(never.get(key, []))))[:MAX_FORMS]
        counted = sorted(heard[key].items(), key=lambda form_and_count: -form_and_count[1])
        taken_for = tuple(form for form, _ in counted if form and form != key and form not in refused)[:MAX_FORMS]
        entries.append(Entry(word, taken_for, refused, sum(heard[key].values())))
    return Vocabulary(tuple(entries), attested - words.keys())


def _may_be_alike(sounding: _Sounding, heard: str, bits: int) -> bool:
    """A quick test before the edit distance, which would be too slow for every word at every place of a text."""
    if not heard or not 0.5 <= len(heard) / max(len(sounding.sounds), 1) <= 2.0:
        return False
    in_common, in_all = (sounding.bits & bits).bit_count(), (sounding.bits | bits).bit_count()
    return in_all == 0 or in_common >= _MIN_SHARED_GROUPS * in_all


def _text(value: Any) -> str:
    # A form may be several words long.
    if not isinstance(value, str) or not 0 < len(value) <= MAX_WORD_CHARS * _MAX_SPAN_WORDS:
        raise TypeError(f"a word is {value!r}")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)
