"""Which adapter serves whom, with its files checked before this process serves it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smallai_assistant.errors import IntegrityError, InvalidInput
from smallai_assistant.feedback import Adapter, chain_of
from smallai_assistant.learning.adapter_files import MANIFEST, damaged
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.audience_words import below, option_for
from smallai_assistant.types import Notice
from smallai_assistant.validation import EVERYONE

log = logging.getLogger(__name__)

# Versions whose files were checked, those of the people who asked last: each has its report in memory, some dozen KB.
_MAX_VERIFIED = 256
_NEVER = object()

# Of each file: its size, the time of its last change, and its number in the file system.
_Signature = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class _Verified:
    adapter: Adapter
    signature: _Signature


class ServingAdapters:
    """Finds the champions of a task. Thread-safe.

    Versions on the disk cost nothing until somebody asks whom they serve: one indexed read names all champions of an
    asker. The files of an adapter are compared with their hashes at its first use, and again if the file system says
    that one of them was touched: hashing some hundred megabytes before every answer would hold up each of them.
    """

    def __init__(self, adapters: AdapterStore) -> None:
        self._adapters = adapters
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        self._lock = threading.Lock()
        # By task and audience, as all below: what was looked up for the champion with that id.
        self._notices: dict[tuple[str, str], Notice] = {}
        self._looked_up: dict[tuple[str, str], str | None] = {}
        self._on_this_thread = threading.local()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Lets the bare base serve this thread."""
        self._on_this_thread.is_bare = True
        try:
            yield
        finally:
            self._on_this_thread.is_bare = False

    def champion(self, task: str, audiences: Collection[str] = (EVERYONE,)) -> Adapter | None:
        """Returns the adapter that serves the most personal of these audiences, over the others; None for the base.

        A damaged champion is moved away, and the version before it serves: `notices` says so at every answer, and the
        log of the registry, until somebody promotes, rolls back, or learns.
        """
        if getattr(self._on_this_thread, "is_bare", False) or not audiences:
            return None
        # The ids are read from the database every time, because another process may have moved a champion.
        while (found := self._chain(task, self._adapters.champion_ids(task, audiences))) is None:
            pass  # a damaged champion was moved away
        return chain_of(found)

    def _chain(self, task: str, ids: Mapping[str, str | None]) -> list[Adapter] | None:
        """Returns the checked champions. None if one is damaged: the version before it serves from now on."""
        found = []
        for audience, adapter_id in ids.items():
            if audience != EVERYONE and self._looked_up.get((task, audience), _NEVER) != adapter_id:
                self.look_up(task, audience)
            if adapter_id is None:
                continue
            try:
                found.append(self._checked(adapter_id))
            except (IntegrityError, InvalidInput) as error:  # InvalidInput: it was removed since its id was read
                log.error("a champion of %s is damaged and the one before it serves: %s", task, error)
                with self._lock:
                    self._verified.pop(adapter_id, None)
                previous = self._adapters.previous_id(task, audience)
                reason = f"damaged: {error.message}"
                self._adapters.move_away(task, adapter_id, to=previous, reason=reason, audience=audience)
                self.look_up(task, audience)
                return None
        return found

    def retired_ids(self, task: str) -> Mapping[str, frozenset[str]]:
        """Returns the feedback that the champions answer by themselves, by the audience that they serve."""
        return {} if getattr(self._on_this_thread, "is_bare", False) else self._adapters.retired_ids(task)

    def notices(self, task: str, audiences: Collection[str] = (EVERYONE,)) -> tuple[Notice, ...]:
        """What an asker should know about the versions that serve, as far as this process has looked it up."""
        return tuple(self._notices[task, name] for name in sorted(audiences) if (task, name) in self._notices)

    def look_up(self, task: str, audience: str = EVERYONE) -> None:
        """Reads why the present version serves. A process calls it when the champions may have been moved."""
        if audience == EVERYONE:  # those of the others are looked up again when they ask
            self._looked_up = {key: found for key, found in self._looked_up.items() if key[0] != task}
        last = self._adapters.last_move(task, audience)
        self._looked_up[task, audience] = last["adapter_id"] if last is not None else None
        if last is None or last["kind"] != "damaged":
            self._notices.pop((task, audience), None)
            return
        serves = last["adapter_id"] or below(audience)
        self._notices[task, audience] = Notice(
            "adapter_damaged",
            f"{last['previous_id']} is {last['reason']}. {serves} answers instead; learn again, or choose with "
            f"`smallai adapters rollback {task}{option_for(audience)} --to {last['adapter_id'] or 'none'}`.",
        )

    def _checked(self, adapter_id: str) -> Adapter:
        with self._lock:
            known = self._verified.get(adapter_id)
            if known is not None:
                self._verified.move_to_end(adapter_id)
        if known is not None and _signature(known.adapter) == known.signature:
            return known.adapter
        # The signature first: a change while the files are hashed is then seen by the next call.
        adapter = self._adapters.get(adapter_id)
        signature = _signature(adapter)
        self._adapters.verify(adapter_id)
        with self._lock:
            self._verified[adapter_id] = _Verified(adapter, signature)
            while len(self._verified) > _MAX_VERIFIED:
                self._verified.popitem(last=False)
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
