"""A learning cycle on a thread of its own."""

from __future__ import annotations

import threading

from smallai_assistant.errors import Busy
from smallai_assistant.learning.cycle import CycleOptions
from smallai_assistant.learning.learner import Learner
from smallai_assistant.learning.report import CycleReport


class LearningJob:
    """A learning cycle on a background thread; chat continues meanwhile.

    Attributes:
        what: what the cycle does now, for people.
        fraction: the share that is done, in [0, 1].
    """

    def __init__(self, learner: Learner, name: str, options: CycleOptions) -> None:
        self.what, self.fraction = "waiting", 0.0
        self._cancel = threading.Event()
        self._report: CycleReport | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work, args=(learner, name, options), name=f"learn-{name}", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the cycle has not ended."""
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Asks the cycle to stop at the next step; its checkpoints stay."""
        self._cancel.set()

    def result(self, timeout_s: float | None = None) -> CycleReport:
        """Waits for the report.

        Raises:
            Busy: the cycle still runs after `timeout_s`.
            AssistantError: the error that ended the cycle; see `Assistant.learn`.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise Busy("the cycle still runs", hint="wait longer")
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def _work(self, learner: Learner, name: str, options: CycleOptions) -> None:
        try:
            self._report = learner.learn(name, options, cancel=self._cancel, on_progress=self._tell)
        except BaseException as error:  # `result` raises it on the thread that waits
            self._error = error

    def _tell(self, what: str, fraction: float) -> None:
        self.what, self.fraction = what, fraction
