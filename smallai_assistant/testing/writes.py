"""Records the paths that a plugin writes to."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from smallai_assistant import assistant, plugin_manager
from smallai_assistant.conversation import turn_runner
from smallai_assistant.foreign import calls, imports, observers
from smallai_assistant.learning import fast_memory, feedback_service, learner, preparation, promotion

# Audit events that create a file -> which of their arguments is its path.
_CREATES = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}
_HOST, _STDLIB = str(Path(__file__).parents[1]) + os.sep, str(Path(os.__file__).parent)
_KIT = str(Path(__file__).parent) + os.sep
# The modules of the host that call code of a plugin. A write below any other module is the host's own.
_CALLERS = {
    str(module.__file__)
    for module in (
        assistant,
        plugin_manager,
        turn_runner,
        calls,
        imports,
        observers,
        fast_memory,
        feedback_service,
        preparation,
        learner,
        promotion,
    )
}
_listeners: list[set[str]] = []


@contextlib.contextmanager
def watched_writes() -> Iterator[set[str]]:
    """Collects, in a block, the real paths that plugins create or open for writing, on any thread."""
    _add_audit_hook()
    paths: set[str] = set()
    _listeners.append(paths)
    try:
        yield paths
    finally:
        _listeners.remove(paths)


@functools.cache  # an audit hook cannot be removed, so there is one for all listeners
def _add_audit_hook() -> None:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        # This runs for every audited event of the process, so the cheap test comes first.
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
    """Whether a plugin, called by the host, did it; not the host itself, and not the import of a library.

    Walks up the stack to the first frame of the host, and looks whether foreign code lies below it.
    """
    is_foreign = False
    while frame is not None and not (file := frame.f_code.co_filename).startswith("<frozen importlib"):
        if file.startswith(_HOST):
            return is_foreign and (file in _CALLERS or file.startswith(_KIT))
        is_foreign |= not file.startswith((_STDLIB, "<frozen")) or "-packages" in file
        frame = frame.f_back
    return False
