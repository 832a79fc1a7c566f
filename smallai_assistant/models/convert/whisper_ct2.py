"""Converts a CTranslate2 Whisper model to openai-whisper's names, in safetensors.

The format of CTranslate2's file, version 6, little endian:

    u32 version; str spec; u32 revision; u32 number of variables
    for each variable: str name; u8 rank; u32 shape[rank]; u8 dtype; u32 number of bytes; the bytes
    u32 number of aliases; for each alias: str alias; str name

A str is a u16 length, which includes a trailing NUL, and the bytes. Matrices are stored as torch stores them; none has
to be transposed.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.errors import ModelInvalid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

_VERSION = 6
# CTranslate2's codes, as numpy's names.
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def convert(source: Path, target: Path) -> None:
    """Converts `model.bin`, `config.json` and `tokenizer.json` in `source` to safetensors in `target`.

    Raises:
        ModelInvalid: the file is cut short, or is not a Whisper model, or has weights that we do not know.
    """
    import numpy as np
    from safetensors.numpy import save_file

    try:
        variables = _read(source / "model.bin")
        dims, state = _openai(variables)
    except (KeyError, ValueError, OverflowError) as error:
        raise ModelInvalid(f"model.bin is malformed: {error}", hint="pull the model again") from error
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, target / "model.safetensors")
    original = json.loads((source / "config.json").read_bytes())
    config = {"model_type": "openai-whisper", "dims": dims, "alignment_heads": original.get("alignment_heads")}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())


class _Reader:
    """Reads values from bytes, one after the other, and checks that they do not end early."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def take(self, n: int) -> memoryview:
        if self.position + n > len(self.data):
            raise ModelInvalid("model.bin is cut short", hint="pull the model again")
        self.position += n
        return self.data[self.position - n : self.position]

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize(code)))
        return int(value)

    def text(self) -> str:
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()


def _read(path: Path) -> dict[str, Array]:
    import numpy as np

    reader = _Reader(memoryview(path.read_bytes()))
    if (version := reader.number("I")) != _VERSION:
        raise ModelInvalid(f"model.bin has CTranslate2 version {version}, {_VERSION} is known")
    if (spec := reader.text()) != "WhisperSpec":
        raise ModelInvalid(f"model.bin holds a {spec}, not a Whisper model")
    reader.number("I")  # the revision of the spec; it does not change the format
    variables: dict[str, Array] = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        dtype = reader.number("B")
        raw = reader.take(reader.number("I"))
        # bfloat16 has a code too; numpy has no such type, and no file of the catalogue uses it.
        if dtype not in _DTYPES:
            raise ModelInvalid(f"model.bin: {name} has the unknown type {dtype}")
        variables[name] = np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)
    # CTranslate2 stores equal variables once; the others are aliases.
    for _ in range(reader.number("I")):
        alias = reader.text()
        variables[alias] = variables[reader.text()]
    if reader.position != len(reader.data):
        raise ModelInvalid("model.bin has bytes after its end", hint="pull the model again")
    return variables


class _Mapping:
    """Maps variables to openai-whisper's names and remembers which were used: a weight left over is an error."""

    def __init__(self, variables: dict[str, Array]) -> None:
        self.variables = variables
        self.state: dict[str, Any] = {}
        self.used: set[str] = set()

    def weight(self, name: str) -> Any:
        self.used.add(name)
        value = self.variables[name]
        if value.dtype.kind == "i":  # CTranslate2 stores int8 = weight * scale, with one scale a row
            self.used.add(f"{name}_scale")
            scale = self.variables[f"{name}_scale"].astype("f4")
            return value.astype("f4") / scale.reshape(-1, *[1] * (value.ndim - 1))
        return value

    def norm(self, source: str, target: str) -> None:
        self.state[f"{target}.weight"] = self.weight(f"{source}/gamma")
        self.state[f"{target}.bias"] = self.weight(f"{source}/beta")

    def linear(self, source: str, target: str) -> None:
        self.state[f"{target}.weight"] = self.weight(f"{source}/weight")
        self.state[f"{target}.bias"] = self.weight(f"{source}/bias")

    def fused(self, source: str, target: str, names: tuple[str, ...]) -> None:
        """Splits the projections that CTranslate2 stacks by rows. Whisper's key has no bias, so its part must be 0."""
        weight, bias = self.weight(f"{source}/weight"), self.weight(f"{source}/bias")
        n_rows = weight.shape[0] // len(names)
        for i, name in enumerate(names):
            rows = slice(i * n_rows, (i + 1) * n_rows)
            self.state[f"{target}.{name}.weight"] = weight[rows]
            if name != "key":
                self.state[f"{target}.{name}.bias"] = bias[rows]
            elif bias[rows].any():
                raise ModelInvalid(f"model.bin: {source} has a bias on the key, Whisper has none")


