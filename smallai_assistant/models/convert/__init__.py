"""Converts the files that are pulled to the files that are served: once, in a child process."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from smallai_assistant.models.child_process import Limits, run_module

# The format of the catalogue and the module for it. Each module has `convert(source, target)`, which fills a folder.
_MODULES = {"gguf": "gguf", "ct2-whisper": "whisper_ct2", "efficientnet-lite": "efficientnet"}

# What a conversion may take, by the size of its files. Imports take 5 s and 0.5 GB; 4-bit weights become 16 times as
# large at 32 bits, and a gigabyte of them takes up to two minutes.
_CPU_S, _CPU_S_PER_MB = 60, 0.5
_MEMORY_BYTES, _MEMORY_PER_BYTE, _STACK_BYTES = 2 * 2**30, 20, 16 * 2**20  # torch starts a thread for each processor


def needs_conversion(model_format: str) -> bool:
    """Whether files of this catalogue format are served in another format."""
    return model_format in _MODULES


def is_served(model_format: str) -> bool:
    """Whether files of this catalogue format are served as they are, by one of the engines at least."""
    return model_format == "gguf" or not needs_conversion(model_format)


def convert(model_format: str, source: Path, target: Path, *, cancel: threading.Event | None = None) -> None:
    """Converts the files in the folder `source` into the empty folder `target`.

    It runs in a child process: a hostile file can at worst crash the child, and the memory of a conversion, several GB,
    returns to the system.

    Raises:
        ModelInvalid: a file is cut short, malformed, of another kind of model, or takes too long.
        UnsafeModelFormat: a file is in a format that can run code, and not the pinned file.
        StoreFull: the disk is full.
        OutOfMemory: there is not enough memory.
        Cancelled: `cancel` was set.
    """
    n_bytes = sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    n_threads = os.cpu_count() or 1
    limits = Limits(
        cpu_s=_CPU_S + int(_CPU_S_PER_MB * n_bytes / 2**20),
        n_bytes=_MEMORY_BYTES + _STACK_BYTES * n_threads + _MEMORY_PER_BYTE * n_bytes,
    )
    module = f"{__name__}.__main__"
    arguments = [_MODULES[model_format], str(source), str(target)]
    run_module(module, arguments, cancel=cancel or threading.Event(), limits=limits)


def convert_here(arguments: Sequence[str]) -> None:
    """Converts in this process, which is the child; `arguments` are the module, the source and the target."""
    name, source, target = arguments
    # A file may name kernels or tokenizers of a hub, and transformers would fetch them.
    os.environ["HF_HUB_OFFLINE"] = "1"
    importlib.import_module(f"{__name__}.{name}").convert(Path(source), Path(target))
