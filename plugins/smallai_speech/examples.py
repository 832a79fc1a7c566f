"""Turns feedback on transcripts into examples to train on and to judge by."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from smallai_assistant import AssistantError, AudioPart, Example, JudgedTurn
from smallai_speech.memory import TranscriptPair, transcript_pairs_of
from smallai_speech.vocabulary import WORD

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpeechPayload:
    """The payload of an example: a recording, its transcripts, and whether the user accepted the one that was heard."""

    recording: AudioPart
    transcripts: TranscriptPair
    is_praised: bool


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """Corrected recordings, and every second praised one, which keeps the weights from forgetting what was right."""
    corrected = _corrected(judged_turns)
    praised = _praised(judged_turns, besides=corrected)
    return [*corrected.values(), *(example for key, example in praised.items() if not _is_protected(key))]


def protected_examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """The other praised recordings. They are never trained on: their transcripts must stay as they are."""
    praised = _praised(judged_turns, besides=_corrected(judged_turns))
    return [example for key, example in praised.items() if _is_protected(key)]


def _corrected(judged_turns: Sequence[JudgedTurn]) -> dict[str, Example]:
    """The last correction of each recording, by the sha256 of its bytes."""
    rows = [judged_turn for judged_turn in judged_turns if judged_turn.feedback.correction is not None]
    return _by_recording(rows, is_praised=False)


def _praised(judged_turns: Sequence[JudgedTurn], *, besides: dict[str, Example]) -> dict[str, Example]:
    """Recordings whose transcript was praised and that are not in `besides`, by the sha256 of their bytes."""
    rows = [
        judged_turn
        for judged_turn in judged_turns
        if judged_turn.feedback.is_good and judged_turn.feedback.correction is None
    ]
    return {key: example for key, example in _by_recording(rows, is_praised=True).items() if key not in besides}


def _by_recording(judged_turns: Sequence[JudgedTurn], *, is_praised: bool) -> dict[str, Example]:
    found: dict[str, Example] = {}
    for judged_turn in judged_turns:
        (pair,) = transcript_pairs_of([judged_turn]) or (None,)
        recordings = [part for part in judged_turn.turn.request.parts if isinstance(part, AudioPart)]
        if pair is None or len(recordings) != 1 or not WORD.search(pair.right):
            continue
        try:
            # The hash of the bytes is the key: one recording sent twice must not end on both sides of a split.
            key = hashlib.sha256(recordings[0].read()).hexdigest()
        except AssistantError as error:
            log.warning("the recording of turn %s is left out: %s", judged_turn.turn.id, error)
            continue
        found[key] = Example(
            id=judged_turn.feedback.id,
            prompt=f"recording {key[:16]}",
            expected=pair.right,
            split_key=key,
            feedback_ids=(judged_turn.feedback.id,),
            payload=SpeechPayload(recordings[0], pair, is_praised),
            media=(recordings[0],),  # the report plays it
        )
    return found


def _is_protected(key: str) -> bool:
    """Half of the recordings, by their hash, so that each stays on its side in every cycle."""
    return int(key[:8], 16) % 2 == 1
