"""Loading the weights of a transformers network: what a folder claims is built within bounds, and the weights are ours.

A configuration can name anything, so `models.json_files` cannot know every number that decides how much is built. Here
torch itself tells of each layer and each weight while a network is built, and too much of either ends the load.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from smallai_assistant.errors import ModelInvalid
from smallai_assistant.models.files import read_safetensors_header

# Layers (modules of torch) that may be built: quantization builds most of them twice, a stored weight belongs to about
# one layer, and activations or dropouts have none. 4,096 take a fifth of a second.
_MODULES_PER_TENSOR, _FREE_MODULES = 16, 4_096
# Weights that may be announced: a checkpoint may pack eight of them into one number, and quantization announces them
# twice. The free ones are for masks and tables of positions, which are not stored.
_WEIGHTS_PER_STORED, _FREE_WEIGHTS = 32, 2**24


@dataclass(slots=True)
class _Budget:
    """What may still be built on a thread."""

    name: str
    n_modules: int
    n_weights: int

    def take(self, n_modules: int, n_weights: int) -> None:
        self.n_modules -= n_modules
        self.n_weights -= n_weights
        if self.n_modules < 0 or self.n_weights < 0:
            raise ModelInvalid(
                f"{self.name}: its configuration claims far more than its weights hold", hint="get the model again"
            )


_ON_THREAD = threading.local()


@contextmanager
def bounded_building(folder: Path) -> Iterator[None]:
    """Ends the block with an error if it builds a network that the weights in `folder` cannot fill.

    Raises:
        ModelInvalid: as said; or a safetensors file is malformed.
    """
    _watch_torch()
    headers = [read_safetensors_header(path) for path in folder.glob("*.safetensors")]
    n_tensors = sum(len(header) for header in headers)
    n_stored = sum(prod(tensor["shape"]) for header in headers for tensor in header.values())
    _ON_THREAD.budget = _Budget(
        folder.name,
        n_modules=_FREE_MODULES + _MODULES_PER_TENSOR * n_tensors,
        n_weights=_FREE_WEIGHTS + _WEIGHTS_PER_STORED * n_stored,
    )
    try:
        yield
    finally:
        _ON_THREAD.budget = None


def own_weights(network: Any) -> None:
    """Copies weights that are mapped from a file into memory of our own, one after the other.

    safetensors maps files on the CPU. A file that is then overwritten would change a model that serves, and one that is
    cut short would end the process.
    """
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.device.type == "cpu" and getattr(tensor.untyped_storage(), "filename", None) is not None:
            tensor.data = tensor.data.clone()


@functools.cache
def _watch_torch() -> None:
    """Asks torch, once in this process, to tell of what is built. Threads without a budget pay one look-up a layer."""
    from torch.nn.modules import module as torch_module

    def on_module(_parent: Any, _name: str, _module: Any) -> None:
        if (budget := getattr(_ON_THREAD, "budget", None)) is not None:
            budget.take(1, 0)

    def on_tensor(_module: Any, _name: str, tensor: Any) -> None:
        # "meta": announced, not stored. What is read from a file afterwards was bounded by its header.
        budget = getattr(_ON_THREAD, "budget", None)
        if budget is not None and tensor is not None and tensor.device.type == "meta":
            budget.take(0, tensor.numel())

    torch_module.register_module_module_registration_hook(on_module)
    torch_module.register_module_parameter_registration_hook(on_tensor)
    torch_module.register_module_buffer_registration_hook(on_tensor)
