"""From the files that are pulled to the files that are served, once, in a process of its own."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from smallai_assistant.models.child_process import run_module

# Each module has `convert(source, target)`, which fills a folder.
_MODULES = {"gguf": "gguf", "ct2-whisper": "whisper_ct2", "efficientnet-lite": "efficientnet"}


def needs_conversion(model_format: str) -> bool:
    """Whether files of this catalogue format are served in another one."""
    return model_format in _MODULES


def convert(model_format: str, source: Path, target: Path, *, cancel: threading.Event | None = None) -> None:
    """Converts the files in the folder `source` into the empty folder `target`.

    A hostile file can at worst crash the child, and the memory that a conversion takes is given back.

    Raises:
        ModelInvalid: a file is cut short, malformed or of another model.
        UnsafeModelFormat: a file that can run code is not the pinned one.
        StoreFull: the disk is full.
        OutOfMemory: there is not enough memory.
        Cancelled: `cancel` was set.
    """
    module = f"{__name__}.__main__"
    run_module(module, [_MODULES[model_format], str(source), str(target)], cancel=cancel or threading.Event())


def convert_here(arguments: Sequence[str]) -> None:
    """What the child does: module name, source, target."""
    name, source, target = arguments
    os.environ["HF_HUB_OFFLINE"] = "1"  # a file may name kernels or tokenizers of a hub; a conversion needs no network
    importlib.import_module(f"{__name__}.{name}").convert(Path(source), Path(target))
