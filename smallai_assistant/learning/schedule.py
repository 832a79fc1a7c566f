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
from smallai_assistant.learning.cycle import CycleOptions
from smallai_assistant.learning.cycle_history import CycleRecord, RunningCycle
from smallai_assistant.learning.feedback_service import LearningStores
from smallai_assistant.learning.learner import CLOSE_PATIENCE_S, Learner
from smallai_assistant.learning.new_feedback import NewFeedback
from smallai_assistant.learning_config import LearningConfig
from smallai_assistant.task import LearningTask, Task
from smallai_assistant.validation import EVERYONE

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
        serves: the id of the version that serves; None for the bare base, or what serves everyone.
        n_new: rows that a version for the audience may learn, given since the last cycle.
        n_wanted: so many start a cycle.
        last: how the last cycle ended; None if none has ended yet.
        running: the cycle of the task that runs now, in any process.
        progress: what that cycle does and the fraction done, if it was started by itself in this process.
        waits_for: what the next cycle waits for: one that `running`, `feedback`, the `time`, `quiet` (no answers for
            five minutes), a person's `hand`, or `nothing`: it starts within a minute while an assistant is open.
        next_at: the earliest start of the next cycle, in seconds since 1970; None if only a person starts it.
        audience: for whom it learns.
        due: of a status for everyone: the persons and groups who gave enough for a cycle of their own, those with the
            most feedback first.
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
    audience: str = EVERYONE
    due: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The status as JSON."""
        running: dict[str, Any] | None = None if self.running is None else {"at": _iso(self.running.at)}
        if running is not None and self.progress is not None:
            running |= {"what": self.progress[0], "fraction": self.progress[1]}
        return {
            "task": self.task,
            "audience": self.audience,
            "serves": self.serves,
            "n_new": self.n_new,
            "n_wanted": self.n_wanted,
            "last": None if self.last is None else _ended(self.last),
            "running": running,
            "waits_for": self.waits_for,
            "next_at": _iso(self.next_at),
            "due": list(self.due),
        }


def learners(tasks: Mapping[str, Task], audience: str = EVERYONE) -> list[str]:
    """The tasks that can learn for an audience."""
    return [
        name
        for name, task in tasks.items()
        if isinstance(task, LearningTask) and (audience == EVERYONE or task.has_personal_versions)
    ]


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
        self._new = NewFeedback(stores, min_people=config.min_people)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look for cycles that are due, unless they are started by hand."""
        if self._config.when != "manual":
            self._thread = threading.Thread(target=self._work, name="learning-schedule", daemon=True)
            self._thread.start()

    def wake(self) -> list[str]:
        """Runs the cycles that are due, one after the other. Returns the task of each cycle that ended.

        For everyone first, then for the persons and groups who gave enough, those with the most feedback first. A cycle
        that fails is logged. Without new feedback it is not repeated.
        """
        ended: list[str] = []
        for name in learners(self._tasks):
            for audience in (EVERYONE, *self._due(name)):
                if self._closing.is_set() or not self._is_due(name, audience):
                    continue
                try:
                    report = self._learner.learn(
                        name,
                        CycleOptions(budget_s=60 * self._config.budget_minutes, audience=audience),
                        cancel=self._closing,
                        on_progress=self._tell,
                    )
                    log.info("a cycle of %s started by itself: %s", name, report.outcome)
                except (Busy, Cancelled):  # another process learns; afterwards this task may not be due any more
                    return ended
                except AssistantError as error:
                    log.warning("a cycle of %s started by itself and failed: %s", name, error.message)
                finally:
                    self._progress = None
                ended.append(name)
        return ended

    def status(self, task: str | None = None, *, audience: str = EVERYONE) -> list[TaskStatus]:
        """How each task that learns does it now for an audience, or one of them."""
        running = self._learner.running()
        names = [name for name in learners(self._tasks, audience) if task in (None, name)]
        return [self._status(name, running, audience) for name in names]

    def close(self) -> None:
        """Stops a running cycle at its next step and waits up to 10 seconds for its end. Idempotent."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_PATIENCE_S)

    def _due(self, name: str) -> list[str]:
        """The persons and groups who gave enough new feedback for a cycle of their own."""
        task = self._tasks[name]
        if not isinstance(task, LearningTask) or not task.has_personal_versions:
            return []
        audiences = self._new.audiences(name, self._config.min_new_feedback)
        last = self._stores.cycles.last_of(name, audiences)
        return [
            audience
            for audience in audiences
            if self._new.count(name, last.get(audience), audience=audience)
            >= self._n_wanted(name, last.get(audience), audience)
        ]

    def _work(self) -> None:
        while not self._closing.wait(WAKE_S):
            try:
                self.wake()
            except Exception as error:  # the thread must live on: the database may be locked for a moment
                if not self._closing.is_set():
                    log.warning("the schedule of learning could not look: %s", error, exc_info=error)

    def _tell(self, what: str, fraction: float) -> None:
        self._progress = (what, fraction)

    def _is_due(self, name: str, audience: str) -> bool:
        now, last = self._clock(), self._stores.cycles.last(name, audience)
        moment = self._moment(now, last)
        if moment is None or moment > now:
            return False
        if not self._stores.cycles.ids_after(name, 0 if last is None else last.tried_up_to):
            return False  # the most frequent case, without reading all of the feedback
        return self._has_enough(name, last, moment, audience)

    def _has_enough(self, name: str, last: CycleRecord | None, moment: float, audience: str) -> bool:
        # At a time of the day, what was given before it counts: otherwise one row more would start a cycle at noon.
        until = math.inf if self._config.when == "idle" else moment
        n_new = self._new.count(name, last, audience=audience, until=until)
        return n_new >= self._n_wanted(name, last, audience)

    def _status(self, name: str, running: RunningCycle | None, audience: str) -> TaskStatus:
        now, last = self._clock(), self._stores.cycles.last(name, audience)
        n_new, n_wanted = self._new.count(name, last, audience=audience), self._n_wanted(name, last, audience)
        is_mine = running is not None and (running.task, running.audience) == (name, audience)
        next_at = self._moment(now, last)
        if next_at is not None and next_at <= now and not self._has_enough(name, last, next_at, audience):
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
        return TaskStatus(
            name,
            self._stores.adapters.champion_id(name, audience),
            n_new,
            n_wanted,
            last,
            running if is_mine else None,
            self._progress if is_mine else None,
            waits_for,
            next_at,
            audience,
            tuple(self._due(name)) if audience == EVERYONE else (),
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

    def _n_wanted(self, name: str, last: CycleRecord | None, audience: str) -> int:
        """The number of new rows that start a cycle."""
        if last is None or last.outcome != "too_little":
            return self._config.min_new_feedback
        # The cycle said how many more than it saw are needed; fewer would fail again.
        seen = self._new.count(name, last, audience=audience, until=last.at)
        return max(self._config.min_new_feedback, seen + last.n_missing)


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
