"""Voice activity: finds the stretches of a recording in which somebody speaks, before any decoding.

Silero's network gives the probability of speech; here it becomes spans of the recording and windows for the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.silero import CHUNK, speech_probabilities
from smallai_speech.window import WINDOW_S

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
FRAME, HOP = 640, 256  # samples of which the level is measured: 40 ms at a step of 16 ms
_FFT = 1024
_BLOCK_FRAMES = 4096  # 65 s at a time: the spectra of a long recording would not fit into memory at once
_BAND_HZ = (150.0, 4_000.0)  # speech has most of its energy here; hum lies below
_SMOOTH_FRAMES = 13  # 0.2 s
_PAD_S = 0.5  # keeps the quiet consonants before and after a stretch of speech
# Longest gap between two spans in one window: after a long pause Whisper's time stamps are wrong by seconds. On three
# recordings of two minutes with pauses of up to 6 s, the word error rate is 2.5 % at 3 s and 3.2 to 3.4 % at 1, 2, 5
# and 10 s.
_MAX_PAUSE_S = 3.0
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
        self._level_db = _levels(samples)
        self._is_voiced = voiced_frames(samples) if is_voiced is None else is_voiced
        self.spans = _spans(self._is_voiced, len(samples))

    def voiced_s(self, span: Span) -> float:
        """Seconds of voiced frames inside `span`."""
        return float(self._is_voiced[_frames_of(span)].sum()) / _FRAMES_PER_S

    def windows(self, longest_s: float = WINDOW_S) -> list[Span]:
        """Packs the spans into windows of at most `longest_s`, in order; the sound between two windows is skipped.

        Neighbouring spans share a window together with the pause between them, so that the times of the window are
        those of the recording; after a gap of more than three seconds a new window begins. A span that is too long is
        cut at the quietest point in the second half of the window.
        """
        longest, longest_pause = int(longest_s * SAMPLE_RATE), int(_MAX_PAUSE_S * SAMPLE_RATE)
        windows: list[Span] = []
        for span in self._short_spans(longest):
            is_near = windows and span.start - windows[-1].end <= longest_pause
            if is_near and span.end - windows[-1].start <= longest:
                windows[-1] = Span(windows[-1].start, span.end)
            else:
                windows.append(span)
        return windows

    def within(self, span: Span) -> list[Span]:
        """The stretches with speech inside `span`, cut at its ends."""
        cut = [Span(max(span.start, own.start), min(span.end, own.end)) for own in self.spans]
        return [part for part in cut if part.n_samples > 0]

    def quietest(self, span: Span) -> int:
        """The sample in the middle of the quietest 0.2 s of `span`; its own middle if it is shorter than 0.4 s."""
        import numpy as np

        level = self._level_db[_frames_of(span)]
        if len(level) < 2 * _SMOOTH_FRAMES:
            return (span.start + span.end) // 2
        smooth = np.convolve(level, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), "valid")
        frame = span.start // HOP + _SMOOTH_FRAMES // 2 + int(smooth.argmin())
        return frame * HOP + FRAME // 2

    def _short_spans(self, longest: int) -> list[Span]:
        out = []
        for span in self.spans:
            start = span.start
            while span.end - start > longest:
                # A cut in the first half would make more windows than the recording needs.
                cut = self.quietest(Span(start + longest // 2, start + longest))
                out.append(Span(start, cut))
                start = cut
            out.append(Span(start, span.end))
        return out


def n_frames_of(n_samples: int) -> int:
    """Number of frames of a recording; one that is shorter than a frame has one."""
    return 1 + max(n_samples - FRAME, 0) // HOP


def _frames_of(span: Span) -> slice:
    """The frames that begin in `span` and end in it."""
    return slice(span.start // HOP, max(span.end - FRAME, 0) // HOP + 1)


def _levels(samples: FloatArray) -> FloatArray:
    """Level of each frame in the band of speech, shape (n_frames,), in dB of full scale."""
    import numpy as np

    if len(samples) < FRAME:
        samples = np.pad(samples, (0, FRAME - len(samples)))
    framed = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    in_band = (hz >= _BAND_HZ[0]) & (hz <= _BAND_HZ[1])
    full_scale = float((window**2).sum()) * _FFT / 2
    levels = []
    for first in range(0, len(framed), _BLOCK_FRAMES):
        power = np.abs(np.fft.rfft(framed[first : first + _BLOCK_FRAMES] * window, _FFT)) ** 2
        levels.append(10 * np.log10(power[:, in_band].sum(axis=1) / full_scale + 1e-14))
    return np.concatenate(levels).astype(np.float32)


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
