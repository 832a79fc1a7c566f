"""Compares how words sound, closely enough to find that two spellings may be the same word.

It uses rules instead of a pronunciation dictionary, which has no names: letters become some twenty sounds by rules
that hold for most names in European languages. Sounds that the mouth makes alike, such as b and p, cost less to confuse
than others.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# The rules apply in this order: a longer spelling comes before its parts, and vowels come last, since rules before them
# look at the letters around.
_RULES = tuple(
    (re.compile(pattern), sound)
    for pattern, sound in (
        (r"^(?:kn|gn|pn)", "n"),
        (r"^wr", "r"),
        (r"^ps", "s"),
        (r"^x", "z"),
        (r"tch|ch|dg(?=e)", "J"),
        (r"sch|sh|[ts]i(?=on|a)|ck?s?sion", "S"),
        (r"ph", "f"),
        (r"th", "T"),
        (r"wh", "w"),
        (r"gh(?=t)|(?<=[aeiou])gh$", ""),
        (r"qu|kw", "kw"),
        (r"q", "k"),
        (r"x", "ks"),
        (r"ck|cc(?![eiy])", "k"),
        (r"c(?=[eiy])", "s"),
        (r"c", "k"),
        (r"j|g(?=[eiy])", "J"),
        (r"(?<=[a-z])e(?:s|d)?$", ""),  # silent
        (r"y(?=[aeiou])", "Y"),
        (r"(?<=[aeiou])w(?![aeiou])", "u"),
        (r"(?<=[aeiou])h|h$", ""),
        (r"[aä]+", "a"),
        (r"[eiy]+", "e"),
        (r"[ou]+", "o"),
    )
)
_DOUBLED = re.compile(r"(.)\1+")
_VOWELS = "aeo"
# Consonants made alike: voiced and voiceless twins are nearest, sounds made at one place of the mouth less near.
_TWINS = ("pb", "td", "kg", "fv", "sz", "SJ", "Tf", "mn", "lr", "wv", "Ye", "Ts")
_NEIGHBOURS = ("pbfvmw", "tdTszln", "kgJS", "lrw", "tJS", "szSJ")
# Costs of a confusion, in proportion to that of two sounds with nothing in common.
_TWIN_COST, _NEIGHBOUR_COST, _VOWEL_COST, _OTHER_COST = 0.25, 0.6, 0.3, 1.0
_LOST_VOWEL, _LOST_CONSONANT, _LOST_WEAK = 0.45, 0.9, 0.5
_WEAK = "hwYr"  # often not heard after a vowel
_GROUPS = ("pbfvm", "tdT", "kg", "szSJ", "n", "lr", "w")  # of consonants, one bit each in a skeleton


@lru_cache(maxsize=20_000)  # a transcript asks for the same words over and over
def sounds(text: str) -> str:
    """The sounds of a text as one string without spaces: `Plexidyne` and `plexy dine` give the same."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    words = re.findall(r"\w+", "".join(c for c in plain if not unicodedata.combining(c) and c not in "'’"))
    return _DOUBLED.sub(r"\1", "".join(_word_sounds(word) for word in words))


def similarity(first: str, second: str) -> float:
    """How alike two texts sound, in [0, 1]; 1 means the same sounds."""
    return _similarity(sounds(first), sounds(second))


def skeleton(of: str) -> int:
    """One bit for each group of consonants in the sounds `of`: a quick test whether two texts may be alike."""
    bits = 0
    for i, group in enumerate(_GROUPS):
        bits |= any(sound in of for sound in group) << i
    return bits


def _word_sounds(word: str) -> str:
    for pattern, sound in _RULES:
        word = pattern.sub(sound, word)
    return word


@lru_cache(maxsize=200_000)
def _similarity(first: str, second: str) -> float:
    if not first or not second:
        return 0.0
    longest = max(_weight(first), _weight(second))
    return max(0.0, 1.0 - _distance(first, second) / longest)


def _weight(of: str) -> float:
    """Cost of losing all the sounds: the largest distance that a text of this length can have."""
    return sum(_loss(sound) for sound in of)


def _distance(first: str, second: str) -> float:
    """Weighted edit distance (Wagner and Fischer 1974)."""
    row = [0.0]
    for sound in second:
        row.append(row[-1] + _loss(sound))
    for one in first:
        lost, previous = _loss(one), row
        row = [previous[0] + lost]
        for j, other in enumerate(second, 1):
            row.append(
                min(previous[j] + lost, row[-1] + _loss(other), previous[j - 1] + _confusion(one, other)),
            )
    return row[-1]


def _loss(sound: str) -> float:
    """Cost of a sound that one text has and the other does not."""
    if sound in _VOWELS:
        return _LOST_VOWEL
    return _LOST_WEAK if sound in _WEAK else _LOST_CONSONANT


@lru_cache(maxsize=4_096)
def _confusion(one: str, other: str) -> float:
    """Cost of one sound in the place of the other."""
    if one == other:
        return 0.0
    if one in _VOWELS and other in _VOWELS:
        return _VOWEL_COST
    if any(one in pair and other in pair for pair in _TWINS):
        return _TWIN_COST
    if any(one in group and other in group for group in _NEIGHBOURS):
        return _NEIGHBOUR_COST
    return _OTHER_COST
