"""Feedback on its way: stored, told to the plugins, learned from at once; undone and erased."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from smallai_assistant.config import nearest
from smallai_assistant.errors import AssistantError, InputTooLarge, IntegrityError, InvalidInput, StoreError
from smallai_assistant.feedback import Adapter, Feedback, JudgedTurn, Receipt
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.turn_store import MAX_KEPT_MEDIA_BYTES, TurnStore
from smallai_assistant.task import LearningTask
from smallai_assistant.types import AudioPart, Content, ImagePart, Message, Notice, Turn, new_id

log = logging.getLogger(__name__)

TAUGHT_SESSION = "taught"


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: `adapter_ids` learned from the rows; the ones that serve are `champions`."""

    feedback_ids: tuple[str, ...]
    adapter_ids: tuple[str, ...]
    champions: tuple[str, ...]
    notices: tuple[Notice, ...] = ()


class ServingAdapters:
    """Which adapter serves each task, its files checked the first time this process serves it."""

    def __init__(self, adapters: AdapterStore) -> None:
        self._adapters = adapters
        self._verified: dict[str, Adapter] = {}

    def champion(self, task: str) -> Adapter | None:
        """The adapter that serves; a damaged one is replaced by the one before it, and the log says so."""
        while (adapter_id := self._adapters.champion_id(task)) is not None:
            if adapter_id in self._verified:
                return self._verified[adapter_id]
            try:
                self._adapters.verify(adapter_id)
                adapter = self._verified[adapter_id] = self._adapters.get(adapter_id)
                return adapter
            except (IntegrityError, InvalidInput) as error:
                log.error("the champion of %s is damaged and the one before it serves: %s", task, error)
                previous = self._adapters.previous_id(task)
                self._adapters.move_away(task, adapter_id, to=previous, reason=f"damaged: {error.message}")
        return None


