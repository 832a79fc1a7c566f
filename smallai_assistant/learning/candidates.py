"""Lets a task train a candidate and score it, and holds it to what it promises."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial

from smallai_assistant.errors import AssistantError, Cancelled, TrainingFailed
from smallai_assistant.feedback import Adapter, Example, Score
from smallai_assistant.foreign.calls import described, is_ctrl_c
from smallai_assistant.learning.preparation import Cycle, call_task
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import Training

log = logging.getLogger(__name__)


class Deadline:
    """Shares a time budget out among several trainings: what one leaves over is for those after it.

    Args:
        budget_s: seconds for all of them; None for no limit.
    """

    def __init__(self, budget_s: float | None, n_trainings: int) -> None:
        self._end = None if budget_s is None else time.monotonic() + budget_s
        self._n_left = n_trainings

    def next(self) -> float | None:
        """Returns when the next training must end, on the clock of `time.monotonic`; None for no limit."""
        now, n_left = time.monotonic(), max(1, self._n_left)
        self._n_left -= 1
        return None if self._end is None else now + (self._end - now) / n_left


def run_training(cycle: Cycle, training: Training) -> str:
    """Lets the task train. Returns the kind of the adapter.

    Raises:
        TrainingFailed: the loss became NaN, or the task raised; the checkpoints are deleted if they may hold NaN.
    """
    task, tell = cycle.task, training.on_progress

    def told(what: str, share: float) -> None:
        _check_losses(training.losses[-1:], task.name)
        tell(what, share)

    training.on_progress = told
    try:
        kind = task.train(training)
        # A task may append losses itself, without `progress`.
        _check_losses(training.losses, task.name)
    except TrainingFailed:
        shutil.rmtree(cycle.checkpoints, ignore_errors=True)  # they may hold NaN, too
        raise
    except BaseException as error:
        if isinstance(error, AssistantError) or is_ctrl_c(error):
            raise
        log.exception("training of %s", task.name)
        raise TrainingFailed(f"the training of {task.name} failed: {described(error)}") from error
    return kind


def scores_of(
    cycle: Cycle,
    slices: Mapping[str, Sequence[Example]],
    adapter: Adapter | None,
    models: ModelRuntime,
    stop: threading.Event,
) -> dict[str, list[Score]]:
    """Lets the task score every slice with an adapter, or with the bare base.

    Raises:
        TrainingFailed: the task did not give one value in [0, 1] for every example.
        PluginError: the task raised.
        Cancelled: `stop` was set between two slices.
    """
    task, found = cycle.task, {}
    for name, examples in slices.items():
        models.wait_until_idle(cancel=stop)
        if stop.is_set():
            raise Cancelled("the cycle was stopped", hint="start it again: it continues from the last checkpoint")
        scores = call_task(task, "evaluate", partial(task.evaluate, examples, adapter, models))
        # Written so that NaN fails, too.
        if len(scores) != len(examples) or not all(0.0 <= score.value <= 1.0 for score in scores):
            values = [score.value for score in scores]
            raise TrainingFailed(
                f"{task.name}.evaluate must give {len(examples)} values in [0, 1] for {name!r}, and gave "
                f"{len(values)}, from {min(values, default=0)} to {max(values, default=0)}"
            )
        found[name] = scores
    return found


def _check_losses(losses: Sequence[float], name: str) -> None:
    if wrong := [loss for loss in losses if not math.isfinite(loss)]:
        raise TrainingFailed(
            f"the loss of {name} became {wrong[0]}", hint="nothing was changed; train with less at once"
        )
