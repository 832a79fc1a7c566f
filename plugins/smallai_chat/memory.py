"""The fast memory of dialogue: judged turns, retrieved by sentence similarity and put into the prompt."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_assistant import EmbeddingModel, JudgedTurn, Steering
from smallai_chat.words import content_words, overlap, question_key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]

# Chosen on `python -m bench.facts`: everyday questions score below it beside thirty facts, their paraphrases above it.
MIN_SIMILARITY = 0.64
# Weight of the content words in common, added to the cosine. MiniLM alone confuses facts that are phrased alike.
_OVERLAP_WEIGHT = 0.1
# From this similarity on, two questions count as the same one, so that another answer than the rejected ones is wanted.
_MIN_SAME_QUESTION = 0.9
# Entries in a prompt: few, because each takes room that the conversation needs.
MAX_SHOWN = 2
# Longer texts would take the place of the conversation in a small context.
_MAX_QUESTION_CHARS, _MAX_ANSWER_CHARS = 500, 1_000
# A longer correction is an example of how to answer; its words are not to be copied one by one.
_MAX_COPIED_WORDS = 12
_COPY_BIAS = 5.0  # added to the logits of the tokens to copy


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """What a judged turn leaves in the memory.

    Attributes:
        answer: the answer to give; empty if only a rejected one is known.
        rejected: the answer not to give; empty if none is known.
        is_correction: whether the answer is a person's own words, not a praised answer of the model.
    """

    feedback_id: str
    turn_id: str
    question: str
    answer: str = ""
    rejected: str = ""
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What `ChatMemory.retrieve` returns for a question.

    Attributes:
        shown: entries with answers, for the prompt, most similar first.
        rejected: answers to the same question that were rejected.
    """

    shown: tuple[MemoryEntry, ...] = ()
    rejected: tuple[str, ...] = ()

    @property
    def steering(self) -> Steering | None:
        """The text that decoding should copy; None if there is none."""
        # Only the most similar entry: copying words of two different answers would mix them.
        copy = tuple(
            entry.answer
            for entry in self.shown[:1]
            if entry.is_correction and len(entry.answer.split()) <= _MAX_COPIED_WORDS
        )
        return Steering(copy=copy, bias=_COPY_BIAS) if copy else None


def entry_of(judged_turn: JudgedTurn) -> MemoryEntry | None:
    """Returns the entry of a judged turn; None if it tells nothing about the answer or a text is too long."""
    given, turn = judged_turn.feedback, judged_turn.turn
    question = " ".join(turn.request.text.split())
    if not question or len(question) > _MAX_QUESTION_CHARS:
        return None
    answer = turn.text.strip()
    if given.correction is not None:
        right = given.correction.strip()
        if len(right) > _MAX_ANSWER_CHARS:
            return None
        rejected = answer if answer != right else ""
        return MemoryEntry(given.id, turn.id, question, answer=right, rejected=rejected, is_correction=True)
    if given.is_good is None or not answer or len(answer) > _MAX_ANSWER_CHARS:
        return None
    if given.is_good:
        return MemoryEntry(given.id, turn.id, question, answer=answer)
    return MemoryEntry(given.id, turn.id, question, rejected=answer)


class ChatMemory:
    """Entries of judged turns and the sentence vectors of their questions. Thread-safe.

    Vectors are computed when a question is first asked, so that neither a start nor a feedback waits for a model.

    Args:
        lease: lends the embedding model.
        vectors: the vectors that are known, by question; several memories may share them. A vector stays valid if its
            entry is replaced.
    """

    def __init__(self, lease: Lease, vectors: dict[str, FloatArray] | None = None) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._entries: list[MemoryEntry] = []
        self._vectors = {} if vectors is None else vectors

    @property
    def entries(self) -> tuple[MemoryEntry, ...]:
        """The entries, oldest first."""
        return tuple(self._entries)

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Forgets all entries and adds those of the judged turns, which are given oldest first."""
        with self._lock:
            self._entries = []
            for judged_turn in judged_turns:
                self._append(entry_of(judged_turn))

    def add(self, judged_turn: JudgedTurn) -> MemoryEntry | None:
        """Adds the entry of a judged turn, which replaces earlier entries of the same question.

        Returns:
            The entry; None if the judged turn has none.
        """
        entry = entry_of(judged_turn)
        with self._lock:
            self._append(entry)
        return entry

    def of_turn(self, turn_id: str) -> MemoryEntry | None:
        """Returns the newest entry of a turn; None if the turn was not judged."""
        return next((entry for entry in reversed(self._entries) if entry.turn_id == turn_id), None)

    def retrieve(self, question: str) -> Retrieved:
        """Returns the entries whose questions are similar to the given one.

        Raises:
            ModelError: the embedding model is not available.
        """
        entries = self.entries
        if not entries:
            return Retrieved()
        scores = self._scores(question[:_MAX_QUESTION_CHARS], entries)
        order = sorted(range(len(entries)), key=lambda i: -scores[i])
        # "Where is the Porto branch?" and "Where is the Lisbon branch?" are similar, but have different answers.
        similar = [i for i in order if scores[i] >= MIN_SIMILARITY and not names_differ(question, entries[i].question)]
        shown = [entries[i] for i in similar if entries[i].answer]
        rejected = [entries[i].rejected for i in similar if entries[i].rejected and scores[i] >= _MIN_SAME_QUESTION]
        return Retrieved(tuple(shown[:MAX_SHOWN]), tuple(dict.fromkeys(rejected)))

    def _append(self, entry: MemoryEntry | None) -> None:
        """Adds an entry and drops those of the same question that it replaces. The caller holds the lock."""
        if entry is None:
            return
        same = question_key(entry.question)
        # The newest answer to a question replaces the earlier ones. Rejected answers accumulate: the model looks for an
        # answer that is none of them.
        only_rejects = bool(entry.rejected) and not entry.answer
        self._entries = [
            earlier
            for earlier in self._entries
            if question_key(earlier.question) != same or (only_rejects and not earlier.answer)
        ]
        self._entries.append(entry)

    def _scores(self, question: str, entries: Sequence[MemoryEntry]) -> list[float]:
        """Returns the cosine similarity of the question with each entry's, plus a bonus for content words in common."""
        import numpy as np

        # The lock is held while the model runs: two threads would otherwise embed the same missing questions twice.
        with self._lock:
            missing = [entry.question for entry in entries if entry.question not in self._vectors]
            with self._lease() as model:
                rows = model.embed([question, *missing])
            self._vectors |= dict(zip(missing, rows[1:], strict=True))
            matrix = np.stack([self._vectors[entry.question] for entry in entries])
        cosines = matrix @ rows[0]
        words = content_words(question)
        return [
            float(cosine) + _OVERLAP_WEIGHT * overlap(words, content_words(entry.question))
            for cosine, entry in zip(cosines, entries, strict=True)
        ]


def names_differ(first: str, second: str) -> bool:
    """Whether both texts contain names and have none in common: "the office in Porto", "the office in Lisbon"."""
    first_names, second_names = _names(first), _names(second)
    return bool(first_names and second_names and not first_names & second_names)


def _names(text: str) -> frozenset[str]:
    """Returns the capitalized words inside sentences and the words with a digit, without plural endings."""
    # Every sentence begins with a capital, so one at the beginning does not show a name.
    found = re.findall(r"(?<![.?!] )(?<!^)\b[A-Z]\w+|\b\w*\d\w*", text)
    return frozenset(re.sub(r"s$", "", word.casefold()) for word in found)
