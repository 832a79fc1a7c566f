"""Keeps the libraries' bars and remarks off the screen while a model loads: progress is reported by the engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def _is_of_use(record: logging.LogRecord) -> bool:
    """False for the advice to install kernels from a hub, which the first import of bitsandbytes logs."""
    return "kernels-community" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_of_use)


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
