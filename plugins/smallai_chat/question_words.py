"""Reads a question: its language, what it asks for, its content words, and the alternatives that it names.

The words come from `question_words.toml`. A language without a table there has no words without meaning: every word of
its questions counts.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Literal

# Language of a script that few languages of this table share. Latin letters tell nothing: stop words decide there.
_SCRIPTS = (
    ("ko", r"[\uac00-\ud7a3\u1100-\u11ff]"),
    ("ja", r"[\u3040-\u30ff]"),
    ("zh", r"[\u4e00-\u9fff]"),
    ("hi", r"[\u0900-\u097f]"),
    ("ar", r"[\u0600-\u06ff]"),
    ("ru", r"[\u0400-\u04ff]"),
)
_LATIN = ("en", "de", "fr", "es")
WITHOUT_SPACES = frozenset({"zh", "ja"})
# Sino-Korean and Chinese digits count something only before a counter: "삼번 회의실", "三号会议室".
_KOREAN_DIGITS = {c: str(n) for n, c in enumerate("영일이삼사오육칠팔구")} | {"십": "10", "유": "6", "시": "10"}
_KOREAN_NUMBER = re.compile(r"(?<!\w)(?!이번)([일이삼사오육칠팔구십]|유(?=월)|시(?=월))(번|층|호|월|학년|반|관|동|차)")
_HAN_NUMBER = re.compile(r"([一二三四五六七八九十两]+)(?=[号楼层月日点班年室级路线番階時歳人組])")
_HAN_DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"两": 2}
_MONTH_COUNTERS = {"ko": r"(\d+)월", "zh": r"(\d+)月", "ja": r"(\d+)月"}
# Particles at the end of Korean words; they say what a word does in the sentence.
_PARTICLES = re.compile(
    r"(이에요|예요|인가요|입니까|에서는|에서|에게|한테|으로|까지|부터|마다|이랑|은|는|이|가|을|를|의|에|로|와|과|도|만)$"
)
_ARABIC_PREFIX = re.compile(r"^(وال|بال|كال|فال|لل|ال|و(?=\w{4}))")
_ARABIC_LETTERS = str.maketrans({"أ": "ا", "إ": "ا", "آ": "ا", "ى": "ي", "ة": "ه"})
# "... or not?" asks the same as without it.
_OR_NOT = re.compile(
    r" (or not|oder nicht|ou pas|ou non|o no|या नही|या नहीं|ام لا|или нет)\b"
    r"|(?<=能)不能|(?<=可)不可以|(?<=要)不要|(?<=有)没有"
)
_NUMBER = r"\d+(?:[.,:]\d+)*"


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is compared.

    Attributes:
        language: code of its language; empty if no table knows it.
        words: content words in order, folded.
        names: content words that are written with a capital inside the sentence.
        values: the alternatives that it names, by list: {"day": {"0"}}.
        aspects: what it asks for: {"place"}.
        is_negated: whether the number of its negations is odd.
        is_yes_no: whether it asks for yes or no.
        reach: `any` if it is about any thing of a kind ("What does a cat eat?"), `one` if about a certain one ("our
            cat"); empty if no word says so.
    """

    text: str
    language: str
    words: tuple[str, ...]
    names: frozenset[str]
    values: Mapping[str, frozenset[str]]
    aspects: frozenset[str]
    is_negated: bool
    is_yes_no: bool
    reach: Literal["any", "one", ""] = ""


