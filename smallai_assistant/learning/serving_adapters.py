"""Which adapter serves each task, with its files checked before this process serves it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smallai_assistant.errors import IntegrityError, InvalidInput
from smallai_assistant.feedback import Adapter
from smallai_assistant.learning.adapter_files import MANIFEST, damaged
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.types import Notice

log = logging.getLogger(__name__)

# Of each file: its size, the time of its last change, and its number in the file system.
_Signature = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class _Verified:
    adapter: Adapter
    signature: _Signature


class ServingAdapters:
    """Finds the champion of a task. Thread-safe.

    The files of an adapter are compared with their hashes at its first use, and again if the file system says that one
    of them was touched: hashing some hundred megabytes before every answer would hold up each of them.
    """

    def __init__(self, adapters: AdapterStore) -> None:
        self._adapters = adapters
        self._verified: dict[str, _Verified] = {}
        self._notices: dict[str, Notice] = {}
        self._on_this_thread = threading.local()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Lets the bare base serve this thread."""
        self._on_this_thread.is_bare = True
        try:
            yield
        finally:
            self._on_this_thread.is_bare = False

    def champion(self, task: str) -> Adapter | None:
        """Returns the adapter that serves; None for the bare base.

        A damaged champion is moved away, and the version before it serves: `notices` says so at every answer, and the
        log of the registry, until somebody promotes, rolls back, or learns.
        """
        if getattr(self._on_this_thread, "is_bare", False):
            return None
        # The id is read from the database every time, because another process may have moved the champion.
        while (adapter_id := self._adapters.champion_id(task)) is not None:
            try:
                return self._checked(adapter_id)
            except (IntegrityError, InvalidInput) as error:  # InvalidInput: it was removed since its id was read
                log.error("the champion of %s is damaged and the one before it serves: %s", task, error)
                self._verified.pop(adapter_id, None)
                previous = self._adapters.previous_id(task)
                self._adapters.move_away(task, adapter_id, to=previous, reason=f"damaged: {error.message}")
                self.look_up(task)
        return None

    def notices(self, task: str) -> tuple[Notice, ...]:
        """What the user should know about the version that serves, as far as this process has looked it up."""
        return (self._notices[task],) if task in self._notices else ()

    def look_up(self, task: str) -> None:
        """Reads why the present version serves. A process calls it when the champion may have been moved."""
        last = self._adapters.last_move(task)
        if last is None or last["kind"] != "damaged":
            self._notices.pop(task, None)
            return
        serves = last["adapter_id"] or "the bare model"
        self._notices[task] = Notice(
            "adapter_damaged",
            f"{last['previous_id']} is {last['reason']}. {serves} answers instead; learn again, or choose with "
            f"`smallai adapters rollback {task} --to {last['adapter_id'] or 'none'}`.",
        )

    def _checked(self, adapter_id: str) -> Adapter:
        known = self._verified.get(adapter_id)
        if known is not None and _signature(known.adapter) == known.signature:
            return known.adapter
        # The signature first: a change while the files are hashed is then seen by the next call.
        adapter = self._adapters.get(adapter_id)
        signature = _signature(adapter)
        self._adapters.verify(adapter_id)
        self._verified[adapter_id] = _Verified(adapter, signature)
        return adapter


def _signature(adapter: Adapter) -> _Signature:
    """What the file system says of an adapter's files.

    Raises:
        IntegrityError: one of them is gone.
    """
    found = {}
    for name in (*adapter.files, MANIFEST):
        path: Path = adapter.folder / name
        try:
            status = path.stat()
        except OSError as error:
            raise damaged(adapter.id, f"{name} is missing") from error
        found[name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found
