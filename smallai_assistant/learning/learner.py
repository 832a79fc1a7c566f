"""One learning cycle, top to bottom: feedback -> examples -> train -> evaluate -> gate -> promote -> swap.

What serves is not touched before the gate has approved. After a kill the old champion serves, and the next cycle over
the same feedback continues from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from smallai_assistant.errors import Busy, InvalidInput, StoreError, TrainingFailed
from smallai_assistant.feedback import Adapter, AdapterStatus, Score
from smallai_assistant.filesystem import exclusive
from smallai_assistant.learning.agreement import feedback_for
from smallai_assistant.learning.candidates import Candidates, Deadline, OnProgress, drop_folders, scores_of
from smallai_assistant.learning.components import choose, in_order, is_in, leave_out
from smallai_assistant.learning.cycle import EARLIER, TARGET, Cycle, ids_of
from smallai_assistant.learning.cycle import CycleOptions as CycleOptions
from smallai_assistant.learning.cycle_history import RunningCycle
from smallai_assistant.learning.evaluation import Reason, ReasonKind
from smallai_assistant.learning.feedback_service import FeedbackService, LearningStores
from smallai_assistant.learning.preparation import prepare
from smallai_assistant.learning.promotion import Promoter
from smallai_assistant.learning.pruning import Limits
from smallai_assistant.learning.report import CycleReport
from smallai_assistant.learning.report_making import report_of
from smallai_assistant.learning_config import LearningConfig
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import LearningTask
from smallai_assistant.validation import EVERYONE

log = logging.getLogger(__name__)

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
        self._candidates = Candidates(stores.adapters, models)
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
            InvalidInput: the task does not exist, does not learn, or has no versions for `CycleOptions.audience`.
            NotEnoughData: there is too little feedback to learn from or to evaluate with.
            EvalContaminated: a training example is also in the evaluation.
            TrainingFailed: the loss became NaN, or the new adapter did not answer and was taken back.
            PluginError: a method of the task raised.
            Cancelled: `cancel` was set; the next cycle continues from the last checkpoint.
            Busy: another cycle runs.
        """
        tell, stop = on_progress or (lambda *_: None), cancel or threading.Event()
        task, options = self._feedback_service.learning_task(name), options or CycleOptions()
        if options.audience != EVERYONE and not task.has_personal_versions:
            raise InvalidInput(
                f"{name} has no versions for one person or a group alone",
                hint="what they teach for themselves takes effect at once, without a cycle",
            )
        with self._alone():
            self._idle.clear()
            self._stop = stop
            try:
                with self._history.recorded(name, options.audience) as attempt:
                    report = attempt.report = self._run(task, options, stop, tell)
                with contextlib.suppress(StoreError):  # the report counts; the next cycle prunes again
                    self._adapters.prune(name, self._limits, audience=options.audience)
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
                drop_folders(self._folder)
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
        known = self._feedback.judged_turns(adapter.task)
        # A version for a person is tried with that person's own turns.
        own = [row for row in known if adapter.audience in (EVERYONE, row.audience)]
        probes = [judged_turn.turn.request for judged_turn in own]
        self._promoter.promote(adapter, probes, reason=reason, force=force)
        return self._adapters.get(adapter_id)

    def rollback(self, name: str, *, to: str | None = None, audience: str = EVERYONE) -> Adapter | None:
        """Lets an earlier version serve an audience again. Returns it; None if none serves it."""
        return self._promoter.rollback(name, to=to, audience=audience)

    def _alone(self) -> AbstractContextManager[None]:
        """Keeps cycles out for a block. A file lock, because another process may share the data directory."""
        return exclusive(self._folder / ".lock", timeout_s=0.0, other="another learning cycle runs")

    def _run(self, task: LearningTask, options: CycleOptions, stop: threading.Event, tell: OnProgress) -> CycleReport:
        begun = time.monotonic()
        self._remove_unjudged(task.name, options.audience)
        tell("screening the feedback", 0.0)
        known = self._feedback.judged_turns(task.name)
        shared = feedback_for(options.audience, known, min_people=self._min_people)
        cycle = prepare(task, shared, options, self._folder)
        tell("evaluating what serves now", 0.05)
        cycle.before = scores_of(cycle, cycle.slices, cycle.baseline, self._models, stop)
        deadline = Deadline(options.budget_s, 1 + len(cycle.folds))
        end = 0.4 if cycle.folds else 0.8
        # A plugin reports its own fraction, which may be anything.
        candidate = self._candidates.train(
            cycle, stop, deadline, lambda what, share: tell(what, 0.1 + (end - 0.1) * min(1.0, max(0.0, share)))
        )
        try:
            after = self._candidates.scores(
                cycle, candidate, stop, deadline, lambda what, share: tell(what, end + (0.8 - end) * share)
            )
            choice = choose(cycle, candidate, after)
            if choice.stays and choice.stays != cycle.components.keys():
                after = leave_out(cycle, after, choice.stays)
                if any(part.taken_from is None and part.name not in choice.stays for part in candidate.components):
                    tell("evaluating without what was refused", 0.8)
                    refused, candidate = candidate, self._candidates.without_refused(cycle, candidate, choice.stays)
                    self._candidates.discard(refused)
                    after |= self._candidates.scores_beside_folds(cycle, candidate, stop)
            report = self._decide(cycle, candidate, report_of(cycle, candidate, after, choice))
            if report.is_approved:
                tell("evaluating what it learned", 0.9)
                report = replace(report, retired_ids=self._retired(cycle, candidate, after, stop))
            # Last, because the evaluation takes time in which a row may be erased.
            self._check_not_erased(cycle, candidate, report)
        except BaseException:
            # Nobody has judged the candidate. Its checkpoints stay, so that the next cycle need not train again.
            self._candidates.discard(candidate)
            # A step that fails because its files were erased under it is not the fault of the task.
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

    def _remove_unjudged(self, name: str, audience: str) -> None:
        """Removes candidates that a kill left between training and the gate's decision.

        A candidate that has served stays: somebody promoted it by force.
        """
        served = {entry["adapter_id"] for entry in self._adapters.log(name, audience)}
        for version in self._adapters.versions(name, audience):
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
        used |= set(ids_of(found for name in (TARGET, EARLIER) for found in cycle.slices.get(name, ())))
        if report is not None:
            used |= {row_id for change in report.changes for row_id in change.feedback_ids}
        # A row that was only undone may stay in the weights; only an erased one must go.
        if erased := [row_id for row_id in used - active if self._feedback.get(row_id).state == "erased"]:
            shutil.rmtree(cycle.checkpoints, ignore_errors=True)
            raise TrainingFailed(
                f"{len(erased)} of the rows it learned from or was judged by were erased while the cycle ran",
                hint="nothing was changed; start it again: it learns from the rest",
            )

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
        learned = [found for found in (*cycle.kept, *cycle.replay, *cycle.training) if is_in(candidate, found)]
        newest = learned[-_MAX_RETIRED_AT_ONCE:]
        scores = scores_of(cycle, {"what it learned": newest}, candidate, self._models, stop)["what it learned"]
        pairs = list(zip(newest, scores, strict=True))
        # Scored already; in a cross-fitted cycle by other candidates, and they are among what this one learned.
        for name in () if cycle.folds else (TARGET, EARLIER):
            pairs += zip(cycle.slices.get(name, ()), after.get(name, ()), strict=True)
        names = {"", *(component.name for component in candidate.components)}
        is_right: dict[str, bool] = {}
        for example, score in pairs:
            if example.component not in names:
                continue
            for row_id in example.feedback_ids:
                is_right[row_id] = is_right.get(row_id, True) and score.value >= 1.0
        return in_order(cycle, {row_id for row_id, right in is_right.items() if right})

    def _promote(self, cycle: Cycle, candidate: Adapter, report: CycleReport) -> CycleReport:
        """Promotes the candidate, unless somebody moved the champion while the cycle ran."""
        # The candidate was compared with the champion of the beginning; nobody knows whether it beats the new one.
        if self._adapters.champion_id(cycle.task.name, cycle.options.audience) != cycle.champion_id:
            return replace(report, reasons=(Reason(ReasonKind.CHAMPION_CHANGED), *report.reasons))
        probes = [judged_turn.turn.request for judged_turn in cycle.screened.judged_turns]
        self._promoter.promote(candidate, probes, reason="the gate approved it")
        report = replace(report, is_promoted=True)
        self._adapters.judge(candidate.id, "approved", report.to_json())
        return report
