"""Tiny openai-whisper models, made in-process from seeded weights: as CTranslate2 files and as safetensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

# The codes of types in the format of CTranslate2.
_DTYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def make_model(seed: int = 0) -> Any:
    """A seeded `whisper.model.Whisper` in float32."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(seed)
    model = Whisper(ModelDimensions(80, 20, 16, 2, 2, 51864, 12, 16, 2, 1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def variables_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The model's weights under CTranslate2's names, with query, key and value fused."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    out: dict[str, np.ndarray[Any, Any]] = {}

    def linear(ours: str, theirs: str) -> None:
        out[f"{theirs}/weight"], out[f"{theirs}/bias"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def norm(ours: str, theirs: str) -> None:
        out[f"{theirs}/gamma"], out[f"{theirs}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def fused(ours: str, names: tuple[str, ...], theirs: str) -> None:
        weights = [state[f"{ours}.{name}.weight"] for name in names]
        # Whisper's keys have no bias; the fused layer needs one.
        zeros = np.zeros(len(weights[0]), np.float32)
        biases = [zeros if name == "key" else state[f"{ours}.{name}.bias"] for name in names]
        out[f"{theirs}/weight"], out[f"{theirs}/bias"] = np.concatenate(weights), np.concatenate(biases)

    for conv in ("conv1", "conv2"):
        linear(f"encoder.{conv}", f"encoder/{conv}")
    norm("encoder.ln_post", "encoder/layer_norm")
    norm("decoder.ln", "decoder/layer_norm")
    out["decoder/embeddings/weight"] = state["decoder.token_embedding.weight"]
    for side, n_layers in (("encoder", model.dims.n_audio_layer), ("decoder", model.dims.n_text_layer)):
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.positional_embedding"]
        out[f"{side}/num_heads"] = np.array(model.dims.n_audio_head, np.int8)
        for i in range(n_layers):
            ours, theirs = f"{side}.blocks.{i}", f"{side}/layer_{i}"
            norm(f"{ours}.attn_ln", f"{theirs}/self_attention/layer_norm")
            fused(f"{ours}.attn", ("query", "key", "value"), f"{theirs}/self_attention/linear_0")
            linear(f"{ours}.attn.out", f"{theirs}/self_attention/linear_1")
            norm(f"{ours}.mlp_ln", f"{theirs}/ffn/layer_norm")
            linear(f"{ours}.mlp.0", f"{theirs}/ffn/linear_0")
            linear(f"{ours}.mlp.2", f"{theirs}/ffn/linear_1")
            if side == "decoder":
                norm(f"{ours}.cross_attn_ln", f"{theirs}/attention/layer_norm")
                linear(f"{ours}.cross_attn.query", f"{theirs}/attention/linear_0")
                fused(f"{ours}.cross_attn", ("key", "value"), f"{theirs}/attention/linear_1")
                linear(f"{ours}.cross_attn.out", f"{theirs}/attention/linear_2")
    return out


def quantize(variables: dict[str, np.ndarray[Any, Any]], name: str) -> None:
    """Replaces a weight by int8 values and a scale for each row."""
    weight = variables[name]
    scale = 127.0 / np.abs(weight).reshape(len(weight), -1).max(axis=1)
    variables[name] = np.rint(weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
    variables[f"{name}_scale"] = scale.astype(np.float32)


def write_ct2(folder: Path, variables: dict[str, np.ndarray[Any, Any]], *, spec: str = "WhisperSpec") -> None:
    """Writes `model.bin`, `config.json` and `tokenizer.json`. The output matrix is an alias of the embedding."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    # Version 6 of the format: name of the spec, its revision, the variables, the aliases.
    out = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        raw = np.ascontiguousarray(value).tobytes()
        out += text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        out += struct.pack("<BI", _DTYPES[value.dtype.name], len(raw)) + raw
    out += struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(out)
    (folder / "config.json").write_text(json.dumps({"alignment_heads": [[0, 1]]}))
    (folder / "tokenizer.json").write_text("{}")


def make_whisper(folder: Path, *, n_vocab: int = 51_864, **config: Any) -> Path:
    """Writes a Whisper of one layer with random weights as the engine reads it. Returns the folder."""
    import torch
    from safetensors.torch import save_file
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    dims = {
        "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1,
        "n_vocab": n_vocab, "n_text_ctx": 448, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1,
    }  # fmt: skip
    network = Whisper(ModelDimensions(**dims))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(network.state_dict(), folder / "model.safetensors")
    description = {"model_type": "openai-whisper", "dims": dims, "alignment_heads": [[0, 1]], **config}
    (folder / "config.json").write_text(json.dumps(description))
    return folder
