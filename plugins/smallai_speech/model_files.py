"""Reads and checks a folder of Whisper weights: `config.json` and `model.safetensors`.

The header of the weights, which is checked against the size of the file, decides how much memory is allocated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smallai_assistant import errors

_DIMENSIONS = (
    "n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer",
    "n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer",
)  # fmt: skip
_N_AUDIO_CTX = 1500  # of every Whisper: 30 s of sound in steps of 20 ms
_MAX_HEADER_BYTES = 100 * 2**20  # the safetensors format's own limit


def build(dimensions: dict[str, int], state: dict[str, Any], heads: list[tuple[int, int]]) -> Any:
    """Makes a `whisper.model.Whisper` with the weights of `state`.

    Args:
        heads: (layer, head) pairs whose attention follows the words in time; if it is empty, whisper's default.

    Raises:
        RuntimeError: a weight is missing, unknown or of another shape.
    """
    import torch
    from whisper.model import ModelDimensions, Whisper

    network = Whisper(ModelDimensions(**dimensions))
    network.load_state_dict(state, strict=True)
    if heads:
        mask = torch.zeros(dimensions["n_text_layer"], dimensions["n_text_head"], dtype=torch.bool)
        for layer, head in heads:
            mask[layer, head] = True
        network.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return network.eval().requires_grad_(False)


def halve(network: Any) -> None:
    """Converts the weights to float16, except those of the layer norms, which whisper computes in float32."""
    from torch import nn

    for module in network.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the config.json of a model folder. Returns an empty dict if the file holds something other than an object.

    Raises:
        ModelInvalid: the file cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.ModelInvalid(f"{folder / 'config.json'}: {error}", hint="pull the model again") from error
    return config if isinstance(config, dict) else {}


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of the tensors of model.safetensors from its header.

    Raises:
        ModelInvalid: the header cannot be read.
    """
    path = folder / "model.safetensors"
    try:
        with path.open("rb") as file:
            n_bytes = int.from_bytes(file.read(8), "little")
            # The length comes from the file itself: check it before reading that many bytes.
            if n_bytes > min(_MAX_HEADER_BYTES, path.stat().st_size):
                raise ValueError(f"a header of {n_bytes:,} bytes")
            header = json.loads(file.read(n_bytes))
        return {
            name: tuple(int(size) for size in entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise errors.ModelInvalid(f"{path}: {error}", hint="pull the model again") from error


def checked_dimensions(config: dict[str, Any], of_file: dict[str, tuple[int, ...]], folder: Path) -> dict[str, int]:
    """Returns the model's sizes after checking them against the shapes of the weights.

    Raises:
        ModelInvalid: the config has other sizes than the weights, or no Whisper has such sizes.
    """
    dims = config.get("dims")
    if not isinstance(dims, dict) or sorted(dims) != sorted(_DIMENSIONS):
        raise errors.ModelInvalid(f"{folder / 'config.json'}: dims must have {', '.join(_DIMENSIONS)}")
    if any(type(value) is not int or value < 1 for value in dims.values()):
        raise errors.ModelInvalid(f"{folder / 'config.json'}: dims must be positive whole numbers")
    # The last block of each side proves the number of layers; the other shapes follow from these sizes.
    audio, text = dims["n_audio_state"], dims["n_text_state"]
    expected = {
        "encoder.conv1.weight": (audio, dims["n_mels"], 3),
        "encoder.positional_embedding": (dims["n_audio_ctx"], audio),
        "decoder.token_embedding.weight": (dims["n_vocab"], text),
        "decoder.positional_embedding": (dims["n_text_ctx"], text),
        f"encoder.blocks.{dims['n_audio_layer'] - 1}.attn_ln.weight": (audio,),
        f"decoder.blocks.{dims['n_text_layer'] - 1}.attn_ln.weight": (text,),
    }
    for name, shape in expected.items():
        if of_file.get(name) != shape:
            raise errors.ModelInvalid(f"{folder}: {name} has shape {of_file.get(name)}, the config says {shape}")
    is_possible = (
        dims["n_audio_ctx"] == _N_AUDIO_CTX
        and dims["n_mels"] in (80, 128)
        and audio == text
        and audio % dims["n_audio_head"] == 0
        and text % dims["n_text_head"] == 0
        and 51_864 <= dims["n_vocab"] <= 51_866  # English, multilingual, and large-v3 with Cantonese
    )
    if not is_possible:
        raise errors.ModelInvalid(f"{folder}: no Whisper has the dims {dims}")
    return dims


def checked_heads(config: dict[str, Any], dims: dict[str, int], folder: Path) -> list[tuple[int, int]]:
    """Reads the (layer, head) pairs whose attention follows the words in time.

    Raises:
        ModelInvalid: they are not pairs, or the model has no such head.
    """
    heads = config.get("alignment_heads", [])
    try:
        pairs = [(int(layer), int(head)) for layer, head in heads]
    except (TypeError, ValueError) as error:
        raise errors.ModelInvalid(f"{folder / 'config.json'}: alignment_heads must be pairs") from error
    if not all(0 <= layer < dims["n_text_layer"] and 0 <= head < dims["n_text_head"] for layer, head in pairs):
        raise errors.ModelInvalid(f"{folder / 'config.json'}: alignment_heads name a head that is not there")
    return pairs
