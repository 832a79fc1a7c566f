"""Keeps progress bars and warnings of libraries off the screen while a model loads; the engine reports progress."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Logger -> a part of the message to drop. bitsandbytes advertises kernels on a hub when it is imported. With int8, it
# warns about a cast to float16 in every layer at every token.
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
    """Silences the progress bars of transformers and the warnings of bitsandbytes in the block."""
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