def fold(text: str) -> str:
    """Returns the text as words are compared: without case, optional signs and different ways to write a letter."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    # Hindi's nukta and Arabic's vowel signs are often left out; Arabic's alef and final letters vary.
    text = unicodedata.normalize("NFD", text).replace("\u093c", "").replace("\u0640", "")
    text = re.sub(r"[\u064b-\u065f\u0670]", "", text)
    text = unicodedata.normalize("NFC", text)
    return text.translate(_ARABIC_LETTERS)


def tokens(text: str) -> list[str]:
    """Returns the words and numbers of a folded text."""
    # `\w` knows no vowel signs of Indian scripts, which are marks; the ranges add them.
    return re.findall(rf"{_NUMBER}|(?:[^\W\d_]|[\u0900-\u097f\u0300-\u036f\u0e00-\u0e7f])+", text)


_MAX_READ = 20_000  # questions that are kept as they were read; a program that runs for months must not keep all


def language_of(*texts: str) -> str:
    """Returns the language of the texts, which are in one; empty if no table knows it."""
    joined = " ".join(texts)
    for language, letters in _SCRIPTS:
        if re.search(letters, joined):
            return language
    if not re.search(r"[a-z]", joined, re.IGNORECASE):
        return ""
    found = set(tokens(fold(joined)))
    votes = {language: len(found & _table(language).stop) for language in _LATIN}
    best = max(votes, key=lambda language: votes[language])
    return best if votes[best] else "en"


@lru_cache(maxsize=_MAX_READ)
def read(text: str, language: str) -> Question:
    """Returns the question as it is compared in that language."""
    table = _table(language)
    folded = _OR_NOT.sub("", _with_numbers(fold(text), language))
    found = _segments(folded, table) if language in WITHOUT_SPACES else tokens(_without_elisions(folded))
    values: dict[str, set[str]] = {}
    aspects: set[str] = set()
    covered: set[str] = set()  # words that an alternative or an aspect stands for
    spoken = folded if language in WITHOUT_SPACES else f" {' '.join(found)} ".replace(" ", "  ")
    for kind, value, pattern in table.values:
        matches = [match[0] for match in pattern.finditer(spoken)]
        if matches and not _is_modal(kind, value, found):
            values.setdefault(kind, set()).add(value)
            covered.update(word for match in matches for word in match.split())
    for aspect, pattern in table.aspects:
        matches = [match[0] for match in pattern.finditer(spoken)]
        if matches:
            aspects.add(aspect)
            covered.update(word for match in matches for word in match.split())
    negations = [word for pattern in table.negations for word in pattern.findall(spoken)]
    covered.update(word for match in negations for word in match.split())
    for counter in re.findall(_MONTH_COUNTERS.get(language, r"(?!)"), folded):
        values.setdefault("month", set()).add(str(int(counter) - 1))
    numbers = {token for token in found if token[0].isdigit()}
    if numbers:
        values.setdefault("number", set()).update(_plain_number(number) for number in numbers)
    content = [token for token in found if token not in table.stop and token not in covered and not token[0].isdigit()]
    return Question(
        text,
        language,
        tuple(word for token in content if (word := _bare(token, language)) and word not in table.stop),
        _names(text, table),
        {kind: frozenset(found) for kind, found in values.items()},
        frozenset(aspects),
        bool(negations),
        _is_yes_no(found, aspects, language, folded),
        "one" if table.of_one.intersection(found) else "any" if table.of_any.intersection(found) else "",
    )


def group_of(word: str, language: str) -> str:
    """Returns the group of words with the same meaning in a question; the word itself if it has none."""
    table = _table(language)
    exact = table.groups.get(word)
    return exact or next((group for prefix, group in table.prefixes if word.startswith(prefix)), word)


@dataclass(frozen=True, slots=True)
class _Table:
    stop: frozenset[str]
    of_any: frozenset[str]
    of_one: frozenset[str]
    negations: tuple[re.Pattern[str], ...]
    values: tuple[tuple[str, str, re.Pattern[str]], ...]
    aspects: tuple[tuple[str, re.Pattern[str]], ...]
    groups: Mapping[str, str]
    prefixes: tuple[tuple[str, str], ...]
    segments: re.Pattern[str]


@cache
def _table(language: str) -> _Table:
    raw: Mapping[str, Any] = _tables().get(language, {})
    is_spaced = language not in WITHOUT_SPACES
    stop = (
        frozenset(fold(raw.get("stop", "")).replace("_", " ").split())
        if is_spaced
        else frozenset(fold(raw.get("stop", "")).split())
    )
    values = tuple(
        (kind, str(number), _pattern(spellings.split(), is_spaced))
        for kind, members in raw.get("contrast", {}).items()
        for number, spellings in enumerate(members)
    )
    aspects = tuple((name, _pattern(words.split(), is_spaced)) for name, words in raw.get("aspect", {}).items())
    groups: dict[str, str] = {}
    prefixes: list[tuple[str, str]] = []
    for number, words in enumerate(raw.get("same", {}).get("groups", ())):
        for word in words.split():
            if word.endswith("*"):
                prefixes.append((fold(word.rstrip("*")), f"={number}"))
            else:
                groups.setdefault(fold(word), f"={number}")
    known = [fold(word) for word in raw.get("stop", "").split()]
    known += [fold(word.rstrip("*")) for words in raw.get("aspect", {}).values() for word in words.split()]
    known += [fold(w) for ms in raw.get("contrast", {}).values() for m in ms for w in m.split()]
    known += [fold(word) for word in raw.get("not", "").split()]
    longest = sorted(set(known), key=len, reverse=True)
    segments = re.compile("|".join([_NUMBER, *map(re.escape, longest), r"[a-z]+"]) if longest else r"(?!)")
    negations = (_pattern(raw.get("not", "").split(), is_spaced),) if raw.get("not") else ()
    of_any, of_one = (frozenset(fold(raw.get(name, "")).split()) for name in ("any", "one"))
    return _Table(stop, of_any, of_one, negations, values, aspects, groups, tuple(prefixes), segments)


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads((resources.files(__package__) / "question_words.toml").read_text(encoding="utf-8"))


def _pattern(spellings: Iterable[str], is_spaced: bool) -> re.Pattern[str]:
    parts = []
    for spelling in spellings:
        word = re.escape(fold(spelling).rstrip("*").strip("_").replace("_", "  ").replace("'", "  "))
        word = word.replace("\\~", "~").replace("\\^", "").replace("~", r" .* ")
        # Arabic's article and short prepositions are written onto the word.
        begin = "^" if spelling.startswith("^") else ""
        parts.append(
            word
            if not is_spaced
            else f"{begin} (?:ال|بال|لل|ب|ل|و)?{word}{'[^ ]* ' if spelling.endswith('*') else ' '}"
        )
    return re.compile("|".join(parts))


def _segments(text: str, table: _Table) -> list[str]:
    """Returns the known words of a text without spaces, and the runs between them."""
    out: list[str] = []
    for run in re.findall(r"\w+", text):
        end = 0
        for match in table.segments.finditer(run):
            if match.start() > end:
                out.append(run[end : match.start()])
            out.append(match[0])
            end = match.end()
        if end < len(run):
            out.append(run[end:])
    return out


def _with_numbers(text: str, language: str) -> str:
    """Returns the text with the numbers of Korean and Chinese counters as digits."""
    if language == "ko":
        return _KOREAN_NUMBER.sub(lambda match: f"{_KOREAN_DIGITS[match[1]]}{match[2]}", text)
    if language in WITHOUT_SPACES:
        return _HAN_NUMBER.sub(lambda match: str(_han_number(match[1])), text)
    return text


def _han_number(digits: str) -> int:
    tens, ten, ones = digits.partition("十")
    if not ten:
        return int("".join(str(_HAN_DIGITS[digit]) for digit in digits))
    return 10 * (_HAN_DIGITS.get(tens, 1)) + _HAN_DIGITS.get(ones, 0)


def _without_elisions(text: str) -> str:
    return re.sub(r"n't\b", " not", text).replace("can't", "can not").replace("'s ", " ").replace("'", " ")


def _bare(token: str, language: str) -> str:
    if language == "ko":
        stem = _PARTICLES.sub("", token)
        return stem if len(stem) > 1 or token[-1] in "은는을를의에로" else token
    if language == "ar":
        return _ARABIC_PREFIX.sub("", token) or token
    return token


def _plain_number(number: str) -> str:
    return number.lstrip("0").rstrip(".,:") or "0"


def _is_modal(kind: str, value: str, found: list[str]) -> bool:
    """Whether the English "may" or "march" is a verb."""
    if kind != "month" or "may" not in found or value != "4":
        return False
    at = found.index("may")
    return at == 0 or (at + 1 < len(found) and found[at + 1] in {"i", "we", "you", "he", "she", "they", "one", "be"})


def _names(text: str, table: _Table) -> frozenset[str]:
    """Returns the capitalized words inside sentences. German writes every noun so: its names tell nothing."""
    found = re.findall(r"(?<![.?!¿] )(?<!^)(?<!^¿)\b[A-ZÀ-ÞА-Я]\w+", text)
    return frozenset(word for name in found if (word := fold(name)) not in table.stop)


_YES_NO = {
    "en": r"^(is|are|was|were|do|does|did|can|could|may|might|must|should|will|would|has|have|had|am)$",
    "de": r"^(ist|sind|war|waren|hat|haben|kann|können|darf|dürfen|muss|müssen|soll|will|wird|isst|nimmt|gehört|gibt)$",
    "ru": r"^(можно|есть)$",
    "hi": r"^क्या$",
    "ar": r"^هل$",
}


def _is_yes_no(found: list[str], aspects: set[str], language: str, folded: str) -> bool:
    if language in {"zh", "ja"}:
        return bool(re.search(r"[吗嗎]|能不能|可不可以|要不要|ますか|ですか", folded)) and not aspects
    if language == "ru" and " ли " in folded:
        return True
    if language in _YES_NO:
        return bool(found and re.match(_YES_NO[language], found[0]))
    asks = {
        "fr": r"\b(qu\w*|où|quand|comment|combien|pourquoi)\b",
        "es": r"\b(qué|quién|quiénes|cuál|cuáles|cuándo|cuánt\w+|dónde|adónde|cómo)\b",
    }
    if language in asks:
        return not re.search(asks[language], folded.replace("est-ce que", "").replace("est-ce qu", ""))
    return False


def values_differ(first: Question, second: Question) -> bool:
    """Whether both name alternatives of one list, and neither names all that the other names."""
    for kind, its in first.values.items():
        other = second.values.get(kind)
        if other and not (its <= other or other <= its):
            return True
    return False
