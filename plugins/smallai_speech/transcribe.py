"""From samples to segments: decodes window by window, and leaves out text that Whisper made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from smallai_assistant import Notice
from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.engine import SpeechModel
from smallai_speech.spectrogram import FRAME_SAMPLES, N_AROUND, Window
from smallai_speech.vad import Activity, Span
from smallai_speech.window import TIME_STEP_S, WINDOW_S, Decoded, DecodeOptions, Piece

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# Whisper's own thresholds (Radford et al. 2022, section 4.5).
_MAX_REPETITIVE = 2.4
_MIN_LOGPROB = -1.0
_MAX_NO_SPEECH = 0.6
_MAX_CHARS_PER_S = 25  # 300 words a minute, which hardly anybody says; LibriVox has 15 characters a second of speech
# Phrases that Whisper learned from subtitles and writes on noise. If somebody really says one, the model is sure of it.
_STOCK_PHRASES = frozenset(
    {
        "you", "thank you", "thanks", "thank you very much", "thank you for watching", "thanks for watching",
        "thank you so much for watching", "please subscribe", "bye", "bye bye", "okay", "oh", "so", "hmm", "the end",
    }
)  # fmt: skip
_STOCK_MIN_LOGPROB = -0.7
_STOCK_MAX_NO_SPEECH = 0.5

_QUIET_PEAK, _RAISED_PEAK = 0.1, 0.3  # below -20 dB the model gets worse, at -10 dB it is at its best
_MIN_VOICED_S = 0.08  # of speech, for the rest of a window to be decoded
_MAX_SURE_TEMPERATURE = 0.5  # whisper's: text from a higher one is not part of the next window's prompt
_MAX_SAID = 300  # tokens, more than any model takes as a prompt
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue", "bo", "km"})  # written without spaces between sentences


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that is believed to be said.

    Attributes:
        piece: its times are in seconds from the start of the recording.
        delta: the text with the space that belongs before it.
    """

    piece: Piece
    delta: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """A word of the vocabulary replaced what was heard."""

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
        spans: stretches to decode. One longer than 30 s is decoded window after window; each begins at the time stamp
            that the one before ended with.
        temperatures: tried in turn until the text is neither a loop nor improbable.
        activity: the speech in the recording. With it, the rest of a window is skipped if it holds none.

    Raises:
        Stopped: `cancel` was set.
    """
    joint = "" if options.language in UNSPACED else " "
    is_first = True
    loudest = model.loudest(samples)
    for span in spans:
        # After a long pause the words before do not help: with clips that ended at pauses of 3 s, 5.1 % of the
        # words were wrong if they were carried on, 3.3 % if not.
        said: tuple[int, ...] = ()
        start = span.start // FRAME_SAMPLES * FRAME_SAMPLES
        while span.end - start >= FRAME_SAMPLES and (
            activity is None or activity.voiced_s(Span(start, span.end)) >= _MIN_VOICED_S
        ):
            end = min(span.end, start + int(WINDOW_S * SAMPLE_RATE))
            sound = Span(start, end)
            window = _window(samples, sound, loudest)
            sound_s = activity.voiced_s(sound) if activity is not None else sound.n_samples / SAMPLE_RATE
            max_chars = round(_MAX_CHARS_PER_S * sound_s)
            decoded, temperature = _decode(
                model, window, replace(options, said=said), temperatures, max_chars=max_chars, cancel=cancel
            )
            # As in whisper's own `transcribe`: text that was sampled freely must not lead the next window astray.
            said = (*said, *_tokens(decoded))[-_MAX_SAID:] if temperature <= _MAX_SURE_TEMPERATURE else ()
            offset_s = start / SAMPLE_RATE
            if decoded is not None:
                for piece in decoded.pieces:
                    text = piece.text.strip()
                    yield Segment(_shifted(piece, text, offset_s), text if is_first else joint + text)
                    is_first = False
                yield from (Repaired(heard, word) for heard, word in decoded.repairs)
            elif activity is not None:
                end_s = end / SAMPLE_RATE
                yield Notice(
                    "speech_unclear", f"What is said between {offset_s:.1f} and {end_s:.1f} s was not understood."
                )
            start = _next(start, end, decoded)


def _window(samples: FloatArray, span: Span, loudest: float) -> Window:
    """The window of a recording; a quiet one is made louder, and then heard for itself."""
    own = samples[span.start : span.end]
    raised = _raised(own)
    if raised is not own:
        return Window(raised)
    before = samples[max(span.start - N_AROUND, 0) : span.start]
    return Window(own, before, samples[span.end : span.end + N_AROUND], loudest)


def _tokens(decoded: Decoded | None) -> tuple[int, ...]:
    return tuple(token for piece in decoded.pieces for token in piece.tokens) if decoded is not None else ()


def _next(start: int, end: int, decoded: Decoded | None) -> int:
    """The sample to go on at: after the window, or at the time stamp at which the model broke off."""
    if decoded is None or not 0 < decoded.consumed_s < (end - start) / SAMPLE_RATE:
        return end
    return start + round(decoded.consumed_s / TIME_STEP_S) * 2 * FRAME_SAMPLES


def _decode(
    model: SpeechModel,
    window: Window,
    options: DecodeOptions,
    temperatures: Sequence[float],
    *,
    max_chars: int,
    cancel: Event | None,
) -> tuple[Decoded | None, float]:
    """Returns the first good decoding; if there is none, the last one, or None if it cannot be believed.

    A repetitive text of more than `max_chars` characters is not good: nobody can have said it in the window.
    The second value is the temperature at which the search ended.
    """
    tried: list[Decoded] = []
    temperature = 0.0
    for temperature in temperatures:
        decoded = model.decode(window, replace(options, temperature=temperature), cancel=cancel)
        is_silence = decoded.no_speech_prob > _MAX_NO_SPEECH and decoded.avg_logprob < _MIN_LOGPROB
        if is_silence:
            return None, temperature
        tried.append(decoded)
        if not _is_loop(decoded, max_chars) and decoded.avg_logprob >= _MIN_LOGPROB:
            break
    # If no text is good, whisper's `transcribe` takes the last. So does this, but a loop only if there is nothing else.
    best = next((decoded for decoded in reversed(tried) if not _is_loop(decoded, max_chars)), tried[-1])
    pieces = tuple(piece for piece in best.pieces if _is_believable(piece, best))
    return (replace(best, pieces=pieces) if pieces else None), temperature


def _is_loop(decoded: Decoded, max_chars: int) -> bool:
    """Whether the model repeats itself, and not the speaker.

    A speaker who says a sentence five times gives a repetitive text too, at which Whisper's `transcribe` draws again
    at a higher temperature, mostly a worse text. The model ends what was said. A loop of its own it mostly does not
    end before there is no room for more, or there is more of it than there was time to say.
    """
    is_repetitive = decoded.compression_ratio > _MAX_REPETITIVE
    return is_repetitive and (not decoded.has_ended or len(decoded.text) > max_chars)


def _is_believable(piece: Piece, decoded: Decoded) -> bool:
    """Whether a text is words that were said, and not a stock phrase, dots or notes that Whisper writes on noise."""
    text = "".join(c if c.isalnum() else " " for c in piece.text.casefold())
    words = " ".join(text.split())
    if words in _STOCK_PHRASES:
        return decoded.avg_logprob >= _STOCK_MIN_LOGPROB and decoded.no_speech_prob <= _STOCK_MAX_NO_SPEECH
    return bool(words)


def _raised(window: FloatArray) -> FloatArray:
    """The window, made louder if it is quiet."""
    peak = max(float(window.max()), -float(window.min()))
    return window * (_RAISED_PEAK / peak) if 0 < peak < _QUIET_PEAK else window


def _shifted(piece: Piece, text: str, by_s: float) -> Piece:
    words = tuple(
        replace(word, start_s=round(word.start_s + by_s, 3), end_s=round(word.end_s + by_s, 3)) for word in piece.words
    )
    return Piece(text, round(piece.start_s + by_s, 3), round(piece.end_s + by_s, 3), words, piece.tokens)
