"""Judges an adapter: transcribes recordings with it and counts the words that are right."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from smallai_assistant import Adapter, AudioPart, Example, Message, ModelSpec, Request, Score, TextPart, errors
from smallai_speech.options import SpeechOptions
from smallai_speech.pipeline import Learned, recording_of, transcript_parts

if TYPE_CHECKING:
    from smallai_assistant import ModelRuntime

log = logging.getLogger(__name__)


def evaluate(
    examples: Sequence[Example],
    adapter: Adapter | None,
    spec: ModelSpec,
    options: SpeechOptions,
    models: ModelRuntime,
) -> list[Score]:
    """Scores each recording by 1 - word error rate, in [0, 1], with the fast memory off.

    A recording that cannot be read scores 0.

    Args:
        adapter: None for the bare base.

    Raises:
        AdapterMismatch: the adapter does not fit the model.
    """
    alone = replace(options, use_memory=False)  # the adapter is judged, not what the memory knows besides
    scores = []
    for example in examples:
        try:
            text = transcript(example.payload.recording, spec, alone, models, Learned(adapter))
        except errors.InvalidInput as error:
            log.warning("%s cannot be judged: %s", example.id, error)
            scores.append(Score(0.0, ""))  # counts against the candidate and the champion alike
            continue
        scores.append(Score(word_accuracy(example.expected, text), text))
    return scores


def transcript(
    recording: AudioPart, spec: ModelSpec, options: SpeechOptions, models: ModelRuntime, learned: Learned
) -> str:
    """The text of a recording, transcribed as for a user."""
    from smallai_speech.engine import SpeechModel

    request = Request(Message((recording,)), (), options, session_id="evaluation")
    decoded = recording_of(request.message, options)
    items = transcript_parts(decoded, request, lambda: models.lease(spec, SpeechModel), learned)
    return "".join(item.text for item in items if isinstance(item, TextPart))


def word_accuracy(expected: str, text: str) -> float:
    """1 - word error rate, not below 0. Whisper's normalizer first removes differences of case and punctuation."""
    from whisper.normalizers import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    wanted, found = normalize(expected).split(), normalize(text).split()
    if not wanted:
        return 1.0 if not found else 0.0
    return max(0.0, 1.0 - n_word_errors(wanted, found) / len(wanted))


def n_word_errors(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Smallest number of replaced, added and left-out words between two texts (Levenshtein 1966)."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row = row, [i]
        for j, other in enumerate(found, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (word != other)))
    return row[-1]
