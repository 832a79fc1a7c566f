"""Feedback on its way: store, notify the plugins, learn at once; undo.

A feedback counts as soon as it is stored. What comes after may fail: the receipt then carries a notice, and the next
rebuild of the fast memory makes up for it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from smallai_assistant.errors import AssistantError, InputTooLarge, InvalidInput, nearest
from smallai_assistant.feedback import DEFAULT_SOURCE, MAX_CORRECTION_CHARS, Feedback, JudgedTurn, Receipt
from smallai_assistant.foreign.calls import is_ctrl_c
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.cycle_history import CycleHistory
from smallai_assistant.learning.fast_memory import FastMemory
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.media import MAX_KEPT_MEDIA_BYTES
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.task import LearningTask
from smallai_assistant.types import AudioPart, Content, ImagePart, Message, Notice, Turn, new_id
from smallai_assistant.validation import EVERYONE, audience_of_user, canonical_key, fold_key, is_one_person

log = logging.getLogger(__name__)

# The effect of feedback that was said before what is known already.
SUPERSEDED = "noted, as of when it was said: what was said later about the same stays"
# The session of all turns that were taught and never asked.
TAUGHT_SESSION = "taught"


@dataclass(frozen=True, slots=True)
class LearningStores:
    """The stores that learning reads and writes."""

    turns: TurnStore
    feedback: FeedbackStore
    adapters: AdapterStore
    cycles: CycleHistory


class FeedbackService:
    """Takes feedback and lets it take effect. Thread-safe."""

    def __init__(self, plugins: PluginManager, stores: LearningStores, memory: FastMemory) -> None:
        self._plugins = plugins
        self._turns = stores.turns
        self._feedback = stores.feedback
        self._adapters = stores.adapters
        self._memory = memory

    # -- store, notify, learn at once --

    def give(self, given: Feedback) -> Receipt:
        """Stores a feedback and applies it, so that the next turn uses it. Returns after the commit.

        Raises:
            InvalidInput: there is no such turn.
            StoreError: it could not be stored.
        """
        self._turns.flush()  # turns are written in the background: this one may not be in the database yet
        [added] = self._feedback.record([given])
        stored = added.feedback
        if added.revision is None:
            return Receipt(stored, False, "known already: nothing was changed")
        self._memory.own_write(stored.task, added.revision)
        effect, failure = "", ""
        # The row is stored. From here on no error may be raised, because the caller would give the feedback again.
        try:
            judged_turn = self._feedback.judged_turn(stored)
            self._plugins.notify_feedback_given(stored, judged_turn.turn)
            effect = self._memory.learn(judged_turn)
            if not added.is_latest:
                # What was said later still counts, and only a rebuild brings the words into their order.
                self._memory.outdate(stored.task)
                effect = effect if self._has_last_word(judged_turn) else SUPERSEDED
            effect = _for_whom(judged_turn) + effect if effect else ""
        except AssistantError as error:
            failure = str(error)
        except BaseException as error:  # also SystemExit and the like: a plugin's fault must not end the program
            if is_ctrl_c(error):
                self._memory.outdate(stored.task)
                raise
            log.exception("learn_now of %s", stored.task)
            failure = f"{stored.task} raised {error!r}."
        notice = Notice("not_learned_yet", f"It is stored, but the next turn does not know: {failure}")
        return Receipt(stored, True, effect, (notice,) if failure else ())

    def teach(
        self, task: str, content: Content, label: str, *, source: str = DEFAULT_SOURCE, audience: str | None = None
    ) -> Receipt:
        """Teaches an example that was never asked: stores a turn without an answer, and the label as its correction.

        Args:
            audience: whom it reaches; see `Feedback`.

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
        if label.strip() and "image" in message.modalities:  # a blank label is refused below
            label = canonical_key("label", label, MAX_CORRECTION_CHARS)
        # Made first, because it checks the label before anything is stored.
        given = Feedback(turn.id, correction=label, source=source, audience=audience)
        stored = self._turns.add_turn(turn)
        # An observer of turns may teach on the writer's own thread, which would wait for itself: `flush` then writes.
        self._turns.flush()
        stored.result()  # raises if the turn could not be written
        return self.give(given)

    def _has_last_word(self, judged_turn: JudgedTurn) -> bool:
        """Whether nobody said anything later about what the turn asks: the same words, pictures and recordings."""
        subject, given = subject_of(judged_turn.turn), judged_turn.feedback
        return not any(
            subject_of(other.turn) == subject
            for other in self._feedback.judged_turns(given.task)
            if other.feedback.created_at > given.created_at
        )

    # -- undo --

    def undo(self, feedback_id: str) -> Receipt:
        """Takes a feedback back: it stays in the log and does not count any more.

        Raises:
            InvalidInput: there is no such feedback.
        """
        row = self._feedback.retract(feedback_id)
        assert row.feedback is not None  # only an erased row has none, and an erased row cannot be retracted
        turns = self._turns.turns_by_id([row.turn_id])  # none if the turn was erased
        judged_turns = [JudgedTurn(row.feedback, turn) for turn in turns.values()]
        notices = self._memory.forget(judged_turns, tasks=[row.task])
        reached = {EVERYONE, *(judged_turn.audience for judged_turn in judged_turns)}
        champions = self._adapters.champion_ids(row.task, reached).values()
        learned = [name for name in self._adapters.learned_from([feedback_id]) if name in champions]
        weights = "".join(f"; the adapter {name} learned from it and still serves" for name in learned)
        return Receipt(row.feedback, True, f"taken back{weights}", notices)

    def rebuild(self, name: str) -> bool:
        """Rebuilds the fast memory of a task; see `FastMemory.rebuild`."""
        return self._memory.rebuild(name)

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


def subject_of(turn: Turn) -> tuple[str, ...]:
    """What a turn asks about: its folded words, and its pictures and recordings by their kept files."""
    files = [part.name for part in turn.request.parts if isinstance(part, (ImagePart, AudioPart))]
    return (fold_key(turn.request.text).casefold(), *files)


def _for_whom(judged_turn: JudgedTurn) -> str:
    """Says at the beginning of a receipt whom the feedback reaches; empty if nobody was named who could be left out."""
    audience, user = judged_turn.audience, judged_turn.turn.user_id
    if audience == EVERYONE:
        return "" if user is None else "For everyone: "
    if not is_one_person(audience):
        return f"For the group {audience.partition(':')[2]}: "
    return "For you alone: " if audience == audience_of_user(user) else f"For {audience.partition(':')[2]} alone: "


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
