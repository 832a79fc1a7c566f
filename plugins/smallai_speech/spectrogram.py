"""The encoder's input: the same spectrogram that whisper's own `transcribe` computes, window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

FRAME_SAMPLES = 160  # 10 ms
N_AROUND = 3 * FRAME_SAMPLES  # a frame is computed from 200 samples on either side of its middle
N_FRAMES = 3000  # of a window
_BLOCK_SAMPLES = 6_000 * FRAME_SAMPLES  # a minute at a time: that of a long recording would not fit into memory at once
_FLOOR = 8.0  # whisper hears nothing that is 80 dB below the loudest frame, in powers of ten
_SILENCE = -10.0  # the lowest value that whisper computes


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of sound and what lies around it in its recording.

    Attributes:
        samples: float32, mono, 16 kHz, at most 30 s.
        before: up to `N_AROUND` samples, whole frames.
        after: up to `N_AROUND` samples.
        loudest: of the recording, from `loudest`; None if the window is heard for itself.
    """

    samples: FloatArray
    before: FloatArray | None = None
    after: FloatArray | None = None
    loudest: float | None = None


def loudest(samples: FloatArray, n_mels: int) -> float:
    """The maximum of a recording's logarithmic spectrogram."""
    import torch
    from whisper.audio import log_mel_spectrogram

    found = _SILENCE
    for start in range(0, len(samples), _BLOCK_SAMPLES):
        block = samples[max(start - N_AROUND, 0) : start + _BLOCK_SAMPLES + N_AROUND]
        scaled = log_mel_spectrogram(torch.from_numpy(block.copy()), n_mels, padding=N_AROUND)
        found = max(found, float(scaled.max()) * 4 - 4)  # undoes whisper's last step, (x + 4) / 4
    return found


def mel_of(window: Window, n_mels: int, device: str) -> Any:
    """The spectrogram of a window, shape (n_mels, 3000), as whisper's `transcribe` cuts it from the recording's.

    Only whole frames count; after the sound it is zero. One frame more, which is partly padding, cost tiny.en a word of
    the five commands of `bench.data.cards`.
    """
    import numpy as np
    import torch
    from whisper.audio import N_SAMPLES, log_mel_spectrogram, pad_or_trim

    parts = [part for part in (window.before, window.samples, window.after) if part is not None]
    sound = torch.from_numpy(np.concatenate(parts)).to(device)
    mel = log_mel_spectrogram(sound, n_mels, padding=N_SAMPLES)
    if window.loudest is not None:
        mel = mel.clamp(min=(window.loudest - _FLOOR + 4) / 4)
    first = len(window.before) // FRAME_SAMPLES if window.before is not None else 0
    n_frames = max(len(window.samples) // FRAME_SAMPLES, 1)
    return pad_or_trim(mel[:, first : first + n_frames], N_FRAMES)
