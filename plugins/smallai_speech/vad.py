"""Voice activity: where somebody speaks, found from energy, voicing and change, before any decoding.

A frame counts as voiced speech when it is louder than the noise around it, has a pitch, and does not sound like the
frame a tenth of a second away. White noise has no pitch, hum and tones do not change, silence has no energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.window import WINDOW_S

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

_FRAME, _HOP, _FFT = 640, 256, 1024  # 40 ms hold three periods of a 75 Hz voice; a step of 16 ms
_BLOCK_FRAMES = 4096
_BAND_HZ = (150.0, 4_000.0)  # where speech has most of its energy; below lies hum
_PITCH_LAGS = (40, 230)  # samples: 400 to 70 Hz
_MIN_VOICING = 0.55  # clean vowels reach 0.9, white noise 0.36
_MIN_CHANGE_DB = 1.5  # speech 3 and more, hum below 0.5
_CHANGE_FRAMES = 6
_ABOVE_FLOOR_DB = 4.0
_QUIETEST_DB = -95.0  # of full scale; the rounding noise of 16 bits lies at -98
_FLOOR_S = 15.0  # the noise floor is what the frames within 15 s do not go below, but for a tenth of them
_CLUSTER_FRAMES, _CLUSTER_VOICED = 19, 5  # 80 ms of voice within 0.3 s: a short word has 100 ms
_SMOOTH_FRAMES = 13  # 0.2 s
_PAD_S = 0.5  # consonants before and after the voiced stretch
_FRAMES_PER_S = SAMPLE_RATE / _HOP


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a recording, in samples, `end` not included."""

    start: int
    end: int

    @property
    def n_samples(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class _Frames:
    """What is measured of each frame, shape (n_frames,): level in dB of full scale, voicing in [0, 1], change in dB."""

    level_db: FloatArray
    voicing: FloatArray
    change_db: FloatArray


class Activity:
    """Where speech is in a recording.

    Args:
        samples: float32, shape (n_samples,), mono, 16 kHz.

    Attributes:
        spans: stretches with speech in order, half a second of margin included, none touching another.
    """

    def __init__(self, samples: FloatArray) -> None:
        frames = _measure(samples)
        self._level_db = frames.level_db
        self._is_voiced = _voiced(frames)
        self.spans = _spans(self._is_voiced, len(samples))

    def voiced_s(self, span: Span) -> float:
        """Seconds of voiced frames inside `span`."""
        return float(self._is_voiced[span.start // _HOP : max(span.end - _FRAME, 0) // _HOP + 1].sum()) / _FRAMES_PER_S

    def windows(self, longest_s: float = WINDOW_S) -> list[Span]:
        """The spans packed into stretches of at most `longest_s`, in order; what lies between two windows is skipped.

        Neighbouring spans share a window with the pause between them, so that times stay those of the recording. A
        longer span is cut where it is quietest in the second half of what fits.
        """
        longest = int(longest_s * SAMPLE_RATE)
        windows: list[Span] = []
        for span in self._short_spans(longest):
            if windows and span.end - windows[-1].start <= longest:
                windows[-1] = Span(windows[-1].start, span.end)
            else:
                windows.append(span)
        return windows

    def within(self, span: Span) -> list[Span]:
        """The stretches with speech inside `span`, cut at its ends."""
        cut = [Span(max(span.start, each.start), min(span.end, each.end)) for each in self.spans]
        return [each for each in cut if each.n_samples > 0]

    def quietest(self, span: Span) -> int:
        """The sample in the middle of the quietest 0.2 s of `span`; its own middle where it is shorter."""
        import numpy as np

        level = self._level_db[span.start // _HOP : max(span.end - _FRAME, 0) // _HOP + 1]
        if len(level) < 2 * _SMOOTH_FRAMES:
            return (span.start + span.end) // 2
        smooth = np.convolve(level, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), "valid")
        frame = span.start // _HOP + _SMOOTH_FRAMES // 2 + int(smooth.argmin())
        return frame * _HOP + _FRAME // 2

    def _short_spans(self, longest: int) -> list[Span]:
        out = []
        for span in self.spans:
            start = span.start
            while span.end - start > longest:
                cut = self.quietest(Span(start + longest // 2, start + longest))
                out.append(Span(start, cut))
                start = cut
            out.append(Span(start, span.end))
        return out


def _measure(samples: FloatArray) -> _Frames:
    import numpy as np

    if len(samples) < _FRAME:
        samples = np.pad(samples, (0, _FRAME - len(samples)))
    n_frames = 1 + (len(samples) - _FRAME) // _HOP
    framed = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    level, voicing, bands = [], [], []
    for first in range(0, n_frames, _BLOCK_FRAMES):
        block = _measure_block(framed[first : first + _BLOCK_FRAMES])
        level.append(block[0])
        voicing.append(block[1])
        bands.append(block[2])
    return _Frames(np.concatenate(level), np.concatenate(voicing), _change(np.concatenate(bands)))


def _measure_block(framed: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Level (n,), voicing (n,) and the level in 18 bands (n, 18) of frames, shape (n, 640)."""
    import numpy as np

    window = np.hanning(_FRAME).astype(np.float32)
    hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    power = np.abs(np.fft.rfft(framed * window, _FFT)) ** 2
    in_band = (hz >= _BAND_HZ[0]) & (hz <= _BAND_HZ[1])
    full_scale = float((window**2).sum()) * _FFT / 2
    level_db = 10 * np.log10(power[:, in_band].sum(axis=1) / full_scale + 1e-14)

    # Normalized autocorrelation of the band up to 4 kHz; dividing by the window's own undoes its taper (Boersma 1993).
    correlation = np.fft.irfft(np.where((hz >= 60) & (hz <= _BAND_HZ[1]), power, 0), _FFT)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, _FFT)) ** 2, _FFT)
    low, high = _PITCH_LAGS
    near = correlation[:, low - 1 : high + 1] / (correlation[:, :1] + 1e-20)
    is_peak = (near[:, 1:-1] > near[:, :-2]) & (near[:, 1:-1] >= near[:, 2:])
    strength = near[:, 1:-1] / (of_window[low:high] / of_window[0])
    voicing = np.where(is_peak, strength, 0).max(axis=1)

    edges = np.searchsorted(hz, np.geomspace(*_BAND_HZ, 19))
    bands = 10 * np.log10(np.add.reduceat(power, edges, axis=1)[:, :-1] + 1e-12)
    return level_db.astype(np.float32), voicing.astype(np.float32), bands.astype(np.float32)


def _change(bands: FloatArray) -> FloatArray:
    """How far each frame is from the more similar of the frames 0.1 s before and after: RMS over the loud bands, dB."""
    import numpy as np

    n_frames = len(bands)
    if n_frames <= _CHANGE_FRAMES:
        return np.full(n_frames, 99.0, np.float32)
    early, late = bands[:-_CHANGE_FRAMES], bands[_CHANGE_FRAMES:]
    louder = np.maximum(early, late)
    counts = louder > louder.max(axis=1, keepdims=True) - 25
    distance = np.sqrt((((early - late) ** 2) * counts).sum(axis=1) / counts.sum(axis=1))
    edge = np.full(_CHANGE_FRAMES, 99.0, np.float32)
    change: FloatArray = np.minimum(np.concatenate([distance, edge]), np.concatenate([edge, distance]))
    return change


def _voiced(frames: _Frames) -> npt.NDArray[np.bool_]:
    import numpy as np

    floor_db = _noise_floor(frames.level_db)
    voiced = (
        (frames.level_db > np.maximum(floor_db + _ABOVE_FLOOR_DB, _QUIETEST_DB))
        & (frames.voicing > _MIN_VOICING)
        & (frames.change_db > _MIN_CHANGE_DB)
    )
    # Lone voiced frames are chance: keep those in some stretch of 0.3 s that has enough of them.
    n = _CLUSTER_FRAMES
    in_stretch = np.convolve(voiced, np.ones(n))  # entry i counts the frames i-n+1 .. i
    most = np.lib.stride_tricks.sliding_window_view(np.pad(in_stretch, (0, n)), n).max(axis=1)[: len(voiced)]
    kept: npt.NDArray[np.bool_] = voiced & (most >= _CLUSTER_VOICED)
    return kept


def _noise_floor(level_db: FloatArray) -> FloatArray:
    """The tenth percentile of the levels within 15 s, shape (n_frames,)."""
    import numpy as np

    step, reach = round(_FRAMES_PER_S), round(_FLOOR_S * _FRAMES_PER_S)
    floors = [
        np.percentile(level_db[max(0, middle - reach) : middle + reach], 10)
        for middle in range(step // 2, len(level_db) + step // 2, step)
    ]
    return np.repeat(np.asarray(floors, np.float32), step)[: len(level_db)]


def _spans(is_voiced: npt.NDArray[np.bool_], n_samples: int) -> tuple[Span, ...]:
    import numpy as np

    pad = int(_PAD_S * SAMPLE_RATE)
    spans: list[Span] = []
    for frame in np.flatnonzero(is_voiced).tolist():
        start, end = max(0, frame * _HOP - pad), min(n_samples, frame * _HOP + _FRAME + pad)
        if spans and start <= spans[-1].end:
            spans[-1] = Span(spans[-1].start, end)
        else:
            spans.append(Span(start, end))
    return tuple(spans)
