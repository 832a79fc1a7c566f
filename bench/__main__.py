"""Runs a bench and keeps its figures: `python -m bench NAME [OPTION ...]` writes `bench/results/NAME.json`.

The file holds the JSON line that the bench printed, and what it was measured on, so that the tables of the
documentation come from results and not from memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
_PACKAGES = ("torch", "transformers", "bitsandbytes", "peft", "trl", "sentence-transformers", "openai-whisper")


def machine() -> dict[str, Any]:
    """What the figures were measured on, without anything that names the machine."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"n_cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version(), **versions}


def main() -> int:
    """Runs the bench as a child, passes its output on, and stores its last JSON line. Returns its exit code."""
    if len(sys.argv) < 2 or not Path(__file__).with_name(f"{sys.argv[1]}.py").is_file():
        names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
        print(f"usage: python -m bench NAME [OPTION ...], NAME one of {', '.join(names)}", file=sys.stderr)
        return 2
    name, *options = sys.argv[1:]
    figures = None
    with subprocess.Popen(
        [sys.executable, "-m", f"bench.{name}", *options], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            if line.startswith("{"):
                figures = json.loads(line)
    if figures is not None:
        RESULTS.mkdir(exist_ok=True)
        now = datetime.now(UTC).date().isoformat()
        kept = {"command": " ".join([name, *options]), "on": now, "machine": machine(), "figures": figures}
        (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return child.returncode


if __name__ == "__main__":
    raise SystemExit(main())
