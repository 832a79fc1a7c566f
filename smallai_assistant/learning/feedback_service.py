"""Feedback on its way: store, notify the plugins, learn at once; undo, erase, rebuild.

A feedback counts as soon as it is stored. What comes after may fail: the receipt then carries a notice, and the next
rebuild of the fast memory makes up for it.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smallai_assistant.config import nearest
from smallai_assistant.errors import AssistantError, InputTooLarge, InvalidInput, PluginError, StoreError
from smallai_assistant.feedback import Feedback, JudgedTurn, Receipt
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.media import MAX_KEPT_MEDIA_BYTES
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.task import LearningTask
from smallai_assistant.types import AudioPart, Content, ImagePart, Message, Notice, Turn, new_id

log = logging.getLogger(__name__)

# The session of all turns that were taught and never asked.
TAUGHT_SESSION = "taught"


@dataclass(frozen=True, slots=True)
class LearningStores:
    """The stores that learning reads and writes."""

    turns: TurnStore
    feedback: FeedbackStore
    adapters: AdapterStore


@dataclass(frozen=True, slots=True)
class Erased:
    """The result of an erasure.

    Attributes:
        adapter_ids: the adapters that learned from the erased rows, oldest first.
        champions: those of them that serve.
        notices: tasks whose fast memory may still hold the rows.
    """

    feedback_ids: tuple[str, ...]
    adapter_ids: tuple[str, ...]
    champions: tuple[str, ...]
    notices: tuple[Notice, ...] = ()


class FeedbackService:
    """Takes feedback and lets it take effect. Thread-safe."""

    def __init__(self, plugins: PluginManager, stores: LearningStores) -> None:
        self._plugins = plugins
        self._turns = stores.turns
        self._feedback = stores.feedback
        self._adapters = stores.adapters
        # One lock for each task's fast memory. A rebuild reads the rows and then replaces the memory; feedback that
        # arrives in between waits for it, and is applied to the new memory. The same thread may come again, because
        # a task may give feedback while it learns.
        self._memory_locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    # -- store, notify, learn at once --

    def give(self, given: Feedback) -> Receipt:
        """Stores a feedback and applies it, so that the next turn uses it. Returns after the commit.

        Raises:
            InvalidInput: there is no such turn.
            StoreError: it could not be stored.
        """
        self._turns.flush()  # turns are written in the background: this one may not be in the database yet
        stored, is_new = self._feedback.add(given)
        if not is_new:
            return Receipt(stored, False, "known already: nothing was changed")
        effect, failure = "", ""
        # The row is stored. From here on no error may be raised, because the caller would give the feedback again.
        try:
            judged_turn = self._feedback.judged_turn(stored)
            self._plugins.notify_feedback_given(stored, judged_turn.turn)
            effect = self._learn_now(judged_turn)
        except AssistantError as error:
            failure = str(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit and the like: a plugin's fault must not end the program
            log.exception("learn_now of %s", stored.task)
            failure = f"{stored.task} raised {error!r}."
        notice = Notice("not_learned_yet", f"It is stored, but the next turn does not know: {failure}")
        return Receipt(stored, True, effect, (notice,) if failure else ())

    def teach(self, task: str, content: Content, label: str, *, source: str = "local") -> Receipt:
        """Teaches an example that was never asked: stores a turn without an answer, and the label as its correction.

        Raises:
            InvalidInput: the task does not exist, does not learn, or does not take such content.
            InputTooLarge: a file is over 64 MiB, the limit for media that are kept.
        """
        message = Message.of(content)
        learner = self.learning_task(task)
        if message.modalities not in learner.accepts:
            raise InvalidInput(f"{task} does not take {' and '.join(sorted(message.modalities))}")
        for part in message.parts:
            if isinstance(part, (ImagePart, AudioPart)):
                _check_kept(part)
        turn = Turn(
            id=new_id(),
            session_id=TAUGHT_SESSION,
            user_id=None,
            task=task,
            request=message,
            response=(),
            created_at=datetime.now(UTC),
            details={"taught": True},
        )
        given = Feedback(turn.id, correction=label, source=source)  # checks the label before anything is stored
        stored = self._turns.add_turn(turn)
        # An observer of turns may teach on the writer's own thread, which would wait for itself: `flush` then writes.
        self._turns.flush()
        stored.result()  # raises if the turn could not be written
        return self.give(given)

    def _learn_now(self, judged_turn: JudgedTurn) -> str:
        """Lets the task learn at once. Returns its sentence for people; empty if the task does not learn.

        Raises:
            PluginError: the task did not return a sentence.
        """
        name = judged_turn.feedback.task
        task = self._plugins.tasks.get(name)
        if not isinstance(task, LearningTask):
            return ""
        with self._memory_locks[name]:
            effect: object = task.learn_now(judged_turn)
        if not isinstance(effect, str):
            raise PluginError(f"learn_now of {name} must return a sentence, not {effect!r}")
        return effect

    # -- undo, erase --

    def undo(self, feedback_id: str) -> Receipt:
        """Takes a feedback back: it stays in the log and does not count any more.

        Raises:
            InvalidInput: there is no such feedback.
        """
        row = self._feedback.retract(feedback_id)
        assert row.feedback is not None  # only an erased row has none, and an erased row cannot be retracted
        notices = self._forget([self._feedback.judged_turn(row.feedback)])
        champion = self._adapters.champion_id(row.task)
        is_learned = champion in self._adapters.learned_from([feedback_id])
        weights = f"; the adapter {champion} learned from it and still serves" if is_learned else ""
        return Receipt(row.feedback, True, f"taken back{weights}", notices)

    def erase(self, ids: Iterable[str]) -> Erased:
        """Deletes the content of feedback permanently, and names the adapters that learned from it.

        Raises:
            InvalidInput: an id is unknown; nothing was erased.
        """
        wanted = tuple(dict.fromkeys(ids))
        # Read before the erasure, because tasks need the content to forget it.
        before = [self._feedback.get(feedback_id) for feedback_id in wanted]
        judged_turns = [self._feedback.judged_turn(row.feedback) for row in before if row.feedback is not None]
        affected = self._feedback.erase(wanted).adapter_ids
        notices = self._forget(judged_turns)
        serving = {self._adapters.champion_id(row.task) for row in before}
        champions = tuple(adapter_id for adapter_id in affected if adapter_id in serving)
        return Erased(wanted, tuple(affected), champions, notices)

    def _forget(self, judged_turns: Sequence[JudgedTurn]) -> tuple[Notice, ...]:
        """Removes feedback that does not count any more from the tasks. Returns a notice for each task that failed."""
        failed = set()
        for judged_turn in judged_turns:
            task = self._plugins.tasks.get(judged_turn.feedback.task)
            if isinstance(task, LearningTask):
                try:
                    task.forget(judged_turn.feedback, judged_turn.turn)
                except KeyboardInterrupt:
                    raise
                except BaseException:  # the row is gone already: the other tasks must still forget
                    log.exception("forget of %s", task.name)
                    failed.add(task.name)
        failed |= {name for name in {row.feedback.task for row in judged_turns} if not self.rebuild(name)}
        text = "It no longer counts, but {} raised: until the next start the answers may still know."
        return tuple(Notice("not_forgotten_yet", text.format(name)) for name in sorted(failed))

    # -- rebuild --

    def rebuild(self, name: str) -> bool:
        """Rebuilds a task's fast memory from its active feedback, without the rows that the champion answers itself.

        Returns:
            False if the task raised. The task is then listed as broken, and the content of its memory is uncertain.
        """
        task = self._plugins.tasks.get(name)
        if not isinstance(task, LearningTask):
            return True
        with self._memory_locks[name]:
            try:
                champion = task.context.adapters.champion(name)
                retired = set(champion.retired_ids) if champion is not None else set()
                rows = self._feedback.judged_turns(name)
                task.rebuild([judged_turn for judged_turn in rows if judged_turn.feedback.id not in retired])
            except (StoreError, KeyboardInterrupt):
                raise  # not the task's fault
            except BaseException as error:
                log.exception("rebuild of %s", name)
                self._plugins.broken[name] = f"it could not rebuild its feedback: {type(error).__name__}: {error}"
                return False
        return True

    def rebuild_all(self) -> None:
        """Rebuilds the fast memory of every task; at start."""
        for name in list(self._plugins.tasks):
            self.rebuild(name)

    def learning_task(self, name: str) -> LearningTask:
        """Returns the task of that name.

        Raises:
            InvalidInput: there is no such task, or it does not learn.
        """
        task = self._plugins.tasks.get(name)
        if task is None:
            raise InvalidInput(f"there is no task {name!r}", hint=nearest(name, self._plugins.tasks))
        if not isinstance(task, LearningTask):
            raise InvalidInput(f"the task {name!r} does not learn")
        return task


def _check_kept(part: ImagePart | AudioPart) -> None:
    """Checks that a part can be read and is small enough to be kept: a taught file has no other copy to learn from.

    Raises:
        InputTooLarge: the file is over the limit.
        InvalidInput: the file cannot be read.
    """
    # By its size on disk, so that a large file is not read into memory first.
    if part.path is not None and part.path.is_file() and part.path.stat().st_size > MAX_KEPT_MEDIA_BYTES:
        raise InputTooLarge(f"{part.name}: {part.path.stat().st_size:,} bytes, {MAX_KEPT_MEDIA_BYTES:,} are kept")
    part.read()
