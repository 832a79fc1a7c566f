"""Runs `bench.decode` on CUDA: `python -m bench.gpu_decode`.

It also measures the memory that is left after all models are dropped.
"""

from __future__ import annotations

import sys

from bench import decode

MAX_LEFT_MB = 32  # cuBLAS keeps its workspace


def main() -> None:
    """Exits with 2 if there is no CUDA device, and with 1 if memory is left or a figure is missed."""
    import torch

    if not torch.cuda.is_available():
        print("this bench needs CUDA, and torch sees no CUDA device", file=sys.stderr)
        raise SystemExit(2)
    print(torch.cuda.get_device_name())
    sys.argv[1:] = ["--device", "cuda"]
    try:
        decode.main()
    finally:
        left = torch.cuda.memory_allocated() / 2**20
        print(f"{left:.1f} MB are left after all models were dropped   (at most {MAX_LEFT_MB})")
    if left > MAX_LEFT_MB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
