"""Breaks between the layers of a network in training, so that an answer waits for a layer and not for a whole step.

A step of training takes a second on two cores, and an answer that begins meanwhile shares the cores with it. Between
two layers, forward and backward, the training can stand still until the answer is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def breaks_between_layers(model: Any, take_break: Callable[[], None]) -> Iterator[None]:
    """Calls `take_break` before each layer of a transformers model computes, and before each computes its gradients.

    What it raises ends the step. A model that does not name its layers gets no breaks.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())  # the classes of layers, which stay on one device

    def before(*_: Any) -> None:
        take_break()

    def after(_module: Any, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(before)  # called with the gradient that the layer's backward pass begins with

    hooks = [
        hook
        for module in model.modules()
        if type(module).__name__ in names
        for hook in (module.register_forward_pre_hook(before), module.register_forward_hook(after))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
