"""Damages a database as disks, other programs and earlier versions do."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path


def run_sql(path: Path, statement: str, *values: object) -> None:
    """Runs one statement without the checks of the program."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, values)
        connection.commit()


def overwrite_page(path: Path, marker: bytes) -> int:
    """Overwrites every page that holds `marker` with noise. Returns how many there were."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    data = path.read_bytes()
    pages = [data[start : start + size] for start in range(0, len(data), size)]
    n_found = sum(marker in page for page in pages)
    path.write_bytes(b"".join(b"\xa5" * size if marker in page else page for page in pages))
    return n_found


def files_with(folder: Path, *texts: bytes) -> list[str]:
    """The files below a folder that hold one of the texts."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(text in path.read_bytes() for text in texts)
    )
