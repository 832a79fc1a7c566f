"""Candidates: lets a task train and score them, holds it to what it promises, and registers them."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from smallai_assistant.errors import AssistantError, Cancelled, InvalidInput, NotEnoughData, TrainingFailed
from smallai_assistant.feedback import Adapter, Example, Score
from smallai_assistant.foreign.calls import described, is_ctrl_c
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.components import in_order, with_components
from smallai_assistant.learning.cycle import EARLIER, TARGET, Cycle, ids_of
from smallai_assistant.learning.preparation import call_task
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import Training

log = logging.getLogger(__name__)

OnProgress = Callable[[str, float], None]


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


class Candidates:
    """Trains candidates, registers them, and scores them."""

    def __init__(self, adapters: AdapterStore, models: ModelRuntime) -> None:
        self._adapters = adapters
        self._models = models

    def train(self, cycle: Cycle, stop: threading.Event, deadline: Deadline, tell: OnProgress) -> Adapter:
        """Lets the task train a candidate and registers it.

        Raises:
            TrainingFailed: the loss became NaN, or the task raised.
        """
        cycle.checkpoints.mkdir(parents=True, exist_ok=True)
        # Checkpoints of other keys are of cycles over other feedback: no later cycle can use them.
        drop_folders(cycle.checkpoints.parent, but=cycle.checkpoints)
        with self._adapters.work_folder() as folder:
            training = self._training(cycle, folder, stop, deadline)
            training.on_progress, training.losses, training.trials = tell, cycle.losses, cycle.trials
            kind = run_training(cycle, training)
            return self._register(cycle, folder, kind, cycle.components)

    def _training(self, cycle: Cycle, folder: Path, stop: threading.Event, deadline: Deadline) -> Training:
        """Makes the training of a candidate whose files go into the folder."""
        return Training(
            examples=cycle.training,
            replay=cycle.replay,
            folder=folder,
            work_folder=cycle.checkpoints,
            parent=cycle.parent,
            models=self._models,
            seed=cycle.options.seed,
            cancel=stop,
            deadline=deadline.next(),
            shared_folder=cycle.checkpoints,
            over=cycle.over,
        )

    def _register(self, cycle: Cycle, folder: Path, kind: str, learned: Collection[str]) -> Adapter:
        """Registers a candidate whose files are in the folder.

        Args:
            learned: the trained components that it keeps; others are as they were in what serves, or not in it.
        """
        components = with_components(cycle, folder, learned)
        rows = set(ids_of(example for example in (*cycle.training, *cycle.replay) if not example.component))
        rows |= {row_id for component in components for row_id in component.feedback_ids}
        # What is taken over learned whatever its version did, also from versions before.
        began_with = cycle.baseline if any(component.taken_from for component in components) else cycle.parent
        return self._adapters.add(
            folder,
            task=cycle.task.name,
            kind=kind,
            base=cycle.base,
            feedback_ids=in_order(cycle, rows),
            started_from=began_with.id if began_with is not None else None,
            components=components,
            audience=cycle.options.audience,
            over=cycle.over.id if cycle.over is not None else None,
        )

    def without_refused(self, cycle: Cycle, candidate: Adapter, stays: Collection[str]) -> Adapter:
        """Registers a candidate with the same weights, but without the components that their gates refused."""
        with self._adapters.work_folder() as folder:
            for name in candidate.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(candidate.folder / name, folder / name)
            return self._register(cycle, folder, candidate.kind, stays)

    def discard(self, candidate: Adapter) -> None:
        """Removes a candidate that is not needed any more."""
        self._models.retire_adapter(candidate.id)
        with contextlib.suppress(InvalidInput):  # an erasure may have taken it already
            self._adapters.remove(candidate.id)

    def scores(
        self, cycle: Cycle, candidate: Adapter, stop: threading.Event, deadline: Deadline, tell: OnProgress
    ) -> dict[str, list[Score]]:
        """Scores the candidate on every slice; by the candidates of the folds, if the cycle is cross-fitted."""
        by_folds: dict[str, list[Score]] = {}
        if cycle.folds:
            found = []
            for number, fold in enumerate(cycle.folds):
                tell("training without what judges", number / len(cycle.folds))
                found.append(self._fold_scores(cycle, fold, stop, deadline))
            by_folds = cycle.pooled(found)
        tell("evaluating the candidate", 1.0)
        scores = by_folds | self.scores_beside_folds(cycle, candidate, stop)
        # In the order of the slices, as the report shows them.
        return {name: scores[name] for name in cycle.slices}

    def scores_beside_folds(self, cycle: Cycle, candidate: Adapter, stop: threading.Event) -> dict[str, list[Score]]:
        """Scores the candidate on all slices, or on those that candidates of folds are not scored on."""
        by_folds = (TARGET, EARLIER) if cycle.folds else ()
        asked = {name: examples for name, examples in cycle.slices.items() if name not in by_folds}
        return scores_of(cycle, asked, candidate, self._models, stop)

    def _fold_scores(
        self, cycle: Cycle, fold: Sequence[int], stop: threading.Event, deadline: Deadline
    ) -> list[Score] | None:
        """Trains a candidate without the examples of a fold, and scores it on them.

        Returns:
            None if there is too little to learn without the fold.
        """
        every = cycle.judged_by_folds
        # Not the folder of the candidate: a checkpoint of that one has learned the fold.
        work_folder = cycle.checkpoints / cycle.name_of_fold(fold)
        work_folder.mkdir(parents=True, exist_ok=True)
        with self._adapters.work_folder() as folder:
            training = self._training(cycle, folder, stop, deadline)
            training.examples, training.work_folder = cycle.without_fold(fold), work_folder
            try:
                kind = run_training(cycle, training)
            except NotEnoughData as error:
                log.info("%s: a fold decides nothing: %s", cycle.task.name, error)
                return None
            components = with_components(cycle, folder, cycle.components)
            files = {str(path.relative_to(folder)): "" for path in folder.rglob("*") if path.is_file()}
            # Never registered: it serves nobody, and its files go with the folder.
            adapter = Adapter(
                folder.name,
                cycle.task.name,
                kind,
                folder,
                cycle.base,
                files,
                datetime.now(UTC),
                components=components,
            )
            try:
                asked = {TARGET: [every[index] for index in fold]}
                return scores_of(cycle, asked, adapter, self._models, stop)[TARGET]
            finally:
                self._models.retire_adapter(adapter.id)


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
    """Lets the task score every slice with an adapter, over that for everyone, or without one.

    Raises:
        TrainingFailed: the task did not give one value in [0, 1] for every example.
        PluginError: the task raised.
        Cancelled: `stop` was set between two slices.
    """
    task, found = cycle.task, {}
    adapter = cycle.as_served(adapter)
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


def drop_folders(folder: Path, *, but: Path | None = None) -> None:
    """Deletes the folders in a folder, except one."""
    for path in folder.iterdir():
        if path.is_dir() and path != but:
            shutil.rmtree(path, ignore_errors=True)
