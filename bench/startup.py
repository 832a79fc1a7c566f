"""Time to import the package and to start the command: `python -m bench.startup`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

N_RUNS = 7
MAX_IMPORT_S, MAX_HELP_S = 0.3, 0.5
# It also fails if torch is imported, which alone takes seconds.
IMPORT = "import smallai_assistant, sys; sys.exit('torch' in sys.modules)"


def seconds(command: list[str]) -> float:
    """Median wall time of `N_RUNS` runs in s, after one run that warms the file cache.

    Raises:
        CalledProcessError: a run failed.
    """
    times = []
    for _ in range(N_RUNS + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def main() -> None:
    """Prints the table and the JSON line. Exits with 1 if a figure is missed."""
    smallai = str(Path(sys.executable).with_name("smallai"))
    # Subtracted from the import: the start of Python itself differs between machines and is not ours.
    bare = seconds([sys.executable, "-c", "pass"])
    figures = {
        "python_s": round(bare, 3),
        "import_s": round(seconds([sys.executable, "-c", IMPORT]) - bare, 3),
        "help_s": round(seconds([smallai, "--help"]), 3),
    }
    print(f"{'an empty Python':32} {figures['python_s']:.3f} s")
    print(f"{'import smallai_assistant, beyond':32} {figures['import_s']:.3f} s   (at most {MAX_IMPORT_S})")
    print(f"{'smallai --help, in total':32} {figures['help_s']:.3f} s   (at most {MAX_HELP_S})")
    print(json.dumps({"bench": "startup", **figures}))
    if figures["import_s"] > MAX_IMPORT_S or figures["help_s"] > MAX_HELP_S:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
