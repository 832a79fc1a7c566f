"""Decides whether two questions have the same answer.

Sentence vectors find what is alike in meaning, and "the office in Berlin" is alike "the office in Paris". So the words
of both questions are aligned. What remains on both sides is another subject unless it means the same; numbers, days,
opposites, negations and what is asked for must agree. A logistic regression weighs what was found
(`bench/train_same_question.py` makes its coefficients).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from importlib import resources
from math import exp
from typing import TYPE_CHECKING

from smallai_chat.calibration import UNKNOWN, Calibration, Embed, Meaning
from smallai_chat.question_words import (
    WITHOUT_SPACES,
    Question,
    fold,
    group_of,
    language_of,
    read,
    tokens,
    values_differ,
)
from smallai_chat.words import question_key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# Two questions count as the same from this likelihood on. Chosen on the tuning half of `bench.scope`, cross-validated.
MIN_LIKELIHOOD = 0.5
# On the scale from unrelated questions (0) to paraphrases (1): no paraphrase of the tuning half is below it.
MIN_CLOSENESS = 0.25
MAX_CANDIDATES = 4
# Kinds of alternatives that a question may leave out: "Which exit is it?". Without the day, "When is yoga on Monday?"
# is another question.
_WEAK_KINDS = frozenset(
    {"begin", "open", "allowed", "arrive", "alive", "period", "hot", "paid", "buy", "enter", "cash"}
)
# Aspects that ask for the same in other words: "Who is the vet?", "What is the vet's name?".
_SAME_ASPECTS = (frozenset({"person", "name"}), frozenset({"size", "amount"}))


@dataclass(frozen=True, slots=True)
class Alignment:
    """The content words of two questions, side by side.

    Attributes:
        n_first, n_second: the numbers of content words (in Chinese and Japanese, of characters).
        n_matched: how many of the first have a counterpart.
        left_first, left_second: the words without a counterpart.
    """

    n_first: int
    n_second: int
    n_matched: int
    left_first: tuple[str, ...]
    left_second: tuple[str, ...]


def align(first: Question, second: Question) -> Alignment:
    """Returns the alignment of two questions in one language."""
    if first.language in WITHOUT_SPACES:
        return _align_characters("\n".join(first.words), "\n".join(second.words), first.language)
    left_first, left_second = list(first.words), list(second.words)
    for is_match in (_is_equal, _is_inflected, _is_group(first.language)):
        for word in list(left_first):
            found = next((other for other in left_second if is_match(word, other)), None)
            if found is not None:
                left_first.remove(word)
                left_second.remove(found)
    n_first, n_second = len(first.words), len(second.words)
    # A word that repeats what was matched, or is a part of it ("school" in "Schulausflug"), is not another subject.
    matched = n_first - len(left_first)
    rest_first = tuple(w for w in left_first if not any(_is_part(w, other) for other in second.words))
    rest_second = tuple(w for w in left_second if not any(_is_part(w, other) for other in first.words))
    return Alignment(n_first, n_second, matched, rest_first, rest_second)


def _is_equal(word: str, other: str) -> bool:
    return word == other


def _is_inflected(word: str, other: str) -> bool:
    """Whether both words begin alike and differ in their endings only."""
    shared = 0
    for a, b in zip(word, other, strict=False):
        if a != b:
            break
        shared += 1
    rest = max(len(word), len(other)) - shared
    if "\uac00" <= word[0] <= "\ud7a3":
        return shared >= 2 or (shared == 1 == min(len(word), len(other)))
    return (shared >= 4 and rest <= 3) or (shared == 3 and rest <= 2 and min(len(word), len(other)) == 3)


def _is_group(language: str) -> Callable[[str, str], bool]:
    return lambda word, other: group_of(word, language) == group_of(other, language)


def _is_part(word: str, other: str) -> bool:
    return (len(word) >= 4 and word in other) or (len(other) >= 4 and other in word)


def _align_characters(first: str, second: str, language: str) -> Alignment:
    """Aligns two texts without spaces: words of both that share a character run of two, or a single rare one."""
    left_first, left_second = _without_shared(first, second, language), _without_shared(second, first, language)
    n_first, n_second = len(first.replace("\n", "")), len(second.replace("\n", ""))
    return Alignment(n_first, n_second, n_first - sum(map(len, left_first)), left_first, left_second)


def _without_shared(text: str, other: str, language: str) -> tuple[str, ...]:
    out = []
    for run in text.split("\n"):
        if group_of(run, language) in {group_of(word, language) for word in other.split("\n")}:
            continue
        rest = "".join(character if character not in other else "\n" for character in run)
        out += [word for word in rest.split("\n") if word]
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Probes:
    """What the embedding model says about a pair of questions, on the scale of `calibration.Meaning`.

    Attributes:
        closeness: similarity of the questions; 0 is usual for unrelated questions, 1 for paraphrases.
        counterpart: similarity of the words without counterpart, of the least similar one; 1 if a side has none.
        gain: by how much the closeness grows if the first question gets the words of the second.
    """

    closeness: float
    counterpart: float = 1.0
    gain: float = 0.0


FEATURES = (
    "closeness", "coverage", "containment", "both_left", "counterpart", "gain", "left_once", "aspect_conflict",
    "aspect_once", "asked_instead", "strong_once", "weak_once", "yes_no", "names_differ", "same_frame", "n_both",
    "reach_differs",
)  # fmt: skip


def features(first: Question, second: Question, aligned: Alignment, probes: Probes) -> list[float]:
    """Returns the values of `FEATURES`, each about 0 to 1."""
    both = bool(aligned.left_first and aligned.left_second)
    n_max, n_min = max(aligned.n_first, aligned.n_second, 1), max(min(aligned.n_first, aligned.n_second), 1)
    kinds = first.values.keys() ^ second.values.keys()
    conflict = _aspects_differ(first.aspects, second.aspects)
    once = bool(first.aspects) != bool(second.aspects)
    # "Which platform does the train leave from?", "How long does the train take?": a word here, an aspect there.
    its, other = _beside_amount(first.aspects, second.aspects), _beside_amount(second.aspects, first.aspects)
    instead = bool((aligned.left_first and not its and other) or (aligned.left_second and not other and its))
    # "How many" asks for the word that it counts. "How many legs has a crab?" and "How long does a crab live?" differ.
    conflict |= instead and bool(first.aspects and second.aspects)
    names_first, names_second = first.names & set(aligned.left_first), second.names & set(aligned.left_second)
    frame = SequenceMatcher(None, tokens(fold(first.text)), tokens(fold(second.text)), autojunk=False).ratio()
    return [
        max(-0.5, min(1.3, probes.closeness)),
        aligned.n_matched / n_max,
        aligned.n_matched / n_min,
        float(both),
        (1 - probes.counterpart) if both else 0.0,
        max(0.0, min(1.0, probes.gain)) if both else 0.0,
        0.0 if both else min(3, len(aligned.left_first) + len(aligned.left_second)) / 3,
        float(conflict),
        float(once),
        float(instead),
        len(kinds - _WEAK_KINDS) / 2,
        len(kinds & _WEAK_KINDS) / 2,
        float(first.is_yes_no != second.is_yes_no),
        float(bool(names_first and names_second)),
        frame if both else 0.0,
        min(3, len(aligned.left_first), len(aligned.left_second)) / 3,
        float({first.reach, second.reach} == {"any", "one"}),
    ]


def _beside_amount(its: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """What a question asks for beside an amount. A size is an amount: "How large is the staff?"."""
    return its - ({"amount", "size"} if "amount" in other else {"amount"})


def _aspects_differ(first: frozenset[str], second: frozenset[str]) -> bool:
    """Whether both ask for something, and for nothing in common."""
    if first & second - {"amount"}:
        return False
    # "How many" goes with every measure, but "how many degrees" is not "how many minutes".
    its, other = first - {"amount"} or first, second - {"amount"} or second
    if not its or not other or "amount" in its | other:
        return bool(its and other) and not its & other and bool({"place", "person", "name", "color"} & (its | other))
    return not its & other and not any(its & pair and other & pair for pair in _SAME_ASPECTS)


def swapped(first: Question, aligned: Alignment) -> str:
    """Returns the first question with the words of the second in the place of its own."""
    text = fold(first.text)
    for word, other in zip(aligned.left_first, aligned.left_second, strict=False):
        text = text.replace(word, other, 1)
    return text


def cannot_be_same(first: Question, second: Question) -> bool:
    """Whether a number, a day, an opposite or a negation alone shows that the answers differ."""
    return values_differ(first, second) or first.is_negated != second.is_negated


def same_words(first: Question, second: Question) -> bool:
    """Whether two questions say the same by their words alone, in any order and with any words of asking."""
    aligned = align(first, second)
    return (
        bool(first.words or first.values)
        and not aligned.left_first
        and not aligned.left_second
        and first.values == second.values
        and first.is_negated == second.is_negated
        and first.aspects == second.aspects
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    at: int  # of the stored question
    first: Question
    second: Question
    aligned: Alignment
    cosine: float
    meaning: Meaning

    def probe_texts(self) -> list[str]:
        aligned = self.aligned
        if not (aligned.left_first and aligned.left_second):
            return []
        mixed = swapped(self.first, aligned)
        return [*aligned.left_first, *aligned.left_second, mixed, fold(self.first.text), fold(self.second.text)]

    def probes(self, vectors: Mapping[str, FloatArray]) -> Probes:
        closeness = self.meaning.closeness(self.cosine)
        its, other = self.aligned.left_first, self.aligned.left_second
        if not (its and other):
            return Probes(closeness)
        fewer, more = (its, other) if len(its) <= len(other) else (other, its)
        counterpart = min(max(float(vectors[word] @ vectors[option]) for option in more) for word in fewer)
        first, second = vectors[fold(self.first.text)], vectors[fold(self.second.text)]
        after = self.meaning.closeness(float(vectors[swapped(self.first, self.aligned)] @ second))
        return Probes(
            closeness,
            self.meaning.word_closeness(counterpart),
            after - self.meaning.closeness(float(first @ second)),
        )


def likelihoods(
    asked: str, stored: Sequence[str], cosines: Sequence[float], calibration: Calibration, embed: Embed
) -> list[float]:
    """Returns, for each stored question, how likely it has the same answer as the one asked, 0 to 1.

    Args:
        asked: the question.
        stored: questions whose answers are known.
        cosines: similarity of the sentence vectors of each with the asked one.
        calibration: what similarities of the embedding model mean.
        embed: returns the sentence vectors of texts.

    Raises:
        ModelError: the embedding model is not available.
    """
    out = [0.0] * len(stored)
    pairs: list[_Pair] = []
    asked_key = question_key(asked)
    for at in sorted(range(len(stored)), key=lambda i: -cosines[i]):
        if question_key(stored[at]) == asked_key:
            out[at] = 1.0
            continue
        language = language_of(asked, stored[at])
        meaning = calibration.of(language, embed)
        # Before the words are read: of thousands of stored questions few are candidates.
        if meaning.is_reliable and (len(pairs) == MAX_CANDIDATES or meaning.closeness(cosines[at]) < MIN_CLOSENESS):
            continue
        first, second = read(stored[at], language), read(asked, language)
        if cannot_be_same(first, second):
            continue
        if not meaning.is_reliable:
            out[at] = float(same_words(first, second))
        else:
            pairs.append(_Pair(at, first, second, align(first, second), cosines[at], meaning))
    texts = list(dict.fromkeys(text for pair in pairs for text in pair.probe_texts()))
    vectors = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    for pair in pairs:
        found = features(pair.first, pair.second, pair.aligned, pair.probes(vectors))
        out[pair.at] = _model().likelihood(found)
    return out


def texts_of(stored: str, asked: str, language: str) -> list[str]:
    """Returns all texts whose vectors `features_of` takes."""
    first, second = read(stored, language), read(asked, language)
    return [stored, asked, *_Pair(0, first, second, align(first, second), 0.0, UNKNOWN).probe_texts()]


def features_of(first: Question, second: Question, meaning: Meaning, embed: Embed) -> list[float]:
    """Returns the features of one pair, for training."""
    aligned = align(first, second)
    vectors = embed([first.text, second.text])
    pair = _Pair(0, first, second, aligned, float(vectors[0] @ vectors[1]), meaning)
    texts = pair.probe_texts()
    probes = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    return features(first, second, aligned, pair.probes(probes))


@dataclass(frozen=True, slots=True)
class _Model:
    """Boosted decision trees over `FEATURES`.

    Attributes:
        base: log odds without any tree.
        trees: nodes of (feature, threshold, left, right) or, as leaves, (-1, log odds, 0, 0).
    """

    base: float
    trees: Sequence[Sequence[Sequence[float]]]

    def likelihood(self, values: Sequence[float]) -> float:
        odds = self.base
        for nodes in self.trees:
            node = nodes[0]
            while node[0] >= 0:
                node = nodes[int(node[2] if values[int(node[0])] <= node[1] else node[3])]
            odds += node[1]
        return 1 / (1 + exp(-odds))


@cache
def _model() -> _Model:
    stored = json.loads((resources.files(__package__) / "same_question.json").read_text(encoding="utf-8"))
    if tuple(stored["features"]) != FEATURES:
        raise ValueError("same_question.json was made for other features: run python -m bench.train_same_question")
    return _Model(stored["base"], stored["trees"])
