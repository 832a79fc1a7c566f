"""The fast memory of speech: the vocabulary that the feedback so far makes, built when it is first needed."""

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
class Told:
    """What is known of a recording: what was heard, and what is right; equal where the transcript was praised."""

    heard: str
    right: str


class WordMemory:
    """Lessons in, vocabulary out; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._judged_turns: list[JudgedTurn] = []
        self._built: Vocabulary | None = Vocabulary()

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Forgets all and takes these, oldest first; cheap, the work is done at the first use."""
        with self._lock:
            self._judged_turns, self._built = list(judged_turns), None

    def add(self, judged_turn: JudgedTurn) -> None:
        """Takes one more."""
        with self._lock:
            self._judged_turns, self._built = [*self._judged_turns, judged_turn], None

    def vocabulary(self) -> Vocabulary:
        """The vocabulary of all lessons."""
        with self._lock:
            if self._built is None:
                self._built = vocabulary_of(told_by(self._judged_turns))
            return self._built


def told_by(judged_turns: Iterable[JudgedTurn]) -> list[Told]:
    """What the lessons say; of several corrections of a turn by one source the last."""
    told: dict[tuple[str, str], Told] = {}
    for judged_turn in judged_turns:
        given, heard = judged_turn.feedback, judged_turn.turn.text.strip()
        key = (given.source, given.turn_id)
        if given.correction is not None:
            told.pop(key, None)
            told[key] = Told(heard, given.correction)
        elif given.is_good and heard:
            told.setdefault(key, Told(heard, heard))
    return list(told.values())


def vocabulary_of(told: Iterable[Told]) -> Vocabulary:
    """The vocabulary that corrections make, oldest first. What cannot be read is left out, with a line in the log."""
    found = Findings()
    known: set[str] = set()
    for each in told:
        try:
            new = compare(each.heard, each.right, known=frozenset(known))
        except Exception:
            log.exception("a correction of %d characters could not be compared", len(each.right))
            continue
        found.pairs += new.pairs
        found.vetoes += new.vetoes
        found.attested |= new.attested
        known |= {word.casefold() for word, _ in new.pairs}
    return entries_of(found.pairs, found.vetoes, attested=frozenset(found.attested))


def what_changed(before: Vocabulary, after: Vocabulary) -> str:
    """What a lesson taught, one sentence; empty where nothing."""
    old = {entry.word: entry for entry in before.entries}
    learnt, freed = [], []
    for entry in after.entries:
        was = old.get(entry.word)
        forms = [form for form in entry.heard if was is None or form not in was.heard]
        if was is None or forms:
            learnt.append(f"“{entry.word}”" + (f" (heard as “{forms[0]}”)" if forms else ""))
        freed += [(form, entry.word) for form in entry.never if was is None or form not in was.never]
    said = []
    if learnt:
        said.append(f"From now on {_list(learnt)} will be recognized.")
    if freed:
        said.append(_list([f"“{form}” is no longer taken for “{word}”" for form, word in freed]) + ".")
    return " ".join(said)


def _list(names: Sequence[str]) -> str:
    shown = list(names[:5]) + ([f"{len(names) - 5} more"] if len(names) > 5 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
