"""The fast memory of dialogue: corrected and praised turns, found by meaning and shown to the model."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_assistant import EmbeddingModel, JudgedTurn, Steering

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]

# `python -m bench.facts`: below it lie everyday questions beside thirty facts, above it their paraphrases.
NEAR = 0.64
_OVERLAP_WEIGHT = 0.1  # of the content words in common: MiniLM alone mixes up facts that are told alike
_SAME_QUESTION = 0.9
MAX_SHOWN = 2
_MAX_QUESTION_CHARS, _MAX_ANSWER_CHARS = 500, 1_000
_MAX_COPIED_WORDS = 12  # a longer correction is an example of how to answer, not words to copy
_COPY_BIAS = 5.0

_LIGHT_WORDS = """
a an the of in on at to for from by with and or is are was were be been do does did have has had can could may might
must should would will shall i me my you your he she it its we us our they them their this that these those there here
what which who whom whose where when why how many much please tell know give name find get go say
"""
_LIGHT = frozenset(_LIGHT_WORDS.split())


@dataclass(frozen=True, slots=True)
class Remembered:
    """A turn that was judged.

    Attributes:
        answer: the right one; empty where only a wrong one is known.
        wrong: an answer that was rejected; empty where none is known.
        is_correction: the answer is a person's own words.
    """

    feedback_id: str
    turn_id: str
    question: str
    answer: str = ""
    wrong: str = ""
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What is remembered of a question, best first: `shown` has answers, `wrong` holds rejected ones."""

    shown: tuple[Remembered, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def steering(self) -> Steering | None:
        """What decoding should copy and avoid; None where nothing."""
        best = self.shown[:1]
        copy = tuple(
            each.answer for each in best if each.is_correction and len(each.answer.split()) <= _MAX_COPIED_WORDS
        )
        return Steering(copy=copy, bias=_COPY_BIAS, avoid=self.wrong) if copy or self.wrong else None


def remembered(judged_turn: JudgedTurn) -> Remembered | None:
    """What a lesson leaves in the memory; None where it says nothing about the answer."""
    given, turn = judged_turn.feedback, judged_turn.turn
    question = " ".join(turn.request.text.split())
    if not question or len(question) > _MAX_QUESTION_CHARS:
        return None
    answer = turn.text.strip()
    entry = Remembered(given.id, turn.id, question)
    if given.correction is not None:
        right = given.correction.strip()
        if len(right) > _MAX_ANSWER_CHARS:
            return None
        wrong = answer if answer != right else ""
        return Remembered(given.id, turn.id, question, answer=right, wrong=wrong, is_correction=True)
    if given.is_good is None or not answer or len(answer) > _MAX_ANSWER_CHARS:
        return None
    if given.is_good:
        return Remembered(entry.feedback_id, turn.id, question, answer=answer)
    return Remembered(entry.feedback_id, turn.id, question, wrong=answer)


class ChatMemory:
    """Judged turns and the vectors of their questions; vectors are made when they are first needed.

    Args:
        lease: lends the embedding model.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._entries: list[Remembered] = []
        self._vectors: dict[str, FloatArray] = {}

    @property
    def entries(self) -> tuple[Remembered, ...]:
        """What is remembered, oldest first."""
        return tuple(self._entries)

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Remembers just these lessons, oldest first."""
        with self._lock:
            self._entries = []
            for judged_turn in judged_turns:
                self._append(remembered(judged_turn))

    def add(self, judged_turn: JudgedTurn) -> Remembered | None:
        """Remembers one more; it goes before what was said earlier of the same question."""
        entry = remembered(judged_turn)
        with self._lock:
            self._append(entry)
        return entry

    def of_turn(self, turn_id: str) -> Remembered | None:
        """What was said last of this very turn."""
        return next((entry for entry in reversed(self._entries) if entry.turn_id == turn_id), None)

    def retrieve(self, question: str) -> Retrieved:
        """What is remembered of questions near this one.

        Raises:
            ModelError: the embedding model cannot be had.
        """
        entries = self.entries
        if not entries:
            return Retrieved()
        scores = self._scores(question[:_MAX_QUESTION_CHARS], entries)
        order = sorted(range(len(entries)), key=lambda i: -scores[i])
        near = [i for i in order if scores[i] >= NEAR and not is_other_case(question, entries[i].question)]
        shown = [entries[i] for i in near if entries[i].answer]
        wrong = [entries[i].wrong for i in near if entries[i].wrong and scores[i] >= _SAME_QUESTION]
        return Retrieved(tuple(shown[:MAX_SHOWN]), tuple(dict.fromkeys(wrong)))

    def _append(self, entry: Remembered | None) -> None:
        if entry is None:
            return
        same = entry.question.casefold()
        self._entries = [
            each
            for each in self._entries
            if each.question.casefold() != same or (entry.wrong and not entry.answer and not each.answer)
        ]
        self._entries.append(entry)

    def _scores(self, question: str, entries: Sequence[Remembered]) -> list[float]:
        """Cosine of the questions, and a little more for content words in common."""
        import numpy as np

        with self._lock:
            missing = [entry.question for entry in entries if entry.question not in self._vectors]
            with self._lease() as model:
                rows = model.embed([question, *missing])
            self._vectors |= dict(zip(missing, rows[1:], strict=True))
            matrix = np.stack([self._vectors[entry.question] for entry in entries])
        cosines = matrix @ rows[0]
        words = content_words(question)
        return [
            float(cosine) + _OVERLAP_WEIGHT * _shared(words, content_words(each.question))
            for cosine, each in zip(cosines, entries, strict=True)
        ]


def content_words(text: str) -> frozenset[str]:
    """The words that carry the meaning, plural and possessive endings cut."""
    words = re.findall(r"\w+", re.sub(r"['’]s?\b", "", text.casefold()))
    return frozenset(re.sub(r"(ies|es|s|ing|ed)$", "", word) or word for word in words if word not in _LIGHT)


def is_other_case(asked: str, told: str) -> bool:
    """Whether both name something and have no name in common: "the office in Porto" and "the office in Lisbon"."""
    first, second = _names(asked), _names(told)
    return bool(first and second and not first & second)


def _names(text: str) -> frozenset[str]:
    """Words with a capital inside a sentence, and words with a digit; plural and possessive endings cut."""
    found = re.findall(r"(?<![.?!] )(?<!^)\b[A-Z]\w+|\b\w*\d\w*", text)
    return frozenset(re.sub(r"s$", "", word.casefold()) for word in found)


def _shared(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(1, min(len(first), len(second)))
