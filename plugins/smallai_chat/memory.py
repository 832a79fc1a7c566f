"""The fast memory of dialogue: judged turns, retrieved if they answer the question, and put into the prompt.

Sentence vectors find candidates, and `same_question` decides which of them have the same answer as the question asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallai_assistant import EmbeddingModel, JudgedTurn, Steering
from smallai_chat.calibration import Calibration
from smallai_chat.follow_up import question_of
from smallai_chat.question_words import language_of
from smallai_chat.same_question import MIN_LIKELIHOOD, likelihoods
from smallai_chat.words import question_key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]

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
        shown: entries with answers, for the prompt, likeliest first.
        rejected: answers to the same question that were rejected.
        because: what was used of the fast memory: the feedback's id, the cosine similarity of the questions, and the
            verdict, as JSON values.
        unknown_language: whether entries were compared by their words alone, because the embedding model's vectors
            mean nothing in the language of the question.
    """

    shown: tuple[MemoryEntry, ...] = ()
    rejected: tuple[str, ...] = ()
    because: tuple[dict[str, Any], ...] = ()
    unknown_language: bool = False

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
    question = question_of(turn)
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
        calibration: what the similarities of the embedding model mean, as far as measured; memories may share it.
    """

    def __init__(
        self,
        lease: Lease,
        vectors: dict[str, FloatArray] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._entries: dict[int, MemoryEntry] = {}  # by the number of their arrival, oldest first
        self._of_question: dict[str, list[int]] = {}  # question key -> the numbers of its entries
        self._n_arrived = 0
        self._vectors = {} if vectors is None else vectors
        self._calibration = calibration or Calibration()

    @property
    def entries(self) -> tuple[MemoryEntry, ...]:
        """The entries, oldest first."""
        return tuple(self._entries.values())

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Forgets all entries and adds those of the judged turns, which are given oldest first."""
        with self._lock:
            self._entries, self._of_question = {}, {}
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
        return next((entry for entry in reversed(self.entries) if entry.turn_id == turn_id), None)

    def retrieve(self, question: str) -> Retrieved:
        """Returns the entries whose questions have the same answer as the given one.

        Raises:
            ModelError: the embedding model is not available.
        """
        entries = self.entries
        if not entries:
            return Retrieved()
        found, cosines, is_reliable = self._likelihoods(question[:_MAX_QUESTION_CHARS], entries)
        # Of two that are as likely, the newer one.
        order = sorted(range(len(entries)), key=lambda i: (-found[i], -i))
        same = [i for i in order if found[i] >= MIN_LIKELIHOOD]
        shown = [i for i in same if entries[i].answer][:MAX_SHOWN]
        because = [
            {
                "feedback_id": entries[i].feedback_id,
                "similarity": round(cosines[i], 3),
                "verdict": f"taken for the same question with {found[i]:.0%}",
            }
            for i in same
            if i in shown or entries[i].rejected
        ]
        rejected = dict.fromkeys(entries[i].rejected for i in same if entries[i].rejected)
        return Retrieved(tuple(entries[i] for i in shown), tuple(rejected), tuple(because), not is_reliable)

    def _append(self, entry: MemoryEntry | None) -> None:
        """Adds an entry and drops those of the same question that it replaces. The caller holds the lock."""
        if entry is None:
            return
        same = question_key(entry.question)
        # The newest answer to a question replaces the earlier ones. Rejected answers accumulate: the model looks for an
        # answer that is none of them.
        only_rejects = bool(entry.rejected) and not entry.answer
        kept = []
        for number in self._of_question.get(same, ()):
            if only_rejects and not self._entries[number].answer:
                kept.append(number)
            else:
                del self._entries[number]
        self._n_arrived += 1
        self._entries[self._n_arrived] = entry
        self._of_question[same] = [*kept, self._n_arrived]

    def _likelihoods(self, question: str, entries: Sequence[MemoryEntry]) -> tuple[list[float], list[float], bool]:
        """Returns how likely each entry answers the question, the cosines, and whether vectors mean anything."""
        import numpy as np

        stored = [entry.question for entry in entries]
        # The lock is held while the model runs: two threads would otherwise embed the same missing questions twice.
        with self._lock, self._lease() as model:
            meaning = self._calibration.of(language_of(question), model.embed)
            missing = [text for text in dict.fromkeys(stored) if text not in self._vectors]
            rows = model.embed([question, *missing])
            self._vectors |= dict(zip(missing, rows[1:], strict=True))
            cosines = (np.stack([self._vectors[text] for text in stored]) @ rows[0]).tolist()
            found = likelihoods(question, stored, cosines, self._calibration, model.embed)
            return found, cosines, meaning.is_reliable
