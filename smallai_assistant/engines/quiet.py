"""Keeps the libraries' bars and remarks off the screen while a model loads: progress is reported by the engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# What bitsandbytes says at its import, of kernels on a hub, and at every layer of every token, of int8 in float16.
_REMARKS = {
    "bitsandbytes.backends.cpu.ops": "kernels-community",
    "bitsandbytes.autograd._functions": "inputs will be cast",
}


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return _REMARKS[record.name] not in record.getMessage()


for _name in _REMARKS:
    logging.getLogger(_name).addFilter(_is_worth_saying)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """transformers draws bars and bitsandbytes warns: we report progress ourselves."""
    from transformers.utils import logging as transformers_logging

    noisy = logging.getLogger("bitsandbytes")
    level = noisy.level
    was_on = transformers_logging.is_progress_bar_enabled()
    noisy.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        noisy.setLevel(level)
        if was_on:
            transformers_logging.enable_progress_bar()
