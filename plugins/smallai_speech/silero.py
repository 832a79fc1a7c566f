"""Silero's voice activity detector, version 6: the probability that somebody speaks, for every 32 ms of sound.

The network and its weights are those of https://github.com/snakers4/silero-vad (MIT, see `silero_vad.LICENSE`): a short
Fourier transform, four convolutions and an LSTM of 128 units, 0.2 million weights. It runs in torch, so that no other
runtime is needed; `python -m bench.vad` compares it with the original.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

CHUNK = 512  # samples, 32 ms: the network gives one probability for each
_CONTEXT = 64  # samples before a chunk that the network sees too
_FFT, _FFT_HOP = 256, 128
_STRIDES = (1, 2, 2, 1)  # of the convolutions: four spectra of a chunk become one vector
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
    import torch

    if not len(samples):
        return np.zeros(0, np.float32)
    weights, lstm = _network()
    sound = torch.from_numpy(np.pad(samples, (_CONTEXT, -len(samples) % CHUNK)))
    chunks = sound.unfold(0, _CONTEXT + CHUNK, CHUNK)
    probabilities, state = [], None
    with torch.inference_mode():
        for first in range(0, len(chunks), _BLOCK_CHUNKS):
            # The LSTM's state goes from block to block: what was heard before decides what counts as noise.
            hidden, state = lstm(_encoded(chunks[first : first + _BLOCK_CHUNKS], weights), state)
            logits = torch.relu(hidden) @ weights["out.weight"][0] + weights["out.bias"]
            probabilities.append(torch.sigmoid(logits))
    out: FloatArray = torch.cat(probabilities).numpy()
    return out


def _encoded(chunks: Any, weights: dict[str, Any]) -> Any:
    """The LSTM's input for chunks with their context, shape (n_chunks, 128)."""
    import torch

    padded = torch.nn.functional.pad(chunks, (0, _CONTEXT), mode="reflect")
    spectra = torch.fft.rfft(padded.unfold(1, _FFT, _FFT_HOP) * torch.hann_window(_FFT)).abs()
    x = spectra.transpose(1, 2)  # (n_chunks, 129 frequencies, 4 spectra)
    for i, stride in enumerate(_STRIDES):
        weight, bias = weights[f"conv{i}.weight"], weights[f"conv{i}.bias"]
        x = torch.relu(torch.nn.functional.conv1d(x, weight, bias, stride=stride, padding=1))
    return x[:, :, 0]


@functools.cache
def _network() -> tuple[dict[str, Any], Any]:
    """The weights by name, and the LSTM made of some of them."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(_WEIGHTS)
    prefix = "lstm."
    lstm = torch.nn.LSTM(input_size=128, hidden_size=128).requires_grad_(False)
    lstm.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)})
    return weights, lstm
