"""Where a plugin writes."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_CREATES = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}
_HOST, _STDLIB = str(Path(__file__).parents[1]) + os.sep, str(Path(os.__file__).parent)
_KIT = str(Path(__file__).parent) + os.sep
_CALLERS = {
    _HOST + name
    for name in ("assistant.py", "plugin_manager.py", "answering.py", "judging.py", "cycle.py", "promotion.py")
}
_listeners: list[set[str]] = []


@contextlib.contextmanager
def watched_writes() -> Iterator[set[str]]:
    """Collects the paths that plugins create or open for writing."""
    _add_audit_hook()
    paths: set[str] = set()
    _listeners.append(paths)
    try:
        yield paths
    finally:
        _listeners.remove(paths)


@functools.cache  # an audit hook stays for the life of the process: one, for whoever listens
def _add_audit_hook() -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if _listeners and (is_write or event in _CREATES):
            path = arguments[_CREATES.get(event, 0)]
            if (
                isinstance(path, str | bytes | os.PathLike)
                and path not in ("", ":memory:")
                and _is_by_plugin(sys._getframe(1))
            ):
                for paths in _listeners:
                    paths.add(os.path.realpath(os.fsdecode(path)))

    sys.addaudithook(hear)


def _is_by_plugin(frame: FrameType | None) -> bool:
    """Whether the host called something of a plugin that did it; not the host, and not the import of a library."""
    is_foreign = False
    while frame is not None and not (file := frame.f_code.co_filename).startswith("<frozen importlib"):
        if file.startswith(_HOST):
            return is_foreign and (file in _CALLERS or file.startswith(_KIT))
        is_foreign |= not file.startswith((_STDLIB, "<frozen")) or "-packages" in file
        frame = frame.f_back
    return False