class FeedbackService:
    """Takes feedback and lets it take effect."""

    def __init__(
        self, plugins: PluginManager, turns: TurnStore, feedback: FeedbackStore, adapters: AdapterStore
    ) -> None:
        self._plugins = plugins
        self._turns = turns
        self._feedback = feedback
        self._adapters = adapters
        # A feedback that comes while a fast memory is made anew is told to the new one.
        self._memory: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def give(self, given: Feedback) -> Receipt:
        """Stores a feedback, and lets the next turn know; returns once it is on disk.

        Raises:
            InvalidInput: there is no such turn.
            StoreError: it could not be stored.
        """
        self._turns.flush()  # the turn may still be on its way
        stored, is_new = self._feedback.add(given)
        if not is_new:
            return Receipt(stored, False, "known already: nothing was changed")
        effect, failure = "", ""
        try:  # it is stored: from here on nothing may look as if it was not
            judged_turn = self._feedback.judged_turn(stored)
            self._plugins.notify_feedback_given(stored, judged_turn.turn)
            task = self._plugins.tasks.get(stored.task)
            if isinstance(task, LearningTask):
                with self._memory[stored.task]:
                    effect = task.learn_now(judged_turn)
                if not isinstance(effect, str):
                    effect, failure = "", f"learn_now of {stored.task} must return a sentence, not {effect!r}"
        except AssistantError as error:
            failure = str(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            log.exception("learn_now of %s", stored.task)
            failure = f"{stored.task} raised {error!r}."
        notice = Notice("not_learned_yet", f"It is stored, but the next turn does not know: {failure}")
        return Receipt(stored, True, effect, (notice,) if failure else ())

    def teach(self, task: str, content: Content, label: str, *, source: str = "local") -> Receipt:
        """Teaches an example that was never asked: stores it as a turn, and the label as its correction.

        Raises:
            InvalidInput: the task does not exist, does not learn, or does not take such content.
            InputTooLarge: a file is over what is kept, 64 MiB.
        """
        message = Message.of(content)
        learner = self._learner(task)
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
        given = Feedback(turn.id, correction=label, source=source)  # a bad label is refused before anything is stored
        stored = self._turns.add_turn(turn)
        self._turns.flush()  # waits even where an observer of turns teaches
        stored.result()
        return self.give(given)

    def undo(self, feedback_id: str) -> Receipt:
        """Takes a feedback back: it stays in the log and no longer counts."""
        row = self._feedback.retract(feedback_id)
        assert row.feedback is not None
        notices = self._forgotten([self._feedback.judged_turn(row.feedback)])
        served = self._adapters.learned_from([feedback_id])
        champion = self._adapters.champion_id(row.task)
        weights = f"; the adapter {champion} learned from it and still serves" if champion in served else ""
        return Receipt(row.feedback, True, f"taken back{weights}", notices)

    def erase(self, ids: Iterable[str]) -> Erased:
        """Deletes the content of feedback for good, and names the adapters that learned from it.

        Raises:
            InvalidInput: an id is unknown; nothing was erased.
        """
        wanted = tuple(dict.fromkeys(ids))
        before = [self._feedback.get(each) for each in wanted]
        judged_turns = [self._feedback.judged_turn(row.feedback) for row in before if row.feedback is not None]
        affected = self._feedback.erase(wanted)
        notices = self._forgotten(judged_turns)
        serving = {self._adapters.champion_id(row.task) for row in before}
        return Erased(wanted, tuple(affected), tuple(each for each in affected if each in serving), notices)

    def rebuild(self, name: str) -> bool:
        """Makes the fast memory of a task anew: all its active feedback but what the champion answers itself.

        Returns:
            False where the task raised: it is listed as broken, and what it remembers is uncertain.
        """
        task = self._plugins.tasks.get(name)
        if not isinstance(task, LearningTask):
            return True
        with self._memory[name]:
            try:
                champion = task.context.adapters.champion(name)
                retired = set(champion.retired_ids) if champion is not None else set()
                judged_turns = [
                    judged_turn
                    for judged_turn in self._feedback.judged_turns(name)
                    if judged_turn.feedback.id not in retired
                ]
                task.rebuild(judged_turns)
            except (StoreError, KeyboardInterrupt):
                raise
            except BaseException as error:
                log.exception("rebuild of %s", name)
                self._plugins.broken[name] = f"it could not rebuild its feedback: {type(error).__name__}: {error}"
                return False
        return True

    def rebuild_all(self) -> None:
        """The same for every task; at start."""
        for name in list(self._plugins.tasks):
            self.rebuild(name)

    def _forgotten(self, judged_turns: list[JudgedTurn]) -> tuple[Notice, ...]:
        failed = set()
        for judged_turn in judged_turns:
            task = self._plugins.tasks.get(judged_turn.feedback.task)
            if isinstance(task, LearningTask):
                try:
                    task.forget(judged_turn.feedback, judged_turn.turn)
                except KeyboardInterrupt:
                    raise
                except BaseException:
                    log.exception("forget of %s", task.name)
                    failed.add(task.name)
        failed |= {
            name for name in {judged_turn.feedback.task for judged_turn in judged_turns} if not self.rebuild(name)
        }
        text = "It no longer counts, but {} raised: until the next start the answers may still know."
        return tuple(Notice("not_forgotten_yet", text.format(name)) for name in sorted(failed))

    def _learner(self, name: str) -> LearningTask:
        task = self._plugins.tasks.get(name)
        if task is None:
            raise InvalidInput(f"there is no task {name!r}", hint=nearest(name, self._plugins.tasks))
        if not isinstance(task, LearningTask):
            raise InvalidInput(f"the task {name!r} does not learn")
        return task


def _check_kept(part: ImagePart | AudioPart) -> None:
    """What is taught is the only copy that can be learned from: it must be readable and small enough to be kept."""
    if part.path is not None and part.path.is_file() and part.path.stat().st_size > MAX_KEPT_MEDIA_BYTES:
        raise InputTooLarge(f"{part.name}: {part.path.stat().st_size:,} bytes, {MAX_KEPT_MEDIA_BYTES:,} are kept")
    part.read()
