"""Which adapter serves each task, with its files checked before this process serves it."""

from __future__ import annotations

import logging

from smallai_assistant.errors import IntegrityError, InvalidInput
from smallai_assistant.feedback import Adapter
from smallai_assistant.learning.adapter_store import AdapterStore

log = logging.getLogger(__name__)


class ServingAdapters:
    """Finds the champion of a task. Thread-safe.

    The files of an adapter are compared with their hashes once in a process: a version never changes on disk, and
    hashing some hundred megabytes before every answer would hold up each of them.
    """

    def __init__(self, adapters: AdapterStore) -> None:
        self._adapters = adapters
        self._verified: dict[str, Adapter] = {}

    def champion(self, task: str) -> Adapter | None:
        """Returns the adapter that serves; None for the bare base.

        A damaged champion is moved away, and the version before it serves; the log of the registry says so.
        """
        # The id is read from the database every time, because another process may have moved the champion.
        while (adapter_id := self._adapters.champion_id(task)) is not None:
            if adapter_id in self._verified:
                return self._verified[adapter_id]
            try:
                self._adapters.verify(adapter_id)
                adapter = self._verified[adapter_id] = self._adapters.get(adapter_id)
                return adapter
            except (IntegrityError, InvalidInput) as error:  # InvalidInput: it was removed since its id was read
                log.error("the champion of %s is damaged and the one before it serves: %s", task, error)
                previous = self._adapters.previous_id(task)
                self._adapters.move_away(task, adapter_id, to=previous, reason=f"damaged: {error.message}")
        return None
