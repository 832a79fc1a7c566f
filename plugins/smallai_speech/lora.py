"""Serves LoRA weights on openai-whisper: a merged copy of the adapted layers, in place only while a request computes.

Whisper computes in float32 or float16 and is never quantized, so weight + B A is exact enough and as fast as the bare
layer. The shared weights are never written: on the model's thread the layers' parameters are exchanged for the
adapter's and put back after the call.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallai_assistant import Adapter, errors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
KINDS = ("lora", "lora+vocabulary")  # of adapters that have weights
_MAX_MERGED = 3  # adapters kept: the one that serves, the one that is compared with it, and the one before
_PREFIX = "base_model.model."  # which peft puts before every name
# Names in transformers' Whisper and in openai-whisper's. Longer names come first: some of the others are parts of them.
_RENAMED = (
    ("model.encoder.layers.", "encoder.blocks."),
    ("model.decoder.layers.", "decoder.blocks."),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn.", "cross_attn."),
    (".self_attn.", ".attn."),
    ("final_layer_norm", "mlp_ln"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
    ("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
    ("model.decoder.embed_tokens", "decoder.token_embedding"),
    ("model.encoder.layer_norm", "encoder.ln_post"),
    ("model.decoder.layer_norm", "decoder.ln"),
    ("model.encoder.conv", "encoder.conv"),
)


class SwappedWeights:
    """The adapters of one loaded model.

    Args:
        network: a `whisper.model.Whisper`.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._merged: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._retired: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, adapter: Adapter | None) -> Iterator[None]:
        """Lets the network compute with the adapter inside the `with` block. Only for the model's thread.

        Raises:
            AdapterMismatch: the adapter's weights do not fit.
        """
        if adapter is None or adapter.kind not in KINDS:
            yield
            return
        merged = self._of(adapter)
        before: list[tuple[Any, Any]] = []
        try:
            for name, weight in merged.items():
                layer = self._network.get_submodule(name)
                before.append((layer, layer.weight))
                layer.weight = weight
            yield
        finally:
            # Also after an error halfway: the next request must find the shared weights.
            for layer, weight in before:
                layer.weight = weight
            self._drop_retired()

    def retire(self, adapter_id: str) -> None:
        """Marks an adapter as no longer serving. It is dropped after the next use of any. For any thread."""
        with self._lock:
            self._retired.add(adapter_id)

    def drop_all(self) -> None:
        """Drops every reference to weights."""
        self._merged.clear()
        self._network = None

    def _of(self, adapter: Adapter) -> dict[str, Any]:
        with self._lock:
            self._retired.discard(adapter.id)  # it serves again, after a rollback for example
        if adapter.id not in self._merged:
            self._merged[adapter.id] = self._merge(adapter)
            while len(self._merged) > _MAX_MERGED:
                self._merged.popitem(last=False)
        self._merged.move_to_end(adapter.id)
        return self._merged[adapter.id]

    def _merge(self, adapter: Adapter) -> dict[str, Any]:
        """The adapted layers' weights with the adapter's deltas added, as parameters."""
        import torch

        merged = {}
        for name, delta in read_deltas(adapter.folder).items():
            try:
                weight = self._network.get_submodule(name).weight
            except AttributeError as error:
                raise _mismatch(adapter.folder, f"the model has no layer {name}") from error
            if weight.shape != delta.shape:
                raise _mismatch(adapter.folder, f"{name} is {tuple(weight.shape)}, the adapter's {tuple(delta.shape)}")
            # Summed in float32: a small delta would vanish in float16.
            total = (weight.float() + delta.to(weight.device)).to(weight.dtype)
            merged[name] = torch.nn.Parameter(total, requires_grad=False)
        return merged

    def _drop_retired(self) -> None:
        with self._lock:
            for adapter_id in self._retired:
                self._merged.pop(adapter_id, None)
            self._retired.clear()


def read_deltas(folder: Path) -> dict[str, Any]:
    """Reads what the LoRA weights in `folder` add to each layer: B A alpha / r (Hu et al. 2021, section 4.1).

    Returns:
        For each layer, by its name in openai-whisper, a float32 tensor of the shape of its weight.

    Raises:
        AdapterMismatch: the files are malformed, or hold anything but LoRA on linear layers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        scale = float(config["lora_alpha"]) / int(config["r"])
        tensors: Mapping[str, Any] = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
        raise _mismatch(folder, str(error)) from error
    deltas = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".lora_A.weight")
        if stem == name:
            if not name.endswith(".lora_B.weight"):
                raise _mismatch(folder, f"{name} is not a LoRA weight")
            continue
        other = tensors.get(f"{stem}.lora_B.weight")
        if other is None or tensor.ndim != 2 or other.ndim != 2 or other.shape[1] != tensor.shape[0]:
            raise _mismatch(folder, f"{stem}: A and B do not belong together")
        deltas[openai_name(stem.removeprefix(_PREFIX))] = other.float() @ tensor.float() * scale
    if not deltas:
        raise _mismatch(folder, "it holds no weights")
    return deltas


def openai_name(name: str) -> str:
    """A layer's name in openai-whisper, from its name in transformers."""
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name


def transformers_name(name: str) -> str:
    """A tensor's name in transformers' Whisper, from its name in openai-whisper; the inverse of `openai_name`."""
    for theirs, ours in _RENAMED:
        name = name.replace(ours, theirs)
    return name


def _mismatch(folder: Path, what: str) -> errors.AdapterMismatch:
    return errors.AdapterMismatch(f"{folder.name} does not fit the speech model: {what}")
