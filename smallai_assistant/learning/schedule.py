"""Starts learning cycles by itself, one at a time across processes, and says what each task waits for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from smallai_assistant.errors import AssistantError, Busy, Cancelled
from smallai_assistant.learning.agreement import shared_feedback
from smallai_assistant.learning.cycle import CycleOptions
from smallai_assistant.learning.cycle_history import CycleRecord, RunningCycle
from smallai_assistant.learning.feedback_service import LearningStores
from smallai_assistant.learning.learner import CLOSE_PATIENCE_S, Learner
from smallai_assistant.learning_config import LearningConfig
from smallai_assistant.task import LearningTask, Task

log = logging.getLogger(__name__)

# A look costs some reads of the database. Nobody waits for a cycle to the minute.
WAKE_S = 30.0
# People think and read between two questions. After this long most conversations have ended.
IDLE_S = 300.0

WaitsFor = Literal["running", "nothing", "feedback", "time", "quiet", "hand"]


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How a task learns now.

    Attributes:
        serves: the id of the version that serves; None for the bare base.
        n_new: rows that a version for everyone may learn, given since the last cycle.
        n_wanted: so many start a cycle.
        last: how the last cycle ended; None if none has ended yet.
        running: the cycle of the task that runs now, in any process.
        progress: what that cycle does and the fraction done, if it was started by itself in this process.
        waits_for: what the next cycle waits for: one that `running`, `feedback`, the `time`, `quiet` (no answers for
            five minutes), a person's `hand`, or `nothing`: it starts within a minute while an assistant is open.
        next_at: the earliest start of the next cycle, in seconds since 1970; None if only a person starts it.
    """

    task: str
    serves: str | None
    n_new: int
    n_wanted: int
    last: CycleRecord | None
    running: RunningCycle | None
    progress: tuple[str, float] | None
    waits_for: WaitsFor
    next_at: float | None

    def to_json(self) -> dict[str, Any]:
        """The status as JSON."""
        running: dict[str, Any] | None = None if self.running is None else {"at": _iso(self.running.at)}
        if running is not None and self.progress is not None:
            running |= {"what": self.progress[0], "fraction": self.progress[1]}
        return {
            "task": self.task,
            "serves": self.serves,
            "n_new": self.n_new,
            "n_wanted": self.n_wanted,
            "last": None if self.last is None else _ended(self.last),
            "running": running,
            "waits_for": self.waits_for,
            "next_at": _iso(self.next_at),
        }


