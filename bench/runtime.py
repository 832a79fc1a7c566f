"""Measures whether evicted models free their memory: `python -m bench.runtime`.

The model is a seeded Llama of 7 MB. Each of 200 cycles leases it, generates four tokens and drops it. Libraries
allocate some memory once, so the growth is measured from the 20th cycle to the last.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the tiny model is that of the tests

from support.tiny_text import save_tiny_llama

from smallai_assistant import GenerationOptions, ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.models.catalog import Catalog

N_CYCLES, N_WARM = 200, 20
MAX_GROWTH = 0.05


def resident_mb() -> float:
    """The resident memory of this process, in units of 2**20 bytes."""
    return float(psutil.Process().memory_info().rss) / 2**20


def cycle(models: ModelRuntime, spec: ModelSpec) -> None:
    """Loads, uses and evicts the model once."""
    with models.lease(spec, TextModel) as model:
        list(model.generate([{"role": "user", "content": "hello"}], GenerationOptions(max_tokens=4)))
    del model  # this frame would keep the weights alive
    if not models.unload(spec):
        raise SystemExit("the model was not dropped")


def main() -> None:
    """Prints the memory over time and the JSON line. Exits with 1 if it grew too much."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_tiny_llama(Path(folder) / "tiny", hidden=512)
        models = ModelRuntime(Catalog(Path(folder)), [TransformersEngine()], device="cpu")
        spec = ModelSpec(str(path), task="text-generation", dtype="float32")
        history = []
        for number in range(1, N_CYCLES + 1):
            cycle(models, spec)
            if number % N_WARM == 0:
                history.append(round(resident_mb(), 1))
                print(f"after {number:3} cycles {history[-1]:8.1f} MB")
        models.close()
    growth = history[-1] / history[0] - 1
    print(f"growth {growth:.2%}   (at most {MAX_GROWTH:.0%})")
    print(json.dumps({"bench": "runtime", "resident_mb": history, "growth": round(growth, 4)}))
    if growth > MAX_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
