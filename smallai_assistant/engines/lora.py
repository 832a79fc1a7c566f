"""Several LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on one base; each stream computes with its own.

Everything that touches the weights runs on the model's thread. An adapter is a table of small matrices by the name of
their layer. A hook on each layer adds what the active adapter says, so that changing the adapter between two steps is
one assignment: eight people with eight adapters take turns step by step. The module itself is never changed.

The files are those of peft. Its layers are not used: with eight adapters, changing the active one took 25 ms at 135M, a
third of a step, and loading the eighth took a second. Its loader fills missing weights with random numbers, and a file
can ask it for more than LoRA, such as changes to the base weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from smallai_assistant.engines.adapter_pool import WEIGHTS, AdapterPool
from smallai_assistant.errors import AdapterMismatch
from smallai_assistant.feedback import AdapterPart

# The keys of adapter_config.json that change what a LoRA computes.
_USED = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora")
# Further keys that a plain LoRA may set: how it was trained, and which program wrote it.
_HARMLESS = frozenset(
    {
        "task_type",
        "peft_type",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "init_lora_weights",
        "loftq_config",
        "megatron_core",
        "qalora_group_size",
        "auto_mapping",
    }
)
# What files of peft say of a plain LoRA besides. A file that says more is compared with peft's own defaults.
_PLAIN = {"bias": "none"}
_PREFIX = "base_model.model."  # before every name in files of peft


class LoraAdapters(AdapterPool["_Weights"]):
    """The adapters of one network of torch.

    Args:
        module: the network; None for a model that was released.
        limit, make_room: see `AdapterPool`.
    """

    def __init__(
        self, module: Any, *, limit: int | None = None, make_room: Callable[[int], None] = lambda _: None
    ) -> None:
        super().__init__(limit=limit, make_room=make_room)
        self._module = module
        # Only the model's thread touches these two.
        self._active: Mapping[str, _Pair] = {}
        self._hooks: dict[str, Any] = {}  # layer -> the handle of its hook

    def activate(self, part: AdapterPart | None) -> None:
        """Makes the next forward pass use these weights, or the bare base for None. On the model's thread only.

        Raises:
            AdapterMismatch: the weights do not fit the model.
            OutOfMemory: the device has no memory for them.
        """
        self._active = {} if part is None else self.get(part).pairs

    def _dropped(self, weights: _Weights) -> None:
        if weights.pairs is self._active:
            self._active = {}
        needed = {layer for kept in self._loaded.values() for layer in kept.pairs}
        for layer in self._hooks.keys() - needed:
            self._hooks.pop(layer).remove()

    def _load(self, part: AdapterPart) -> _Weights:
        config = read_config(part.folder / "adapter_config.json")
        weights = _weights_of(config, read_weights(part.folder / WEIGHTS), self._module)
        for layer in weights.pairs.keys() - self._hooks.keys():
            self._hooks[layer] = self._module.get_submodule(layer).register_forward_hook(partial(self._add, layer))
        return weights

    def _add(self, layer: str, _: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Adds to the output of a layer what the active adapter has learned; None leaves it as it is."""
        pair = self._active.get(layer)
        if pair is None:
            return None
        from torch.nn import functional

        if pair.is_embedding:
            small = functional.embedding(inputs[0], pair.first)
        else:
            small = functional.linear(inputs[0].to(pair.first.dtype), pair.first)
        # Summed in the precision of the adapter, as peft does it, and rounded once.
        return (output + functional.linear(small, pair.second)).to(output.dtype)


@dataclass(frozen=True, slots=True)
class _Pair:
    """What an adapter adds to one layer: second @ (first @ x), where x of an embedding chooses a row of `first`.

    Attributes:
        second: multiplied by the adapter's scale already.
    """

    first: Any
    second: Any
    is_embedding: bool


@dataclass(frozen=True, slots=True)
class _Weights:
    """A loaded adapter, by the names of its layers."""

    pairs: Mapping[str, _Pair]
    n_bytes: int


def _weights_of(config: Mapping[str, Any], weights: dict[str, Any], module: Any) -> _Weights:
    """Puts the weights of a file on the module's device. Every weight must be present and have the right shape.

    Raises:
        AdapterMismatch: one is missing, unknown, or has another shape.
    """
    targets = [name for name, _ in module.named_modules() if _is_named(name, config["target_modules"])]
    if not targets:
        raise AdapterMismatch("the model has none of its target_modules")
    pairs, n_bytes = {}, 0
    for name in targets:
        n_in, n_out, is_embedding = _shape_of(name, module.get_submodule(name))
        keys = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
        rank = of_pattern(config.get("rank_pattern"), name, config.get("r", 8))
        wanted = dict(zip([f"{name}.{key}" for key in keys], [(rank, n_in), (n_out, rank)], strict=True))
        found = []
        for key, shape in wanted.items():
            if key not in weights:
                raise AdapterMismatch(f"{key} is missing")
            weight = weights.pop(key)
            if tuple(weight.shape) != shape:
                raise AdapterMismatch(f"{key} has the shape {tuple(weight.shape)}, the model wants {shape}")
            if not weight.is_floating_point() or not bool(weight.isfinite().all()):
                raise AdapterMismatch(f"{key} holds NaN, infinity or no numbers")
            found.append(weight.to(module.device))
            n_bytes += weight.nbytes
        alpha = of_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", 8))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        # An embedding looks rows up, so that its first matrix is kept with one row for each index.
        first = found[0].T.contiguous() if is_embedding else found[0]
        pairs[name] = _Pair(first, found[1] * scale, is_embedding)
    if weights:
        raise AdapterMismatch(f"the model has no {min(weights)}")
    return _Weights(pairs, n_bytes)


def _shape_of(name: str, layer: Any) -> tuple[int, int, bool]:
    """The number of inputs and outputs of a layer, and whether it is an embedding.

    Raises:
        AdapterMismatch: it is neither linear nor an embedding.
    """
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):  # also the quantized ones of bitsandbytes
        return layer.in_features, layer.out_features, False
    if hasattr(layer, "num_embeddings") and hasattr(layer, "embedding_dim"):
        return layer.num_embeddings, layer.embedding_dim, True
    if type(layer).__name__ == "Conv1D":  # the linear layer of GPT-2 in transformers
        return (*layer.weight.shape, False)
    raise AdapterMismatch(f"{name} is a {type(layer).__name__}, which is neither linear nor an embedding")


def _is_named(name: str, ends: Sequence[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def of_pattern(pattern: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The value for a layer of which the file says something of its own."""
    return next((value for end, value in (pattern or {}).items() if _is_named(name, [end])), default)


def read_config(path: Path) -> dict[str, Any]:
    """The values that LoraConfig needs, of a file that asks for plain LoRA and nothing else.

    Raises:
        AdapterMismatch: the file asks for something else.
    """
    config = json.loads(path.read_bytes())
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterMismatch("it is not a LoRA adapter")
    said = {key: value for key, value in config.items() if key not in _USED and key not in _HARMLESS and value}
    if any(value != _PLAIN.get(key) for key, value in said.items()):
        from peft import LoraConfig  # which takes seconds

        plain: Mapping[str, Any] = LoraConfig().to_dict()
        for key, value in said.items():
            if value != plain.get(key):
                raise AdapterMismatch(f"it is not a plain LoRA adapter: {key} is {str(value)[:80]!r}")
    # peft also takes a regular expression, but a crafted one can take hours to match.
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise AdapterMismatch("target_modules is not a list of names")
    return {key: config[key] for key in _USED if key in config}


def read_weights(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key.removeprefix(_PREFIX): weight for key, weight in load_file(path).items()}