class LearningSchedule:
    """Starts the cycles that are due, on a thread of its own between `start` and `close`.

    What it knows is in the database: several processes decide alike, and the lock of the cycles lets one of them begin.

    Args:
        tasks: by name; those that do not learn are left out.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        learner: Learner,
        stores: LearningStores,
        tasks: Mapping[str, Task],
        config: LearningConfig,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._learner = learner
        self._stores = stores
        self._tasks = tasks
        self._config = config
        self._clock = clock
        self._opened_at = clock()
        self._closing = threading.Event()
        self._progress: tuple[str, float] | None = None
        # Task -> the state of its feedback, and what was counted then.
        self._counted: dict[str, tuple[tuple[int, ...], list[float]]] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look for cycles that are due, unless they are started by hand."""
        if self._config.when != "manual":
            self._thread = threading.Thread(target=self._work, name="learning-schedule", daemon=True)
            self._thread.start()

    def wake(self) -> list[str]:
        """Runs the cycles that are due, one after the other. Returns the tasks whose cycle ended.

        A cycle that fails is logged. Without new feedback it is not repeated.
        """
        ended = []
        for name in self._names():
            if self._closing.is_set() or not self._is_due(name):
                continue
            try:
                report = self._learner.learn(
                    name,
                    CycleOptions(budget_s=60 * self._config.budget_minutes),
                    cancel=self._closing,
                    on_progress=self._tell,
                )
                log.info("a cycle of %s started by itself: %s", name, report.outcome)
            except Busy:  # another process learns; afterwards this task may not be due any more
                break
            except Cancelled:
                break
            except AssistantError as error:
                log.warning("a cycle of %s started by itself and failed: %s", name, error.message)
            finally:
                self._progress = None
            ended.append(name)
        return ended

    def status(self, task: str | None = None) -> list[TaskStatus]:
        """How each task that learns does it now, or one of them."""
        running = self._learner.running()
        return [self._status(name, running) for name in self._names() if task in (None, name)]

    def close(self) -> None:
        """Stops a running cycle at its next step and waits up to 10 seconds for its end. Idempotent."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_PATIENCE_S)

    def _names(self) -> list[str]:
        return [name for name, task in self._tasks.items() if isinstance(task, LearningTask)]

    def _work(self) -> None:
        while not self._closing.wait(WAKE_S):
            try:
                self.wake()
            except Exception as error:  # the thread must live on: the database may be locked for a moment
                if not self._closing.is_set():
                    log.warning("the schedule of learning could not look: %s", error, exc_info=error)

    def _tell(self, what: str, fraction: float) -> None:
        self._progress = (what, fraction)

    def _is_due(self, name: str) -> bool:
        now, last = self._clock(), self._stores.cycles.last(name)
        moment = self._moment(now, last)
        if moment is None or moment > now:
            return False
        if not self._stores.cycles.ids_after(name, 0 if last is None else last.tried_up_to):
            return False  # the most frequent case, without reading all of the feedback
        return self._has_enough(name, last, moment)

    def _has_enough(self, name: str, last: CycleRecord | None, moment: float) -> bool:
        # At a time of the day, what was given before it counts: otherwise one row more would start a cycle at noon.
        until = math.inf if self._config.when == "idle" else moment
        return self._n_new(name, last, until) >= self._n_wanted(last)

    def _status(self, name: str, running: RunningCycle | None) -> TaskStatus:
        now, last = self._clock(), self._stores.cycles.last(name)
        n_new, n_wanted = self._n_new(name, last), self._n_wanted(last)
        mine = running if running is not None and running.task == name else None
        next_at = self._moment(now, last)
        if next_at is not None and next_at <= now and not self._has_enough(name, last, next_at):
            next_at = now if self._config.when == "idle" else next_moment(self._config.when, now)
        waits_for: WaitsFor = "nothing"
        if running is not None:
            waits_for = "running"
        elif next_at is None:
            waits_for = "hand"
        elif n_new < n_wanted:
            waits_for = "feedback"
        elif next_at > now:
            waits_for = "quiet" if self._config.when == "idle" else "time"
        serves = self._stores.adapters.champion_id(name)
        return TaskStatus(
            name, serves, n_new, n_wanted, last, mine, self._progress if mine else None, waits_for, next_at
        )

    def _moment(self, now: float, last: CycleRecord | None) -> float | None:
        """The time from which on a cycle may begin, past or future; None if only a person starts one."""
        when = self._config.when
        if when == "manual":
            return None
        if when == "idle":
            # An imported turn may lie ahead, by the clock of another machine.
            return max(min(now, self._stores.cycles.last_turn_at()), self._opened_at) + IDLE_S
        # The machine may have slept through the time of the day, or no assistant was open: then it is made up for.
        passed = last_moment(when, now)
        return passed if last is None or passed > last.at else next_moment(when, now)

    def _n_wanted(self, last: CycleRecord | None) -> int:
        """The number of new rows that start a cycle."""
        if last is None or last.outcome != "too_little":
            return self._config.min_new_feedback
        # The cycle said how many more than it saw are needed; fewer would fail again.
        seen = self._n_new(last.task, last, last.at)
        return max(self._config.min_new_feedback, seen + last.n_missing)

    def _n_new(self, name: str, last: CycleRecord | None, until: float = math.inf) -> int:
        """The rows given until then that a version for everyone may learn, and that no cycle has seen."""
        state = (*self._stores.feedback.revisions(name), -1 if last is None else last.learned_up_to)
        known = self._counted.get(name)
        if known is None or known[0] != state:
            known = self._counted[name] = (state, self._times_of_new(name, last))
        return sum(at <= until for at in known[1])

    def _times_of_new(self, name: str, last: CycleRecord | None) -> list[float]:
        """When each of these rows was given."""
        judged_turns = self._stores.feedback.judged_turns(name)
        if last is not None:
            new = self._stores.cycles.ids_after(name, last.learned_up_to)
            seen = [judged_turn for judged_turn in judged_turns if judged_turn.feedback.id not in new]
        else:  # an earlier version of the program kept no record of its cycles, but the versions that they made
            versions = self._stores.adapters.versions(name)
            since = versions[-1].created_at if versions else None
            seen = [row for row in judged_turns if since is not None and row.feedback.created_at <= since]
        # A row may become shared long after it was given, when enough people have said the same.
        before, now = (shared_feedback(rows, min_people=self._config.min_people) for rows in (seen, judged_turns))
        known = {judged_turn.feedback.id for judged_turn in before.judged_turns}
        return [
            judged_turn.feedback.created_at.timestamp()
            for judged_turn in now.judged_turns
            if judged_turn.feedback.may_train and judged_turn.feedback.id not in known
        ]


def _ended(last: CycleRecord) -> dict[str, Any]:
    names = ("outcome", "seconds", "error", "failure", "adapter_id")
    return {"at": _iso(last.at), **{name: getattr(last, name) for name in names}, "reasons": list(last.reasons)}


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


def last_moment(when: str, now: float) -> float:
    """The last time that it was `HH:MM` in the local zone."""
    today = _at(when, datetime.fromtimestamp(now))
    return today if today <= now else _at(when, datetime.fromtimestamp(now) - timedelta(days=1))


def next_moment(when: str, now: float) -> float:
    """The next time that it will be `HH:MM` in the local zone."""
    today = _at(when, datetime.fromtimestamp(now))
    return today if today > now else _at(when, datetime.fromtimestamp(now) + timedelta(days=1))


def _at(when: str, day: datetime) -> float:
    # A naive time is local, also across a change of the clocks.
    hour, minute = map(int, when.split(":"))
    return day.replace(hour=hour, minute=minute, second=0, microsecond=0).timestamp()
