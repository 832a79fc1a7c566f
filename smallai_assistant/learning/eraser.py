"""Erases feedback, turns and conversations: from the database, the memory, the weights and the files, for good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from smallai_assistant.feedback import JudgedTurn
from smallai_assistant.learning.fast_memory import FastMemory
from smallai_assistant.learning.feedback_service import LearningStores
from smallai_assistant.learning.withdrawal import Withdrawn
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.storage.erasure import ErasedRows
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.repair import forget_set_aside
from smallai_assistant.storage.sqlite_file import HISTORY
from smallai_assistant.storage.typed_history import forget_typed
from smallai_assistant.types import Notice
from smallai_assistant.validation import EVERYONE, audience_of_user

_RECOMMENDATION = "recommendation"  # the task that learns from imported interactions, too


@dataclass(frozen=True, slots=True)
class Erased:
    """The result of an erasure.

    Attributes:
        feedback_ids: the feedback that was named, and all feedback on erased turns.
        turn_ids: the turns that were named, and taught turns whose last feedback went.
        adapter_ids: the adapters that learned from the rows, themselves or by the version that they began with, oldest
            first. They are gone: their files are deleted, and nothing lets them serve again.
        champions: those of them that served until now.
        serving: task -> the version that serves everyone instead; None for the bare base.
        audiences: adapter -> for whom it was, of those that were for one person or a group.
        n_media: pictures and recordings that were deleted.
        n_interactions: interactions with items that were deleted.
        backups: copies of the database that were deleted because they held the rows too, and files of a repair.
        notices: what is not done yet.
    """

    feedback_ids: tuple[str, ...]
    turn_ids: tuple[str, ...]
    adapter_ids: tuple[str, ...]
    champions: tuple[str, ...]
    serving: dict[str, str | None]
    audiences: dict[str, str] = field(default_factory=dict)
    n_media: int = 0
    n_interactions: int = 0
    backups: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


class Eraser:
    """Erases. Thread-safe.

    When a call has returned, no process uses what was erased for an answer that begins, no file of the data directory
    holds it, and no rollback brings it back.

    Args:
        data_dir: holds what people typed, and what a repair set aside.
    """

    def __init__(
        self, models: ModelRuntime, *, stores: LearningStores, items: ItemStore, memory: FastMemory, data_dir: Path
    ) -> None:
        self._models = models
        self._items = items
        self._turns, self._feedback, self._adapters = stores.turns, stores.feedback, stores.adapters
        self._cycles = stores.cycles
        self._memory = memory
        self._data_dir = data_dir

    def erase(self, feedback_ids: Iterable[str] = (), *, turn_ids: Iterable[str] = (), session_id: str = "") -> Erased:
        """Deletes feedback, and turns with all of their feedback.

        Args:
            session_id: the session of the turns, if all of it goes: rows of it that a repair set aside go as well.

        Raises:
            InvalidInput: an id is unknown; nothing was erased.
            StoreError: the database failed; nothing was erased, or the next start deletes the rest of the files.
        """
        self._turns.flush()  # turns are written in the background: the one that is meant may still be on its way
        wanted, named = list(dict.fromkeys(feedback_ids)), list(dict.fromkeys(turn_ids))
        known = self._read(wanted, named)
        typed = [text for judged_turn in known for text in _texts(judged_turn)]
        typed += [turn.request.text for turn in self._turns.turns_by_id(named).values()]
        withdrawn: list[Withdrawn] = []
        cleared: list[str] = []

        def before_commit(connection: sa.Connection, rows: ErasedRows) -> None:
            withdrawn.extend(self._adapters.withdraw(connection, rows.adapter_ids))
            # The files now, so that a kill after the commit leaves nothing in them.
            forget_typed(self._data_dir / HISTORY, typed)
            ids = {*rows.feedback_ids, *rows.turn_ids, *([session_id] if session_id else ())}
            cleared.extend(forget_set_aside(self._data_dir, ids))

        done = self._feedback.erase(wanted, turn_ids=named, and_then=before_commit)
        # First the memory, as the tasks may have to look at the pictures that they forget.
        tasks = sorted({*done.tasks, *(version.task for version in withdrawn)})
        notices = list(self._memory.forget(known, tasks=tasks))
        for version in withdrawn:
            self._models.retire_adapter(version.adapter_id)
            self._adapters.delete_files(version.adapter_id)
        files = self._feedback.finish_erasure()
        if not files.is_log_empty:
            text = "Another process reads the database: until it ends, the log of the database holds what was erased."
            notices.append(Notice("log_not_empty", text))
        return Erased(
            feedback_ids=tuple(done.feedback_ids),
            turn_ids=tuple(done.turn_ids),
            adapter_ids=tuple(version.adapter_id for version in withdrawn),
            champions=tuple(version.adapter_id for version in withdrawn if version.has_served),
            serving={
                version.task: version.now
                for version in withdrawn
                if version.has_served and version.audience == EVERYONE
            },
            audiences={version.adapter_id: version.audience for version in withdrawn if version.audience != EVERYONE},
            n_media=files.n_media,
            backups=(*files.backups, *cleared),
            notices=tuple(notices),
        )

    def forget_user(self, user_id: str) -> Erased:
        """Deletes everything of a user: turns, conversations, feedback, interactions, and what learned from them.

        Repeating it after a failure goes on.

        Raises:
            StoreError: the database failed.
        """
        self._turns.flush()
        turn_ids = self._turns.forget_user(user_id)
        erased = self.erase(self._feedback.ids_from(user_id), turn_ids=turn_ids)
        self._feedback.forget_source(user_id)
        # All that a person's own versions learned is erased by now. This deletes what the log of their moves tells.
        self._adapters.forget_audience(audience_of_user(user_id))
        self._cycles.forget_audience(audience_of_user(user_id))
        n_interactions = self._items.forget_user(user_id)
        notices = erased.notices
        if n_interactions and (champion := self._adapters.champion_id(_RECOMMENDATION)) is not None:
            text = f"{champion} was computed from imported interactions, those of {user_id} among them: learn again."
            notices = (*notices, Notice("interactions_in_weights", text))
        return replace(erased, n_interactions=n_interactions, notices=notices)

    def _read(self, feedback_ids: list[str], turn_ids: list[str]) -> list[JudgedTurn]:
        """The judged turns before they are erased, as far as they can be read: a task needs them to forget them."""
        rows = self._feedback.rows_of_turns(turn_ids)
        read = {row.id for row in rows}
        rows += self._feedback.rows_by_id([name for name in feedback_ids if name not in read])
        given = {row.id: row.feedback for row in rows if row.feedback is not None}
        turns = self._turns.turns_by_id(sorted({row.turn_id for row in given.values()}))
        return [JudgedTurn(row, turns[row.turn_id]) for row in given.values() if row.turn_id in turns]


def _texts(judged_turn: JudgedTurn) -> list[str]:
    """What somebody typed for a judged turn."""
    given = judged_turn.feedback
    return [judged_turn.turn.request.text, given.correction or "", given.comment]
