"""The fast memory of each task: taught at once, rebuilt from the database, and checked before every answer.

Several processes may share a database, and each has its own memory. A counter in the database (`revisions`) tells which
writes there were. This module knows for each task up to which write its memory is complete: that is the frontier.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from smallai_assistant.errors import PluginError, StoreError
from smallai_assistant.feedback import JudgedTurn
from smallai_assistant.foreign.calls import PluginHangsError, described, is_ctrl_c
from smallai_assistant.learning.serving_adapters import ServingAdapters
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.task import LearningTask
from smallai_assistant.types import Notice
from smallai_assistant.validation import EVERYONE

log = logging.getLogger(__name__)

# For a stranger's task. It must load and embed nothing while it rebuilds; the conformance kit allows 0.2 s for no rows.
_REBUILD_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Frontier:
    """Which writes the memory of a task holds.

    Attributes:
        revision: every write up to this one; -1 if the memory must be rebuilt.
        own: later writes of this process. It applies them itself, so that they cause no rebuild.
        erasures: the counter of erasures when the memory was last rebuilt; None before it was ever built.
    """

    revision: int = -1
    own: set[int] = field(default_factory=set)
    erasures: int | None = None

    def covers(self, revision: int) -> bool:
        """Whether every write up to `revision` is in the memory, or is being applied by this process."""
        return self.revision >= 0 and all(step in self.own for step in range(self.revision + 1, revision + 1))

    def add(self, revision: int) -> None:
        """Adds a write of this process. A foreign write before it still leaves a gap."""
        if revision > self.revision:
            self.own.add(revision)
        while self.revision + 1 in self.own and self.revision >= 0:
            self.revision += 1
            self.own.discard(self.revision)

    def rebuilt(self, revision: int, erasures: int) -> None:
        """The memory was rebuilt from rows that were read after these counters."""
        self.revision, self.erasures = revision, erasures
        self.own = {step for step in self.own if step > revision}
        self.add(revision)


class FastMemory:
    """Teaches, rebuilds and checks the fast memory of the tasks. Thread-safe."""

    def __init__(self, plugins: PluginManager, feedback: FeedbackStore, serving: ServingAdapters) -> None:
        self._plugins = plugins
        self._feedback = feedback
        self._serving = serving
        # One lock for each task's memory. A rebuild reads the rows and then replaces the memory; feedback that arrives
        # in between waits for it, and is applied to the new memory. The same thread may come again, because a task may
        # give feedback while it learns.
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._frontiers: defaultdict[str, _Frontier] = defaultdict(_Frontier)

    def learn(self, judged_turn: JudgedTurn) -> str:
        """Lets the task learn at once. Returns its sentence for people; empty if the task does not learn.

        Raises:
            PluginError: the task did not return a sentence.
        """
        name = judged_turn.feedback.task
        task = self._plugins.tasks.get(name)
        if not isinstance(task, LearningTask):
            return ""
        if not _may_know(task, judged_turn):
            return f"noted; {name} cannot keep what it knows for some people only, so the next answers do not know it"
        with self._locks[name]:
            effect: object = task.learn_now(judged_turn)
        if not isinstance(effect, str):
            raise PluginError(f"learn_now of {name} must return a sentence, not {effect!r}")
        return effect

    def own_write(self, name: str, revision: int) -> None:
        """Says that this process made a write, and applies it itself."""
        with self._locks[name]:
            self._frontiers[name].add(revision)

    def outdate(self, name: str) -> None:
        """Says that the memory is not what a rebuild would make: the next answer rebuilds it."""
        with self._locks[name]:
            self._frontiers[name].revision = -1

    def refresh(self, name: str) -> int:
        """Rebuilds the memory of a task if another process has changed what it must hold; before an answer.

        Returns:
            The counter of erasures: a conversation whose turns were read at another count may hold erased ones.

        Raises:
            PluginError: the memory may hold what was erased, and the task could not rebuild it.
            StoreError: the database cannot be read.
        """
        revision, erasures = self._feedback.revisions(name)
        frontier = self._frontiers[name]
        if not isinstance(self._plugins.tasks.get(name), LearningTask) or frontier.covers(revision):
            return erasures
        with self._locks[name]:
            if frontier.covers(revision):  # another thread has rebuilt it meanwhile
                return erasures
            self.rebuild(name)
            if frontier.revision < 0:
                raise PluginError(
                    f"the task {name!r} could not rebuild its memory after an erasure",
                    hint="it answers again after a restart; this is a defect of the plugin",
                )
        return erasures

    def notices(self, name: str, audiences: Collection[str]) -> tuple[Notice, ...]:
        """What somebody of these audiences should know about the versions that answer a task."""
        return self._serving.notices(name, audiences)

    def rebuild(self, name: str) -> bool:
        """Rebuilds a task's fast memory from its active feedback, without the rows that champions answer themselves.

        Returns:
            False if the task raised. The task is then listed as broken, and the content of its memory is uncertain.
        """
        task = self._plugins.tasks.get(name)
        if not isinstance(task, LearningTask):
            return True
        with self._locks[name]:
            # The counters before the rows: a write in between is then applied twice, and not missed.
            revision, erasures = self._feedback.revisions(name)
            try:
                task.context.adapters.champion(name)  # checks its files, and moves a damaged one away
                self._serving.look_up(name)
                retired = self._serving.retired_ids(name)
                rows = self._feedback.judged_turns(name)
                left = [row for row in rows if not _is_retired(row, retired) and _may_know(task, row)]
                self._plugins.call_task(name, "rebuild", lambda: task.rebuild(left), timeout_s=_REBUILD_TIMEOUT_S)
            except BaseException as error:
                if isinstance(error, StoreError) or is_ctrl_c(error):  # not the task's fault
                    self.outdate(name)
                    raise
                if isinstance(error, PluginHangsError):
                    # Its thread goes on, and may bring back rows that are erased meanwhile.
                    self._plugins.drop_task(name)
                log.exception("rebuild of %s", name)
                self._plugins.broken[name] = f"it could not rebuild its feedback: {described(error)}"
                if self._frontiers[name].erasures in (None, erasures):
                    self._frontiers[name].rebuilt(revision, erasures)  # it answers with what it knows
                else:
                    self.outdate(name)  # it may know what was erased, so it does not answer: see `refresh`
                return False
            self._frontiers[name].rebuilt(revision, erasures)
        return True

    def rebuild_all(self) -> None:
        """Rebuilds the fast memory of every task; at start."""
        for name in list(self._plugins.tasks):
            self.rebuild(name)

    def forget(self, judged_turns: Sequence[JudgedTurn], *, tasks: Sequence[str] = ()) -> tuple[Notice, ...]:
        """Removes feedback that does not count any more from the tasks. Returns a notice for each task that failed.

        Args:
            tasks: further tasks to rebuild.
        """
        failed = set()
        for judged_turn in judged_turns:
            task = self._plugins.tasks.get(judged_turn.feedback.task)
            if isinstance(task, LearningTask):
                try:
                    task.forget(judged_turn.feedback, judged_turn.turn)
                except BaseException as error:  # the row is gone already: the other tasks must still forget
                    if is_ctrl_c(error):
                        raise
                    log.exception("forget of %s", task.name)
                    failed.add(task.name)
        names = dict.fromkeys([*tasks, *(row.feedback.task for row in judged_turns)])
        failed |= {name for name in names if not self.rebuild(name)}
        text = "It no longer counts, but {} raised: until the next start it may still know, or not answer."
        return tuple(Notice("not_forgotten_yet", text.format(name)) for name in sorted(failed))


def _is_retired(judged_turn: JudgedTurn, retired: Mapping[str, frozenset[str]]) -> bool:
    """Whether whoever the feedback reaches is answered by a version that learned it: their own, or that for everyone.

    The version of one person does not retire a row for everyone, because the others still need it.
    """
    return any(judged_turn.feedback.id in retired.get(name, ()) for name in (EVERYONE, judged_turn.audience))


def _may_know(task: LearningTask, judged_turn: JudgedTurn) -> bool:
    """Whether a task is given a feedback: one that does not keep audiences apart gets only what is for everyone."""
    return task.honours_audiences or judged_turn.audience == EVERYONE
