"""One learning cycle, top to bottom: feedback -> examples -> train -> evaluate -> gate -> promote -> swap.

What serves is not touched before the gate has approved. After a kill the old champion serves, and the next cycle over
the same feedback continues from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from smallai_assistant.errors import AssistantError, Busy, Cancelled, InvalidInput, StoreError, TrainingFailed
from smallai_assistant.feedback import Adapter, AdapterStatus, Example, Score
from smallai_assistant.filesystem import exclusive
from smallai_assistant.foreign.calls import described, is_ctrl_c
from smallai_assistant.learning.agreement import shared_feedback
from smallai_assistant.learning.cycle_history import RunningCycle
from smallai_assistant.learning.evaluation import Reason, ReasonKind
from smallai_assistant.learning.feedback_service import FeedbackService, LearningStores
from smallai_assistant.learning.preparation import EARLIER, TARGET, Cycle, call_task, prepare
from smallai_assistant.learning.preparation import CycleOptions as CycleOptions
from smallai_assistant.learning.promotion import Promoter
from smallai_assistant.learning.pruning import Limits
from smallai_assistant.learning.report import CycleReport, report_of
from smallai_assistant.learning_config import LearningConfig
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import LearningTask, Training

log = logging.getLogger(__name__)

OnProgress = Callable[[str, float], None]
# Each retired row costs one more answer of the candidate. Older rows stay in the fast memory until a later cycle.
_MAX_RETIRED_AT_ONCE = 200
# `close` waits this long for a cycle to reach its next step; a step of training takes a few seconds.
CLOSE_PATIENCE_S = 10.0


class Learner:
    """Runs learning cycles, one at a time for a data directory.

    Args:
        folder: the folder for checkpoints of stopped cycles.
        config: how many people must agree, and how many versions are kept.
    """

    def __init__(
        self,
        plugins: PluginManager,
        models: ModelRuntime,
        *,
        stores: LearningStores,
        feedback_service: FeedbackService,
        folder: Path,
        config: LearningConfig,
    ) -> None:
        self._min_people = config.min_people
        self._limits = Limits.of(config)
        self._plugins = plugins
        self._models = models
        self._feedback, self._adapters, self._history = stores.feedback, stores.adapters, stores.cycles
        self._feedback_service = feedback_service
        self._promoter = Promoter(plugins, models, adapters=stores.adapters, feedback_service=feedback_service)
        self._folder = folder
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def learn(
        self,
        name: str,
        options: CycleOptions | None = None,
        *,
        cancel: threading.Event | None = None,
        on_progress: OnProgress | None = None,
    ) -> CycleReport:
        """Runs a cycle and returns its report, whether the gate approved or not.

        Args:
            name: of the task.
            cancel: set it to stop the cycle.
            on_progress: called with what the cycle does now and the fraction done in [0, 1].

        Raises:
            InvalidInput: the task does not exist or does not learn.
            NotEnoughData: there is too little feedback to learn from or to evaluate with.
            EvalContaminated: a training example is also in the evaluation.
            TrainingFailed: the loss became NaN, or the new adapter did not answer and was taken back.
            PluginError: a method of the task raised.
            Cancelled: `cancel` was set; the next cycle continues from the last checkpoint.
            Busy: another cycle runs.
        """
        tell, stop = on_progress or (lambda *_: None), cancel or threading.Event()
        task = self._feedback_service.learning_task(name)
        with self._alone():
            self._idle.clear()
            self._stop = stop
            try:
                with self._history.recorded(name) as attempt:
                    report = attempt.report = self._run(task, options or CycleOptions(), stop, tell)
                with contextlib.suppress(StoreError):  # the report counts; the next cycle prunes again
                    self._adapters.prune(name, self._limits)
                return report
            finally:
                self._idle.set()

    def close(self) -> None:
        """Stops the running cycle and waits up to 10 seconds for its end."""
        self._stop.set()
        self._idle.wait(CLOSE_PATIENCE_S)

    def drop_checkpoints(self) -> None:
        """Deletes the checkpoints of stopped cycles, because they may hold what was erased.

        A running cycle keeps its own: it checks for erased rows before it ends.
        """
        try:
            with self._alone():
                _drop_folders(self._folder)
        except Busy:
            log.info("checkpoints stay: a learning cycle runs, and checks for erased rows before it ends")

    def running(self) -> RunningCycle | None:
        """The cycle that runs, in this process or another one that shares the data directory."""
        cycle = self._history.running()
        if cycle is not None:
            with contextlib.suppress(Busy), self._alone():
                return None  # it was killed
        return cycle

    def promote(self, adapter_id: str, *, force: bool = False, reason: str = "promoted by hand") -> Adapter:
        """Makes an adapter the champion; see `Promoter.promote`."""
        adapter = self._adapters.get(adapter_id)
        probes = [judged_turn.turn.request for judged_turn in self._feedback.judged_turns(adapter.task)]
        self._promoter.promote(adapter, probes, reason=reason, force=force)
        return self._adapters.get(adapter_id)

    def rollback(self, name: str, *, to: str | None = None) -> Adapter | None:
        """Lets an earlier version serve again. Returns it; None for the bare base."""
        return self._promoter.rollback(name, to=to)

    def _alone(self) -> AbstractContextManager[None]:
        """Keeps cycles out for a block. A file lock, because another process may share the data directory."""
        return exclusive(self._folder / ".lock", timeout_s=0.0, other="another learning cycle runs")

    def _run(self, task: LearningTask, options: CycleOptions, stop: threading.Event, tell: OnProgress) -> CycleReport:
        begun = time.monotonic()
        self._remove_unjudged(task.name)
        tell("screening the feedback", 0.0)
        shared = shared_feedback(self._feedback.judged_turns(task.name), min_people=self._min_people)
        cycle = prepare(task, shared, options, self._folder)
        tell("evaluating what serves now", 0.05)
        cycle.before = self._scores(cycle, cycle.slices, cycle.baseline, stop)
        # A plugin reports its own fraction, which may be anything.
        candidate = self._train(cycle, stop, lambda what, share: tell(what, 0.1 + 0.7 * min(1.0, max(0.0, share))))
        try:
            tell("evaluating the candidate", 0.8)
            after = self._scores(cycle, cycle.slices, candidate, stop)
            report = self._decide(cycle, candidate, report_of(cycle, candidate, after))
            if report.is_approved:
                tell("evaluating what it learned", 0.9)
                report = replace(report, retired_ids=self._retired(cycle, candidate, after, stop))
            # Last, because the evaluation takes time in which a row may be erased.
            self._check_not_erased(cycle, candidate, report)
        except BaseException:
            # Nobody has judged the candidate. Its checkpoints stay, so that the next cycle need not train again.
            with contextlib.suppress(InvalidInput):  # an erasure may have taken it already
                self._adapters.remove(candidate.id)
            # A step that fails because its files were erased under it is no fault of the task.
            with contextlib.suppress(StoreError):  # the first error says more
                self._check_not_erased(cycle, candidate)
            raise
        report = replace(report, seconds=time.monotonic() - begun)
        status: AdapterStatus = "approved" if report.is_approved else "refused"
        candidate = self._adapters.judge(candidate.id, status, report.to_json())
        shutil.rmtree(cycle.checkpoints, ignore_errors=True)
        if report.is_approved and options.promote:
            tell("promoting", 0.95)
            report = self._promote(cycle, candidate, report)
        tell("done", 1.0)
        return report

    def _remove_unjudged(self, name: str) -> None:
        """Removes candidates that a kill left between training and the gate's decision.

        A candidate that has served stays: somebody promoted it by force.
        """
        served = {entry["adapter_id"] for entry in self._adapters.log(name)}
        for version in self._adapters.versions(name):
            if version.status == "candidate" and version.id not in served:
                log.info("%s was never judged and is removed", version.id)
                self._adapters.remove(version.id)

    def _check_not_erased(self, cycle: Cycle, candidate: Adapter, report: CycleReport | None = None) -> None:
        """Ends the cycle if a row that it uses was erased meanwhile: weights must not serve it, nor a report quote it.

        Raises:
            TrainingFailed: a row was erased.
        """
        active = {judged_turn.feedback.id for judged_turn in self._feedback.judged_turns(cycle.task.name)}
        used = set(candidate.feedback_ids) | set(cycle.parent.feedback_ids if cycle.parent is not None else ())
        used |= {
            row_id
            for name in (TARGET, EARLIER)
            for found in cycle.slices.get(name, ())
            for row_id in found.feedback_ids
        }
        if report is not None:
            used |= {row_id for change in report.changes for row_id in change.feedback_ids}
        # A row that was only undone may stay in the weights; only an erased one must go.
        if erased := [row_id for row_id in used - active if self._feedback.get(row_id).state == "erased"]:
            shutil.rmtree(cycle.checkpoints, ignore_errors=True)
            raise TrainingFailed(
                f"{len(erased)} of the rows it learned from or was judged by were erased while the cycle ran",
                hint="nothing was changed; start it again: it learns from the rest",
            )

    def _train(self, cycle: Cycle, stop: threading.Event, tell: OnProgress) -> Adapter:
        """Lets the task train a candidate and registers it.

        Raises:
            TrainingFailed: the loss became NaN, or the task raised.
        """
        task, options = cycle.task, cycle.options
        cycle.checkpoints.mkdir(parents=True, exist_ok=True)
        # Checkpoints of other keys are of cycles over other feedback: no later cycle can use them.
        _drop_folders(cycle.checkpoints.parent, but=cycle.checkpoints)

        def told(what: str, share: float) -> None:
            _check_losses(training.losses[-1:], task.name)
            tell(what, share)

        with self._adapters.work_folder() as folder:
            training = Training(
                examples=cycle.training,
                replay=cycle.replay,
                folder=folder,
                work_folder=cycle.checkpoints,
                parent=cycle.parent,
                models=self._models,
                seed=options.seed,
                cancel=stop,
                deadline=None if options.budget_s is None else time.monotonic() + options.budget_s,
                on_progress=told,
                losses=cycle.losses,
                trials=cycle.trials,
            )
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
            learned = {row_id for example in [*cycle.training, *cycle.replay] for row_id in example.feedback_ids}
            ids = _in_order(cycle, learned)
            return self._adapters.add(
                folder,
                task=task.name,
                kind=kind,
                base=cycle.base,
                feedback_ids=ids,
                started_from=cycle.parent.id if cycle.parent is not None else None,
            )

    def _scores(
        self, cycle: Cycle, slices: Mapping[str, Sequence[Example]], adapter: Adapter | None, stop: threading.Event
    ) -> dict[str, list[Score]]:
        """Lets the task score every slice with an adapter, or with the bare base.

        Raises:
            TrainingFailed: the task did not give one value in [0, 1] for every example.
            PluginError: the task raised.
            Cancelled: `stop` was set between two slices.
        """
        task, found = cycle.task, {}
        for name, examples in slices.items():
            self._models.wait_until_idle(cancel=stop)
            if stop.is_set():
                raise Cancelled("the cycle was stopped", hint="start it again: it continues from the last checkpoint")
            scores = call_task(task, "evaluate", partial(task.evaluate, examples, adapter, self._models))
            # Written so that NaN fails, too.
            if len(scores) != len(examples) or not all(0.0 <= score.value <= 1.0 for score in scores):
                values = [score.value for score in scores]
                raise TrainingFailed(
                    f"{task.name}.evaluate must give {len(examples)} values in [0, 1] for {name!r}, and gave "
                    f"{len(values)}, from {min(values, default=0)} to {max(values, default=0)}"
                )
            found[name] = scores
        return found

    def _decide(self, cycle: Cycle, candidate: Adapter, report: CycleReport) -> CycleReport:
        """Returns the report with the gate's decision, or with that of a plugin that overrules it."""
        judged = replace(candidate, report=report.to_json())
        overruled = self._plugins.approve_adapter(judged, cycle.baseline)
        if overruled is None:
            return report
        plugin, is_approved = overruled
        kind = ReasonKind.PLUGIN_APPROVED if is_approved else ReasonKind.PLUGIN_REFUSED
        return replace(report, is_approved=is_approved, reasons=(Reason(kind, plugin=plugin), *report.reasons))

    def _retired(
        self, cycle: Cycle, candidate: Adapter, after: Mapping[str, list[Score]], stop: threading.Event
    ) -> tuple[str, ...]:
        """Finds the feedback that the candidate answers by itself: all examples made from it score 1."""
        newest = [*cycle.replay, *cycle.training][-_MAX_RETIRED_AT_ONCE:]
        scores = self._scores(cycle, {"what it learned": newest}, candidate, stop)["what it learned"]
        pairs = list(zip(newest, scores, strict=True))
        for name in (TARGET, EARLIER):  # scored already
            pairs += zip(cycle.slices.get(name, ()), after.get(name, ()), strict=True)
        is_right: dict[str, bool] = {}
        for example, score in pairs:
            for row_id in example.feedback_ids:
                is_right[row_id] = is_right.get(row_id, True) and score.value >= 1.0
        return _in_order(cycle, {row_id for row_id, right in is_right.items() if right})

    def _promote(self, cycle: Cycle, candidate: Adapter, report: CycleReport) -> CycleReport:
        """Promotes the candidate, unless somebody moved the champion while the cycle ran."""
        # The candidate was compared with the champion of the beginning; nobody knows whether it beats the new one.
        if self._adapters.champion_id(cycle.task.name) != cycle.champion_id:
            return replace(report, reasons=(Reason(ReasonKind.CHAMPION_CHANGED), *report.reasons))
        probes = [judged_turn.turn.request for judged_turn in cycle.screened.judged_turns]
        self._promoter.promote(candidate, probes, reason="the gate approved it")
        report = replace(report, is_promoted=True)
        self._adapters.judge(candidate.id, "approved", report.to_json())
        return report


def _in_order(cycle: Cycle, row_ids: set[str]) -> tuple[str, ...]:
    """Returns the ids in the order of the feedback, oldest first."""
    ids = (judged_turn.feedback.id for judged_turn in cycle.screened.judged_turns)
    return tuple(row_id for row_id in ids if row_id in row_ids)


def _drop_folders(folder: Path, *, but: Path | None = None) -> None:
    for path in folder.iterdir():
        if path.is_dir() and path != but:
            shutil.rmtree(path, ignore_errors=True)


def _check_losses(losses: Sequence[float], name: str) -> None:
    if wrong := [loss for loss in losses if not math.isfinite(loss)]:
        raise TrainingFailed(
            f"the loss of {name} became {wrong[0]}", hint="nothing was changed; train with less at once"
        )
