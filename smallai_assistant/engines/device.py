"""The device: which one to use, how much memory it has, and how to give memory back."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from smallai_assistant.errors import ConfigError
from smallai_assistant.types import Notice

_CGROUP = Path("/sys/fs/cgroup")  # where Linux shows a container its own limits


# How the drivers of GPUs that torch can use appear on Linux: NVIDIA's, its small boards', WSL's, and AMD's.
_DRIVERS = ("nvidia[0-9c]*", "nvhost-gpu", "dxg", "kfd")
_CPU_FALLBACK = Notice("cpu_fallback", "No CUDA device was found: models run on the CPU, which is slower.")


# Turns that a waiting thread of GNU's OpenMP library spins before it sleeps, chosen in docs/decisions.md, 44. Its own
# 300,000 take half of the speed beside one busy program; none at all takes a third of it on an idle machine.
_SPIN_COUNT = "1000"


def choose_device(wanted: str) -> tuple[str, Notice | None]:
    """Chooses the device.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        A torch device string, and a notice if `auto` fell back to the CPU.

    Raises:
        ConfigError: torch does not see the CUDA device that was named.
    """
    if wanted == "cpu" or (wanted == "auto" and not _may_have_gpu()):
        # Before torch is imported, which takes seconds.
        return "cpu", _CPU_FALLBACK if wanted == "auto" else None
    import torch

    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        if n_devices:
            return "cuda:0", None
        return "cpu", _CPU_FALLBACK
    index = int(wanted.partition(":")[2] or 0)
    if index >= n_devices:
        seen = f"{n_devices} CUDA devices" if n_devices else "no CUDA device"
        raise ConfigError(f"device is {wanted!r}, and torch sees {seen}", hint="use device = 'auto' or 'cpu'")
    return f"cuda:{index}", None


def limit_spinning() -> None:
    """Lets the threads of torch spin only shortly while they wait for each other, and then sleep.

    It holds for GNU's OpenMP library if this process has not loaded it yet, and for children. Whoever has set one of
    the two variables decides.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def total_bytes(device: str) -> int:
    """The bytes of memory of the device. On the CPU it is at most the limit of the container."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    limit = _cgroup_limit()
    total = int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit)


def available_bytes(device: str) -> int:
    """The bytes of memory that can be allocated on the device now, including what torch has cached."""
    if device.startswith("cuda"):
        import torch

        unused = int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    available = int(psutil.virtual_memory().available)
    limit = _cgroup_limit()
    return available if limit is None else min(available, max(limit - _cgroup_use(), 0))


def give_back_memory(device: str) -> None:
    """Gives freed memory back to the device and to the operating system.

    Dropping the last reference is not enough: modules hold reference cycles, torch caches CUDA blocks, and glibc keeps
    the pages of freed arrays. `bench/runtime.py` measures that all three come back.
    """
    gc.collect()
    if device.startswith("cuda"):
        import torch

        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def _may_have_gpu() -> bool:
    """Whether torch might see a device. On Linux, none of the drivers' files says that it will not."""
    return sys.platform != "linux" or any(next(Path("/dev").glob(name), None) for name in _DRIVERS)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # no glibc: musl, macOS, Windows
        return None


def _cgroup_limit() -> int | None:
    """The memory limit of the container in bytes, None if it has none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup version 2, then version 1
        text = _read(_CGROUP / name)
        if text.isdigit() and int(text) < 2**60:  # version 1 writes a huge number for "no limit"
            return int(text)
    return None


def _cgroup_use() -> int:
    """The bytes that the container uses, without the file cache, which the kernel drops when memory is needed."""
    for use, stat, key in (
        ("memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        text = _read(_CGROUP / use)
        if text.isdigit():
            cached = [line.split()[1] for line in _read(_CGROUP / stat).splitlines() if line.startswith(f"{key} ")]
            return int(text) - int(cached[0] if cached else 0)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
