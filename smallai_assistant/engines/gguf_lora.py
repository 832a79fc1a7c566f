"""Converts a LoRA adapter of peft to GGUF, for llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallai_assistant.engines.lora import of_pattern, read_config, read_weights
from smallai_assistant.errors import AdapterMismatch

# Models whose GGUF files hold the rows of q and k in another order: each head's two halves are interleaved
# (`permute` of llama.cpp's convert_hf_to_gguf.py).
_PERMUTED = frozenset({"llama", "mistral"})


def convert_lora(folder: Path, target: Path, *, base: Mapping[str, Any]) -> None:
    """Writes the adapter in `folder`, files of peft, to the GGUF file `target`.

    Args:
        base: the config.json of the base model.

    Raises:
        AdapterMismatch: a weight is missing, unknown, or holds no number; or the base's layers have no GGUF names.
    """
    import gguf
    import numpy as np

    config = read_config(folder / "adapter_config.json")
    weights = {
        name: np.asarray(value.float()) for name, value in read_weights(folder / "adapter_model.safetensors").items()
    }
    architecture, names = _names_of(base)
    pairs = _pairs_of(weights)
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    # llama.cpp multiplies by alpha / rank, with one alpha for all layers: the scale of a layer goes into its B.
    writer.add_float32("adapter.lora.alpha", 1.0)
    for layer, (first, second) in pairs.items():
        name = names.get_name(f"{layer}.weight", try_suffixes=(".weight",))
        if name is None:
            raise AdapterMismatch(f"llama.cpp has no name for {layer}")
        rank = len(first)
        alpha = of_pattern(config.get("alpha_pattern"), layer, config.get("lora_alpha", 8))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        rows = second * (scale * rank)
        if architecture in _PERMUTED and layer.endswith(("q_proj", "k_proj")):
            key = "num_attention_heads" if layer.endswith("q_proj") else "num_key_value_heads"
            rows = _permuted(rows, int(base.get(key) or base["num_attention_heads"]))
        for kind, value in (("lora_a", first), ("lora_b", rows)):
            writer.add_tensor(f"{name}.{kind}", np.ascontiguousarray(value, dtype=np.float32))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _names_of(base: Mapping[str, Any]) -> tuple[str, Any]:
    """The architecture's name in GGUF files, and the map from names of transformers to those of GGUF."""
    import gguf

    kind = str(base.get("model_type", ""))
    # Mistral's files are of the architecture of Llama.
    architecture = {"mistral": "llama"}.get(kind, kind)
    found = next((arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    if found is None:
        raise AdapterMismatch(f"llama.cpp has no architecture {kind!r}")
    return architecture, gguf.get_tensor_name_map(found, int(base["num_hidden_layers"]))


def _pairs_of(weights: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The two matrices of each layer: A of shape (rank, n_in), B of shape (n_out, rank)."""
    import numpy as np

    layers: dict[str, dict[str, Any]] = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".lora_")
        if kind not in ("A.weight", "B.weight") or value.ndim != 2:
            raise AdapterMismatch(f"llama.cpp cannot take {name}")
        if not np.isfinite(value).all():
            raise AdapterMismatch(f"{name} holds NaN or infinity")
        layers.setdefault(layer, {})[kind] = value
    for layer, found in layers.items():
        if len(found) != 2 or len(found["A.weight"]) != found["B.weight"].shape[1]:
            raise AdapterMismatch(f"the two matrices of {layer} do not fit")
    return {layer: (found["A.weight"], found["B.weight"]) for layer, found in layers.items()}


def _permuted(rows: Any, n_heads: int) -> Any:
    """Puts the rows of a matrix into the order of the GGUF file."""
    n = len(rows)
    return rows.reshape(n_heads, 2, n // n_heads // 2, -1).swapaxes(1, 2).reshape(n, -1)
