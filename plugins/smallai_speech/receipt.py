"""What a feedback taught, as far as it holds: the corrected recording is transcribed once more with the new words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smallai_assistant import AssistantError, AudioPart, JudgedTurn
from smallai_speech.vocabulary import WORD, Vocabulary

log = logging.getLogger(__name__)

MAX_CHECKED_S = 30.0  # one window: the giver of the feedback waits for it
_MAX_NAMED = 5  # words in a message; the rest is counted

# Transcribes a recording as the next answer will.
Transcribe = Callable[[AudioPart], str]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a feedback added to a vocabulary.

    Attributes:
        learned: (word, what it was heard as; empty if that is not known).
        freed: (what was heard, the word that no longer replaces it).
    """

    learned: tuple[tuple[str, str], ...] = ()
    freed: tuple[tuple[str, str], ...] = ()


def changes_of(before: Vocabulary, after: Vocabulary) -> Changes:
    """Compares the vocabularies before and after a feedback."""
    old = {entry.word: entry for entry in before.entries}
    learned, freed = [], []
    for entry in after.entries:
        was = old.get(entry.word)
        forms = [form for form in entry.heard if was is None or form not in was.heard]
        if was is None or forms:
            learned.append((entry.word, forms[0] if forms else ""))
        freed += [(form, entry.word) for form in entry.never if form and (was is None or form not in was.never)]
    return Changes(tuple(learned), tuple(freed))


def receipt(changes: Changes, judged_turn: JudgedTurn, transcribe: Transcribe) -> str:
    """Says what a feedback taught; empty if it taught nothing. Only what came out in the recording is promised."""
    if not changes.learned and not changes.freed:
        return ""
    text = _heard_now(judged_turn, transcribe)
    found = set(WORD.findall(text)) if text is not None else set()
    named = {word: f"“{word}”" + (f" (heard as “{form}”)" if form else "") for word, form in changes.learned}
    sentences = []
    if known := [name for word, name in named.items() if word in found]:
        sentences.append(f"From now on {_list(known)} will be recognized in this recording.")
    if missed := [name for word, name in named.items() if word not in found]:
        is_stored = f"{_list(missed)} {'is' if len(missed) == 1 else 'are'} stored"
        if text is None:
            sentences.append(f"{is_stored}; whether it is recognized was not tried.")
        else:
            sentences.append(f"{is_stored}, but not recognized in this recording yet: that needs training.")
    freed = [(form, word) for form, word in changes.freed if text is None or word not in found]
    if freed:
        sentences.append(_list([f"“{form}” is no longer taken for “{word}”" for form, word in freed]) + ".")
    return " ".join(sentences)


def _heard_now(judged_turn: JudgedTurn, transcribe: Transcribe) -> str | None:
    """The text of the feedback's recording with all that is known now; None if it cannot be had."""
    recordings = [part for part in judged_turn.turn.request.parts if isinstance(part, AudioPart)]
    if len(recordings) != 1:
        return None
    try:
        return transcribe(recordings[0])
    except AssistantError as error:  # erased, too long, no model, no memory: the feedback is learned all the same
        log.info("the words of %s were not tried: %s", judged_turn.feedback.id, error)
        return None


def _list(names: Sequence[str]) -> str:
    shown = list(names[:_MAX_NAMED])
    if len(names) > _MAX_NAMED:
        shown.append(f"{len(names) - _MAX_NAMED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
