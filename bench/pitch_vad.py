"""The plugin's former voice activity detector, kept so that `python -m bench.vad` can compare it with Silero's.

A frame counts as voiced speech if it is louder than the noise around it, has a pitch, and differs from the frames a
tenth of a second before and after it. White noise has no pitch, hum and tones do not change, silence has no energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.vad import FRAME, HOP, n_frames_of

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

_FFT = 1024
_BLOCK_FRAMES = 4096  # 65 s at a time: the spectra of a long recording would not fit into memory at once
_BAND_HZ = (150.0, 4_000.0)  # speech has most of its energy here; hum lies below
_N_BANDS = 18
_PITCH_LAGS = (40, 230)  # samples: 400 to 70 Hz
_MIN_VOICING = 0.55  # clean vowels reach 0.9, white noise 0.36
_MIN_CHANGE_DB = 1.5  # speech has 3 and more, hum below 0.5
_CHANGE_FRAMES = 6  # 0.1 s
_LOUD_BANDS_DB = 25  # below the loudest band: quieter bands hold noise, which changes all the time
_ABOVE_FLOOR_DB = 4.0
_QUIETEST_DB = -95.0  # of full scale; the rounding noise of 16 bits lies at -98
_FLOOR_S = 15.0  # the noise floor of a frame is the tenth percentile of the levels within 15 s of it
_CLUSTER_FRAMES, _CLUSTER_VOICED = 19, 5  # 80 ms of voice within 0.3 s: a short word has 100 ms
_FRAMES_PER_S = SAMPLE_RATE / HOP


@dataclass(frozen=True, slots=True)
class _Frames:
    """Measurements of each frame, float32, shape (n_frames,).

    Attributes:
        level_db: in dB of full scale, in the band of speech.
        voicing: height of the pitch's peak in the autocorrelation, in [0, 1].
        change_db: distance of the spectrum from that of the frames 0.1 s away, in dB.
    """

    level_db: FloatArray
    voicing: FloatArray
    change_db: FloatArray


def pitched_frames(samples: FloatArray) -> BoolArray:
    """Whether each frame of `Activity` holds speech, shape (n_frames,)."""
    return _voiced(_measure(samples))


def _measure(samples: FloatArray) -> _Frames:
    if len(samples) < FRAME:
        samples = np.pad(samples, (0, FRAME - len(samples)))
    framed = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    level, voicing, bands = [], [], []
    for first in range(0, n_frames_of(len(samples)), _BLOCK_FRAMES):
        block = _measure_block(framed[first : first + _BLOCK_FRAMES])
        level.append(block[0])
        voicing.append(block[1])
        bands.append(block[2])
    return _Frames(np.concatenate(level), np.concatenate(voicing), _change(np.concatenate(bands)))


def _measure_block(framed: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Level (n,), voicing (n,) and the level in 18 bands (n, 18) of frames, shape (n, 640)."""
    window = np.hanning(FRAME).astype(np.float32)
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
    # Only a peak inside the range is a pitch: the slope of the peak at lag 0 is high too, but rises to the edge.
    is_peak = (near[:, 1:-1] > near[:, :-2]) & (near[:, 1:-1] >= near[:, 2:])
    strength = near[:, 1:-1] / (of_window[low:high] / of_window[0])
    voicing = np.where(is_peak, strength, 0).max(axis=1)

    edges = np.searchsorted(hz, np.geomspace(*_BAND_HZ, _N_BANDS + 1))
    bands = 10 * np.log10(np.add.reduceat(power, edges, axis=1)[:, :-1] + 1e-12)
    return level_db.astype(np.float32), voicing.astype(np.float32), bands.astype(np.float32)


def _change(bands: FloatArray) -> FloatArray:
    """Distance of each frame from the more similar of the frames 0.1 s before and after, shape (n_frames,), in dB.

    It is the root mean square of the differences over the loud bands. The more similar one counts, so that a tone that
    begins or ends does not look like speech.
    """
    n_frames = len(bands)
    if n_frames <= _CHANGE_FRAMES:
        return np.full(n_frames, 99.0, np.float32)  # too short to tell: let the other measurements decide
    early, late = bands[:-_CHANGE_FRAMES], bands[_CHANGE_FRAMES:]
    louder = np.maximum(early, late)
    counts = louder > louder.max(axis=1, keepdims=True) - _LOUD_BANDS_DB
    distance = np.sqrt((((early - late) ** 2) * counts).sum(axis=1) / counts.sum(axis=1))
    edge = np.full(_CHANGE_FRAMES, 99.0, np.float32)  # the first and last frames have one neighbour only
    change: FloatArray = np.minimum(np.concatenate([distance, edge]), np.concatenate([edge, distance]))
    return change


def _voiced(frames: _Frames) -> BoolArray:
    floor_db = _noise_floor(frames.level_db)
    voiced = (
        (frames.level_db > np.maximum(floor_db + _ABOVE_FLOOR_DB, _QUIETEST_DB))
        & (frames.voicing > _MIN_VOICING)
        & (frames.change_db > _MIN_CHANGE_DB)
    )
    # Single voiced frames occur by chance in noise: keep those that lie in a stretch of 0.3 s with enough of them.
    n = _CLUSTER_FRAMES
    in_stretch = np.convolve(voiced, np.ones(n))  # entry i counts the frames i-n+1 .. i
    most = np.lib.stride_tricks.sliding_window_view(np.pad(in_stretch, (0, n)), n).max(axis=1)[: len(voiced)]
    kept: BoolArray = voiced & (most >= _CLUSTER_VOICED)
    return kept


def _noise_floor(level_db: FloatArray) -> FloatArray:
    """The tenth percentile of the levels within 15 s, shape (n_frames,)."""
    # One percentile a second, repeated: the floor moves slowly, and a percentile for each frame would take minutes.
    step, reach = round(_FRAMES_PER_S), round(_FLOOR_S * _FRAMES_PER_S)
    floors = [
        np.percentile(level_db[max(0, middle - reach) : middle + reach], 10)
        for middle in range(step // 2, len(level_db) + step // 2, step)
    ]
    return np.repeat(np.asarray(floors, np.float32), step)[: len(level_db)]