def _openai(variables: dict[str, Array]) -> tuple[dict[str, int], dict[str, Any]]:
    """openai-whisper's `dims` (its ModelDimensions) and its state dict."""
    mapping = _Mapping(variables)
    state = mapping.state
    for conv in ("conv1", "conv2"):
        mapping.linear(f"encoder/{conv}", f"encoder.{conv}")
    for side in ("encoder", "decoder"):
        state[f"{side}.positional_embedding"] = mapping.weight(f"{side}/position_encodings/encodings")
    state["decoder.token_embedding.weight"] = mapping.weight("decoder/embeddings/weight")
    mapping.norm("encoder/layer_norm", "encoder.ln_post")
    mapping.norm("decoder/layer_norm", "decoder.ln")
    n_layers = {side: _count_layers(variables, side) for side in ("encoder", "decoder")}
    for side, n in n_layers.items():
        for i in range(n):
            _map_layer(mapping, f"{side}/layer_{i}", f"{side}.blocks.{i}", has_cross=side == "decoder")
    _check_rest(mapping)
    n_audio_ctx, n_audio_state = state["encoder.positional_embedding"].shape
    n_text_ctx, n_text_state = state["decoder.positional_embedding"].shape
    dims = {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_audio_ctx": n_audio_ctx,
        "n_audio_state": n_audio_state,
        "n_audio_head": int(variables["encoder/num_heads"]),
        "n_audio_layer": n_layers["encoder"],
        "n_vocab": state["decoder.token_embedding.weight"].shape[0],
        "n_text_ctx": n_text_ctx,
        "n_text_state": n_text_state,
        "n_text_head": int(variables["decoder/num_heads"]),
        "n_text_layer": n_layers["decoder"],
    }
    return dims, state


def _map_layer(mapping: _Mapping, source: str, target: str, *, has_cross: bool) -> None:
    mapping.norm(f"{source}/self_attention/layer_norm", f"{target}.attn_ln")
    mapping.fused(f"{source}/self_attention/linear_0", f"{target}.attn", ("query", "key", "value"))
    mapping.linear(f"{source}/self_attention/linear_1", f"{target}.attn.out")
    if has_cross:
        mapping.norm(f"{source}/attention/layer_norm", f"{target}.cross_attn_ln")
        mapping.linear(f"{source}/attention/linear_0", f"{target}.cross_attn.query")
        mapping.fused(f"{source}/attention/linear_1", f"{target}.cross_attn", ("key", "value"))
        mapping.linear(f"{source}/attention/linear_2", f"{target}.cross_attn.out")
    mapping.norm(f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
    mapping.linear(f"{source}/ffn/linear_0", f"{target}.mlp.0")
    mapping.linear(f"{source}/ffn/linear_1", f"{target}.mlp.2")


def _check_rest(mapping: _Mapping) -> None:
    """Checks that no weight is left over: apart from single numbers, only the output matrix, which is the embedding."""
    output = "decoder/projection/weight"
    if (
        output in mapping.variables
        and not (mapping.weight(output) == mapping.weight("decoder/embeddings/weight")).all()
    ):
        raise ModelInvalid("model.bin: the output matrix is not the embedding, as it is in Whisper")
    # Single numbers are settings of CTranslate2, such as the number of heads.
    left = [name for name, value in mapping.variables.items() if name not in mapping.used and value.size > 1]
    # If the weights are int8, the alias of the output matrix has an alias for its scale too.
    left = [name for name in left if name != f"{output}_scale"]
    if left:
        raise ModelInvalid(f"model.bin: unknown weights: {', '.join(left[:3])}")


def _count_layers(variables: dict[str, Array], side: str) -> int:
    found = [int(match[1]) for name in variables if (match := re.match(rf"{side}/layer_(\d+)/", name))]
    return 1 + max(found, default=-1)
