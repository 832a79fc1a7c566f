"""Adapters that tests register and damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smallai_assistant import Adapter
from smallai_assistant.learning.adapter_store import AdapterStore

TASK = "text-generation"
BASE = {"model": "tiny", "sha256": "00"}


def add(
    store: AdapterStore,
    content: str = "x",
    *,
    status: str | None = "approved",
    task: str = TASK,
    ids: Sequence[str] = (),
) -> Adapter:
    """Registers an adapter of two files, one of them in a subfolder.

    Args:
        status: the gate's decision; None leaves it unjudged.
    """
    with store.work_folder() as work:
        (work / "deep").mkdir()
        (work / "deep" / "weights.bin").write_text(content)
        (work / "config.json").write_text("{}")
        made = store.add(work, task=task, kind="lora", base=BASE, feedback_ids=ids)
    return made if status is None else store.judge(made.id, status, {"reasons": ["worse"]})  # type: ignore[arg-type]


def flip_a_bit(path: Path) -> None:
    """Damages a file without changing its size."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
