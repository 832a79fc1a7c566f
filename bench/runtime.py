"""Whether memory comes back: 200 cycles of loading and evicting a tiny model, `python -m bench.runtime`.

The model is a seeded Llama of 7 MB. Each cycle leases it, makes four tokens and drops it. The first 20 cycles fill what
libraries allocate once; growth is that of the resident memory from there to the end.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_text import save_tiny_llama

from smallai_assistant import GenerationOptions, ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.models.catalog import Catalog

N_CYCLES, N_WARM = 200, 20
MAX_GROWTH = 0.05


def resident_mb() -> float:
    """Resident memory of this process."""
    return float(psutil.Process().memory_info().rss) / 2**20


def cycle(models: ModelRuntime, spec: ModelSpec) -> None:
    """Load, use, evict."""
    with models.lease(spec, TextModel) as model:
        list(model.generate([{"role": "user", "content": "hello"}], GenerationOptions(max_tokens=4)))
    del model
    if not models.unload(spec):
        raise SystemExit("the model was not dropped")


def main() -> None:
    """Prints the course and the JSON line; exits 1 where memory grew too much."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_tiny_llama(Path(folder) / "tiny", hidden=512)
        models = ModelRuntime(Catalog(Path(folder)), [TransformersEngine()], device="cpu")
        spec = ModelSpec(str(path), task="text-generation", dtype="float32")
        course = []
        for number in range(1, N_CYCLES + 1):
            cycle(models, spec)
            if number % N_WARM == 0:
                course.append(round(resident_mb(), 1))
                print(f"after {number:3} cycles {course[-1]:8.1f} MB")
        models.close()
    growth = course[-1] / course[0] - 1
    print(f"growth {growth:.2%}   (at most {MAX_GROWTH:.0%})")
    print(json.dumps({"bench": "runtime", "resident_mb": course, "growth": round(growth, 4)}))
    if growth > MAX_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
