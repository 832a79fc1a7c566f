"""Voice activity: finds the stretches of a recording in which somebody speaks, before any decoding.

Silero's network gives the probability of speech; here it becomes spans of the recording and clips for the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.silero import CHUNK, speech_probabilities

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    FloatArray = npt.NDArray[np.float32]

# Speech begins at the first probability and lasts until it falls below the second: Silero's own defaults.
_BEGIN_PROBABILITY, _STAY_PROBABILITY = 0.5, 0.35
# A quiet recording is raised first: the network misses 1.4 % of speech that is 40 dB quieter than usual.
_QUIET_PEAK, _RAISED_PEAK = 0.1, 0.3
_MAX_GAIN = 1_000.0  # 60 dB: quieter sound is the rounding noise of 16 bits
FRAME, HOP = 640, 256  # samples: 40 ms at a step of 16 ms
_PAD_S = 0.5  # keeps the quiet consonants before and after a stretch of speech
# A longer pause begins a new clip: after one, Whisper's time stamps are wrong by seconds. Longer than most pauses of a
# speaker: with 3 s, 8 words of 414 were wrong in two recordings with pauses of up to 6 s, with 8 s 4 (whisper: 4).
_MAX_PAUSE_S = 8.0
_FRAMES_PER_S = SAMPLE_RATE / HOP


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a recording, in samples, `end` not included."""

    start: int
    end: int

    @property
    def n_samples(self) -> int:
        return self.end - self.start


class Activity:
    """Finds speech in a recording.

    Args:
        samples: float32, shape (n_samples,), mono, 16 kHz.
        is_voiced: the frames that hold speech, as another detector found them: bool, shape (n_frames,), one for each
            40 ms at a step of 16 ms. Silero's network finds them if it is not given.

    Attributes:
        spans: stretches with speech in order, half a second of margin included, none touching another.
    """

    def __init__(self, samples: FloatArray, *, is_voiced: BoolArray | None = None) -> None:
        self._is_voiced = voiced_frames(samples) if is_voiced is None else is_voiced
        self._n_samples = len(samples)
        self.spans = _spans(self._is_voiced, self._n_samples)

    def voiced_s(self, span: Span) -> float:
        """Seconds of voiced frames inside `span`."""
        return float(self._is_voiced[_frames_of(span)].sum()) / _FRAMES_PER_S

    def clips(self) -> list[Span]:
        """The stretches to decode one after the other: the recording without its long pauses, if there is speech.

        Short pauses at both ends are kept: the windows then lie as in whisper's own `transcribe`, which hears the same.
        """
        if not self.spans:
            return []
        longest_pause = int(_MAX_PAUSE_S * SAMPLE_RATE)
        clips: list[Span] = [Span(0, 0)]
        for span in (*self.spans, Span(self._n_samples, self._n_samples)):
            if span.start - clips[-1].end <= longest_pause:
                clips[-1] = Span(clips[-1].start, span.end)
            else:
                clips.append(span)
        return [clip for clip in clips if clip.n_samples > 0]


def n_frames_of(n_samples: int) -> int:
    """Number of frames of a recording; one that is shorter than a frame has one."""
    return 1 + max(n_samples - FRAME, 0) // HOP


def _frames_of(span: Span) -> slice:
    """The frames that begin in `span` and end in it."""
    return slice(span.start // HOP, max(span.end - FRAME, 0) // HOP + 1)


def voiced_frames(samples: FloatArray) -> BoolArray:
    """Whether each frame holds speech, shape (n_frames,)."""
    import numpy as np

    peak = float(np.abs(samples).max(initial=0.0))
    if 0 < peak < _QUIET_PEAK:
        samples = samples * np.float32(min(_RAISED_PEAK / peak, _MAX_GAIN))
    speaks, flags = False, []
    for probability in speech_probabilities(samples).tolist():
        speaks = probability >= (_STAY_PROBABILITY if speaks else _BEGIN_PROBABILITY)
        flags.append(speaks)
    middles = np.arange(n_frames_of(len(samples))) * HOP + FRAME // 2
    # The last frame of a short recording may have its middle past the end.
    return np.asarray(flags, np.bool_)[np.minimum(middles // CHUNK, len(flags) - 1)]


def _spans(is_voiced: BoolArray, n_samples: int) -> tuple[Span, ...]:
    import numpy as np

    pad = int(_PAD_S * SAMPLE_RATE)
    spans: list[Span] = []
    for frame in np.flatnonzero(is_voiced).tolist():
        start, end = max(0, frame * HOP - pad), min(n_samples, frame * HOP + FRAME + pad)
        if spans and start <= spans[-1].end:
            spans[-1] = Span(spans[-1].start, end)
        else:
            spans.append(Span(start, end))
    return tuple(spans)
