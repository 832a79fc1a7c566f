"""Several LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on one base; each stream computes with its own.

Everything that touches the weights runs on the model's thread. An adapter is loaded beside the others under its own
name. It is dropped after it was retired and the last stream that uses it has ended. Weights are never overwritten in
place, and never merged into quantized ones.

peft makes the layers. Its loader is not used, because it fills missing weights with random numbers, and because a file
can ask it for more than LoRA, such as changes to the base weights.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smallai_assistant.errors import AdapterMismatch, OutOfMemory
from smallai_assistant.feedback import Adapter, AdapterPart
from smallai_assistant.models.boundary import is_out_of_memory

log = logging.getLogger(__name__)

# A turn may ask for the champion just before it is retired. That adapter is then loaded after its retirement, and
# nobody retires it a second time; this limit drops it in the end.
MAX_LOADED = 4
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
_PREFIX = "base_model.model."  # before every name in files of peft


class LoraAdapters:
    """The adapters of one loaded model.

    Args:
        module: a transformers model. No other code may load or activate adapters on it.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._n_streams: dict[AdapterPart, int] = {}
        self._retired: set[str] = set()  # adapter ids: all parts of an adapter are retired together
        # Part -> its name in the layers, the least recently used first. Only the model's thread touches it.
        self._loaded: dict[AdapterPart, str] = {}
        self._layers: list[tuple[Any, str, Any]] = []  # parent module, attribute name, LoRA layer
        self._n_made = 0
        self._active: str | None = None

    def begin(self, adapter: Adapter) -> None:
        """Counts a stream that starts to use the adapter. Call it from any thread."""
        with self._lock:
            self._retired.discard(adapter.id)
            self._n_streams[adapter.part] = self._n_streams.get(adapter.part, 0) + 1

    def retire(self, adapter_id: str) -> None:
        """Marks an adapter that no longer serves new answers; `drop_unused` drops it. Call it from any thread."""
        with self._lock:
            self._retired.add(adapter_id)

    def end(self, adapter: Adapter) -> None:
        """Counts a stream that has ended. Call it from any thread."""
        with self._lock:
            self._n_streams[adapter.part] -= 1
            if not self._n_streams[adapter.part]:
                del self._n_streams[adapter.part]

    def is_unknown(self, part: AdapterPart | None) -> bool:
        """Whether weights are neither in memory nor used by a stream. On the model's thread only."""
        with self._lock:
            return part is not None and part not in self._loaded and part not in self._n_streams

    def activate(self, part: AdapterPart | None) -> None:
        """Makes the next forward pass use these weights, or the bare base for None. On the model's thread only.

        Raises:
            AdapterMismatch: the weights do not fit the model.
            OutOfMemory: the device has no memory for them.
        """
        # This runs before every step of every stream. Usually the weights are loaded and active already.
        name = None
        if part is not None:
            name = self._loaded.pop(part, None) or self._load(part)
            self._loaded[part] = name  # put back at the end, as the most recently used
        if name != self._active:
            self._choose(name)

    def drop_unused(self) -> list[AdapterPart]:
        """Drops retired adapters without streams, and the oldest idle ones beyond `MAX_LOADED`. Returns their parts.

        On the model's thread only.
        """
        with self._lock:
            idle = [part for part in self._loaded if part not in self._n_streams]
            gone = [part for part in idle if part.adapter_id in self._retired]
            n_over = len(self._loaded) - len(gone) - MAX_LOADED
            gone += [part for part in idle if part.adapter_id not in self._retired][: max(0, n_over)]
            self._retired &= {part.adapter_id for part in self._n_streams}  # the others are dropped
        for part in gone:
            self._remove(self._loaded.pop(part))
        return gone

    def _load(self, part: AdapterPart) -> str:
        from peft import LoraConfig, inject_adapter_in_model

        name = f"v{self._n_made}"  # not the id: names of torch modules must not contain dots
        self._n_made += 1
        try:
            config = _read_config(part.folder / "adapter_config.json")
            weights = _read_weights(part.folder / "adapter_model.safetensors")
            lora = LoraConfig(**config, init_lora_weights=False, inference_mode=True)
            # On the meta device, so that a rank of a billion takes no memory before it is compared with the file.
            inject_adapter_in_model(lora, self._module, name, low_cpu_mem_usage=True)
            del self._module.peft_config  # nothing reads it, and peft warns about it at the next adapter
            self._layers = list(_lora_layers(self._module))
            self._fill(name, weights)
        except Exception as error:  # for files that do not fit, peft, torch and safetensors raise many types
            self._remove(name)
            if is_out_of_memory(error):
                raise OutOfMemory(f"there is no memory for the adapter {part}") from error
            message = error.message if isinstance(error, AdapterMismatch) else f"{type(error).__name__}: {error}"
            raise AdapterMismatch(f"{part} does not fit the model: {message}") from error
        except BaseException:
            self._remove(name)
            raise
        return name

    def _fill(self, name: str, weights: dict[str, Any]) -> None:
        """Puts the weights into the new layers. Every weight must be present and have the right shape."""
        import torch

        places = {
            place.replace(f".{name}", "", 1): (place, tuple(weight.shape))
            for place, weight in self._module.named_parameters()
            if f".{name}." in f"{place}."
        }
        if missing := sorted(places.keys() - weights.keys()):
            raise AdapterMismatch(f"{missing[0]} is missing")
        if unknown := sorted(weights.keys() - places.keys()):
            raise AdapterMismatch(f"the model has no {unknown[0]}")
        for key, (place, shape) in places.items():
            weight = weights[key]
            if tuple(weight.shape) != shape:
                raise AdapterMismatch(f"{key} has the shape {tuple(weight.shape)}, the model wants {shape}")
            if not weight.is_floating_point() or not bool(weight.isfinite().all()):
                raise AdapterMismatch(f"{key} holds NaN, infinity or no numbers")
            parent, _, leaf = place.rpartition(".")
            parameter = torch.nn.Parameter(weight.to(self._module.device), requires_grad=False)
            setattr(self._module.get_submodule(parent), leaf, parameter)

    def _choose(self, name: str | None) -> None:
        """Sets the active adapter of every layer, without recording gradients."""
        for _, _, layer in self._layers:
            layer.set_adapter([] if name is None else [name], inference_mode=True)
        self._active = name

    def _remove(self, name: str) -> None:
        """Takes an adapter out of the layers. When the last one is gone, the layers are those of the base again."""
        self._layers = list(_lora_layers(self._module))  # read again, because a failed load made only some of them
        self._choose(None)
        for parent, attribute, layer in self._layers:
            layer.delete_adapter(name)
            if not layer.lora_A and not layer.lora_embedding_A:
                setattr(parent, attribute, layer.get_base_layer())
        self._layers = list(_lora_layers(self._module))
        if hasattr(self._module, "peft_config"):
            del self._module.peft_config


def _lora_layers(module: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every LoRA layer of the module, with its parent module and the attribute that holds it."""
    from peft.tuners.lora import LoraLayer

    for parent in module.modules():
        for attribute, child in parent.named_children():
            if isinstance(child, LoraLayer):
                yield parent, attribute, child


def _read_config(path: Path) -> dict[str, Any]:
    """The values that LoraConfig needs, of a file that asks for plain LoRA and nothing else.

    Raises:
        AdapterMismatch: the file asks for something else.
    """
    from peft import LoraConfig

    config = json.loads(path.read_bytes())
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterMismatch("it is not a LoRA adapter")
    plain: Mapping[str, Any] = LoraConfig().to_dict()
    for key, value in config.items():
        if key not in _USED and key not in _HARMLESS and value and value != plain.get(key):
            raise AdapterMismatch(f"it is not a plain LoRA adapter: {key} is {str(value)[:80]!r}")
    # peft also takes a regular expression, but a crafted one can take hours to match.
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise AdapterMismatch("target_modules is not a list of names")
    return {key: config[key] for key in _USED if key in config}


def _read_weights(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key.removeprefix(_PREFIX): weight for key, weight in load_file(path).items()}
