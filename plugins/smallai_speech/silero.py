"""Silero's voice activity detector, version 6: the probability that somebody speaks, for every 32 ms of sound.

The network and its weights are those of https://github.com/snakers4/silero-vad (MIT, see `silero_vad.LICENSE`): a short
Fourier transform, four convolutions and an LSTM of 128 units, 0.2 million weights. It is computed in numpy: no other
runtime is needed, and a recording without speech is answered before torch is imported. `python -m bench.vad` compares
it with the original.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

CHUNK = 512  # samples, 32 ms: the network gives one probability for each
_CONTEXT = 64  # samples before a chunk that the network sees too
_FFT, _FFT_HOP = 256, 128
_STRIDES = (1, 2, 2, 1)  # of the convolutions: the four spectra of a chunk become one vector
_UNITS = 128
_BLOCK_CHUNKS = 4096  # 131 s at a time: the spectra of a long recording would not fit into memory at once
_WEIGHTS = Path(__file__).with_name("silero_vad.safetensors")


def speech_probabilities(samples: FloatArray) -> FloatArray:
    """The probability of speech in each chunk of 512 samples, in order; the last chunk is filled up with zeros.

    Args:
        samples: float32, shape (n_samples,), mono, 16 kHz.

    Returns:
        float32, shape (ceil(n_samples / 512),).
    """
    import numpy as np

    if not len(samples):
        return np.zeros(0, np.float32)
    weights = _weights()
    sound = np.pad(samples, (_CONTEXT, -len(samples) % CHUNK))
    chunks = np.lib.stride_tricks.sliding_window_view(sound, _CONTEXT + CHUNK)[::CHUNK]
    hidden = cell = np.zeros(_UNITS, np.float32)
    states = []
    for first in range(0, len(chunks), _BLOCK_CHUNKS):
        encoded = _encoded(chunks[first : first + _BLOCK_CHUNKS], weights)
        gates = encoded @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
        # The LSTM's state goes on from chunk to chunk: the sound before decides what counts as noise.
        for of_chunk in gates:
            hidden, cell = _lstm_step(of_chunk, hidden, cell, weights["lstm.weight_hh_l0"])
            states.append(hidden)
    logits = np.maximum(np.stack(states), 0) @ weights["out.weight"][0] + weights["out.bias"]
    return _sigmoid(logits)


def _encoded(chunks: FloatArray, weights: dict[str, FloatArray]) -> FloatArray:
    """The LSTM's input for chunks with their context, shape (n_chunks, 128)."""
    import numpy as np

    padded = np.pad(chunks, ((0, 0), (0, _CONTEXT)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT, axis=1)[:, ::_FFT_HOP]
    hann = np.hanning(_FFT + 1)[:-1].astype(np.float32)  # periodic, as torch's
    x = np.abs(np.fft.rfft(frames * hann)).astype(np.float32)  # (n_chunks, 4 spectra, 129 frequencies)
    for i, stride in enumerate(_STRIDES):
        # A convolution of width 3 along the spectra, as one matrix product.
        around = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (0, 0))), 3, axis=1)[:, ::stride]
        x = np.tensordot(around, weights[f"conv{i}.weight"], axes=((2, 3), (1, 2))) + weights[f"conv{i}.bias"]
        x = np.maximum(x, 0)
    return x[:, 0]


def _lstm_step(
    gates: FloatArray, hidden: FloatArray, cell: FloatArray, recurrent: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The next hidden and cell state, shape (128,) each (Hochreiter and Schmidhuber 1997; gates in torch's order).

    In numpy, for torch's LSTM synchronizes its threads at every step: on two busy cores it took
    26 s instead of 0.6 s for ten minutes of sound.
    """
    import numpy as np

    n = _UNITS
    gates = gates + recurrent @ hidden
    take, keep, show = _sigmoid(gates[:n]), _sigmoid(gates[n : 2 * n]), _sigmoid(gates[3 * n :])
    cell = keep * cell + take * np.tanh(gates[2 * n : 3 * n])
    return show * np.tanh(cell), cell


def _sigmoid(x: FloatArray) -> FloatArray:
    """By the hyperbolic tangent, which does not overflow."""
    import numpy as np

    out: FloatArray = 0.5 * np.tanh(0.5 * x) + np.float32(0.5)
    return out


@functools.cache
def _weights() -> dict[str, FloatArray]:
    """The network's weights by name."""
    from safetensors.numpy import load_file

    return dict(load_file(_WEIGHTS))
