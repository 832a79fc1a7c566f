"""The device, and how torch's threads wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPENED = """
import os, sys
from pathlib import Path
from smallai_assistant import ModelRuntime
from smallai_assistant.models.catalog import Catalog
ModelRuntime(Catalog(Path(sys.argv[1])), [], device="cpu").close()
assert "torch" not in sys.modules
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "1000 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
    ],
)
def test_threads_spin_shortly_unless_somebody_decided_otherwise(
    tmp_path: Path, given: dict[str, str], wanted: str
) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path)], env=plain | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == wanted
