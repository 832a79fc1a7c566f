"""From samples to segments: where speech is, window by window, and which words to believe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from smallai_assistant import Notice
from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.engine import SpeechModel
from smallai_speech.vad import Activity, Span
from smallai_speech.window import WINDOW_S, Decoded, DecodeOptions, Piece

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# Whisper's own thresholds (Radford et al. 2022, section 4.5).
_MAX_REPETITIVE = 2.4
_MIN_LOGPROB = -1.0
_MAX_NO_SPEECH = 0.6
# What Whisper writes on noise, learnt from subtitles. Somebody may say it: then the model is sure of it.
_STOCK_PHRASES = frozenset(
    {
        "you", "thank you", "thanks", "thank you very much", "thank you for watching", "thanks for watching",
        "thank you so much for watching", "please subscribe", "bye", "bye bye", "okay", "oh", "so", "hmm", "the end",
    }
)  # fmt: skip
_STOCK_LEAST_LOGPROB = -0.7
_STOCK_MOST_NO_SPEECH = 0.5

_QUIET_PEAK, _RAISED_PEAK = 0.1, 0.3  # below -20 dB the model gets worse, at -10 dB it is at its best
_MIN_VOICED_S = 0.08  # of what is left of a window
_MIN_STEP_S = 1.0
_SURE_LOGPROB, _MAX_SAID_CHARS = -0.5, 200
_LATE_S, _EARLY_S = 0.6, 0.2
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue", "bo", "km"})  # written without spaces between sentences


@dataclass(frozen=True, slots=True)
class Segment:
    """A believed piece of text, its times in seconds from the start of the recording.

    `delta` is the text with the space that belongs before it.
    """

    piece: Piece
    delta: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """A word of the vocabulary was put in the place of what was heard."""

    heard: str
    word: str


def transcribe(
    model: SpeechModel,
    samples: FloatArray,
    spans: Sequence[Span],
    options: DecodeOptions,
    *,
    temperatures: Sequence[float] = (0.0,),
    activity: Activity | None = None,
    cancel: Event | None = None,
) -> Iterator[Segment | Repaired | Notice]:
    """Decodes the spans in order and yields each segment as soon as its window is decoded.

    Args:
        samples: float32, shape (n_samples,), mono, 16 kHz: the whole recording.
        spans: stretches to decode; a longer one than 30 s is walked through by the model's own time stamps.
        temperatures: tried in turn until the text is neither repetitive nor improbable.
        activity: where speech is, to skip what is left of a window without any.

    Raises:
        Stopped: `cancel` was set.
    """
    joint = "" if options.language in UNSPACED else " "
    is_first = True
    left = deque(spans)
    while left:
        span = left.popleft()
        start, said = span.start, ""
        while start < span.end and (activity is None or activity.voiced_s(Span(start, span.end)) >= _MIN_VOICED_S):
            window = samples[start : min(span.end, start + int(WINDOW_S * SAMPLE_RATE))]
            parts = activity.within(Span(start, span.end)) if activity is not None else []
            hinted = replace(options, prompt=_prompt(model, options.prompt, said))
            try:
                decoded = _decode(
                    model, _raised(window), hinted, temperatures, cancel=cancel, may_repeat=len(parts) < 2
                )
            except _Repetitive:
                left.extendleft(reversed(parts))
                break
            said = _believed(decoded)
            offset_s = start / SAMPLE_RATE
            if decoded is not None:
                for piece in decoded.pieces:
                    text = piece.text.strip()
                    yield Segment(_shifted(piece, text, offset_s), text if is_first else joint + text)
                    is_first = False
                yield from (Repaired(heard, word) for heard, word in decoded.repairs)
            elif activity is not None:
                end_s = offset_s + len(window) / SAMPLE_RATE
                yield Notice(
                    "speech_unclear", f"What is said between {offset_s:.1f} and {end_s:.1f} s was not understood."
                )
            start = _next(start, len(window), decoded, activity)


class _Repetitive(Exception):
    """The text of a window repeats itself: what was said does, or the model runs in circles. In parts one can tell."""


def _prompt(model: SpeechModel, given: str, said: str) -> str:
    """The caller's prompt and, where there is room, what was said just before, as in whisper's own `transcribe`."""
    both = f"{given} {said[-_MAX_SAID_CHARS:]}".strip() if said else given
    return both if model.prompt_fits(both) else given


def _believed(decoded: Decoded | None) -> str:
    """What the next window may be told was said: nothing that the model was unsure of, or it would go on with it."""
    if decoded is None or decoded.avg_logprob < _SURE_LOGPROB:
        return ""
    return " ".join(piece.text.strip() for piece in decoded.pieces)


def _next(start: int, n_samples: int, decoded: Decoded | None, activity: Activity | None) -> int:
    """Where to go on: past the window, or where the model broke off.

    Its time stamps are late by some tenths of a second, which would cut the next word: go back to the pause.
    """
    if decoded is None or not _MIN_STEP_S <= decoded.consumed_s < n_samples / SAMPLE_RATE:
        return start + n_samples
    broke_off = start + int(decoded.consumed_s * SAMPLE_RATE)
    if activity is None:
        return broke_off
    return activity.quietest(Span(broke_off - int(_LATE_S * SAMPLE_RATE), broke_off + int(_EARLY_S * SAMPLE_RATE)))


def _decode(
    model: SpeechModel,
    window: FloatArray,
    options: DecodeOptions,
    temperatures: Sequence[float],
    *,
    cancel: Event | None,
    may_repeat: bool,
) -> Decoded | None:
    """The first decoding that is good, else the most probable that can be believed, else None.

    Raises:
        _Repetitive: the first text repeats itself, unless it may.
    """
    fallbacks: list[Decoded] = []
    for temperature in temperatures:
        decoded = model.decode(window, replace(options, temperature=temperature), cancel=cancel)
        is_silence = decoded.no_speech_prob > _MAX_NO_SPEECH and decoded.avg_logprob < _MIN_LOGPROB
        if is_silence:
            return None
        if decoded.compression_ratio > _MAX_REPETITIVE:
            if not may_repeat:
                raise _Repetitive
        else:
            fallbacks.append(decoded)
            if decoded.avg_logprob >= _MIN_LOGPROB:
                break
    best = max(fallbacks, key=lambda each: each.avg_logprob, default=None)
    if best is None:
        return None
    pieces = tuple(piece for piece in best.pieces if _is_believable(piece, best))
    return replace(best, pieces=pieces) if pieces else None


def _is_believable(piece: Piece, decoded: Decoded) -> bool:
    text = "".join(c if c.isalnum() else " " for c in piece.text.casefold())
    words = " ".join(text.split())
    if words in _STOCK_PHRASES:
        return decoded.avg_logprob >= _STOCK_LEAST_LOGPROB and decoded.no_speech_prob <= _STOCK_MOST_NO_SPEECH
    return bool(words)  # dots and notes are no words


def _raised(window: FloatArray) -> FloatArray:
    """A quiet window, made louder."""
    peak = max(float(window.max()), -float(window.min()))
    return window * (_RAISED_PEAK / peak) if 0 < peak < _QUIET_PEAK else window


def _shifted(piece: Piece, text: str, by_s: float) -> Piece:
    words = tuple(
        replace(word, start_s=round(word.start_s + by_s, 3), end_s=round(word.end_s + by_s, 3)) for word in piece.words
    )
    return Piece(text, round(piece.start_s + by_s, 3), round(piece.end_s + by_s, 3), words)
