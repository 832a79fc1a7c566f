"""`bench.decode` on CUDA, and the memory that comes back after an eviction: `python -m bench.gpu_decode`."""

from __future__ import annotations

import sys

from bench import decode


def main() -> None:
    """Exits 2 where there is no CUDA, 1 where memory is not given back or a figure is missed."""
    import torch

    if not torch.cuda.is_available():
        print("this needs CUDA, and torch sees no such device", file=sys.stderr)
        raise SystemExit(2)
    print(torch.cuda.get_device_name())
    sys.argv[1:] = ["--device", "cuda"]
    try:
        decode.main()
    finally:
        left = torch.cuda.memory_allocated() / 2**20
        print(f"{left:.1f} MB are still allocated after everything was dropped   (at most 32: the workspace of cuBLAS)")
    if left > 32:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
