"""The fast memory of speech: the vocabulary made from the feedback so far, built when it is first needed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smallai_assistant import JudgedTurn
from smallai_speech.corrections import Findings, compare
from smallai_speech.vocabulary import Vocabulary, entries_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TranscriptPair:
    """What the model heard in a recording, empty if it never heard it, and what is right; equal if it was praised."""

    heard: str
    right: str


class WordMemory:
    """Holds the judged turns and the vocabulary that they make. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._judged_turns: list[JudgedTurn] = []
        self._built: Vocabulary | None = Vocabulary()  # None: to be built at the next use

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Replaces all judged turns by these, oldest first. The vocabulary is built at the next use."""
        with self._lock:
            self._judged_turns, self._built = list(judged_turns), None

    def add(self, judged_turn: JudgedTurn) -> None:
        """Adds one judged turn, newer than all others."""
        with self._lock:
            self._judged_turns, self._built = [*self._judged_turns, judged_turn], None

    def vocabulary(self) -> Vocabulary:
        """The vocabulary of all judged turns."""
        # Building happens under the lock: two threads that both need it would otherwise do the work twice.
        with self._lock:
            if self._built is None:
                self._built = vocabulary_of(transcript_pairs_of(self._judged_turns))
            return self._built


def transcript_pairs_of(judged_turns: Iterable[JudgedTurn]) -> list[TranscriptPair]:
    """The transcript pairs in the feedback. If a source corrected a turn several times, its last correction counts."""
    pairs: dict[tuple[str, str], TranscriptPair] = {}
    for judged_turn in judged_turns:
        feedback, heard = judged_turn.feedback, judged_turn.turn.text.strip()
        key = (feedback.source, feedback.turn_id)
        if feedback.correction is not None:
            pairs.pop(key, None)  # the new pair goes to the end: later pairs win in the vocabulary
            pairs[key] = TranscriptPair(heard, feedback.correction)
        elif feedback.is_good and heard:
            pairs.setdefault(key, TranscriptPair(heard, heard))  # praise does not undo a correction
    return list(pairs.values())


def vocabulary_of(pairs: Iterable[TranscriptPair]) -> Vocabulary:
    """The vocabulary that corrections make, oldest first. A pair that cannot be compared is logged and left out."""
    found = Findings()
    known: set[str] = set()
    for pair in pairs:
        try:
            new = compare(pair.heard, pair.right, known=frozenset(known))
        except Exception:
            # One odd correction must not cost the user all other words.
            log.exception("a correction of %d characters could not be compared", len(pair.right))
            continue
        found.pairs += new.pairs
        found.vetoes += new.vetoes
        found.attested |= new.attested
        known |= {word.casefold() for word, _ in new.pairs}
    return entries_of(found.pairs, found.vetoes, attested=frozenset(found.attested))
