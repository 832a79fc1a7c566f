"""Prepares a learning cycle: feedback becomes examples, and the examples are split into training and held-out ones."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from smallai_assistant.errors import AssistantError, InvalidInput, NotEnoughData, PluginError
from smallai_assistant.feedback import Adapter, Example, JudgedTurn, Score
from smallai_assistant.foreign.calls import described, is_ctrl_c
from smallai_assistant.learning.agreement import SharedFeedback
from smallai_assistant.learning.cross_fitting import MAX_SUBJECTS, folds_of, groups_of, twin_keys
from smallai_assistant.learning.evaluation import (
    HELD_OUT_ONE_IN,
    check_contamination,
    is_held_out,
    n_subjects,
    split,
)
from smallai_assistant.learning.quarantine import Labels
from smallai_assistant.learning.screening import ScreenedFeedback, screen
from smallai_assistant.task import LearningTask, Trial

T = TypeVar("T")
log = logging.getLogger(__name__)

# The names of the slices of held-out feedback, as reports show them: feedback that the champion was not judged by, and
# feedback that it was. LEARNED is feedback that both champion and candidate learned, although its hash holds it out.
TARGET, EARLIER, LEARNED = "new feedback", "earlier feedback", "learned feedback"


@dataclass(frozen=True, slots=True)
class CycleOptions:
    """Options of a learning cycle.

    Args:
        budget_s: seconds of training, after which it ends with what it has; None sets no limit.
        promote: False ends the cycle after the gate's decision; `smallai adapters promote` does the rest.
        rebuild: True learns from scratch: it trains the bare base on all feedback that still counts and compares the
            candidate with the bare base. Use it after an erasure, when the champion may hold what was erased.
        seed: of the training and the bootstrap.
        trusted: sources that screening does not set aside.

    Raises:
        InvalidInput: `budget_s` is not a positive number of seconds.
    """

    budget_s: float | None = None
    promote: bool = True
    rebuild: bool = False
    seed: int = 0
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # NaN fails the chain, too. The limit of 115 days refuses infinity.
        if self.budget_s is not None and not 0 < self.budget_s < 1e7:
            raise InvalidInput(f"budget_s is {self.budget_s}", hint="give a positive number of seconds")


@dataclass(slots=True)
class Cycle:
    """The state of a running cycle.

    Attributes:
        shared: the feedback before screening, and what several people agreed on.
        base: what the candidate is made for.
        champion_id: the adapter that served when the cycle began; None for the bare base.
        baseline: the adapter that the candidate is compared with; None for the bare base.
        parent: the adapter that training may start from; None if there is none or if it learned from feedback that
            does not count any more.
        checkpoints: the folder of the checkpoints of this cycle.
        training, replay: new examples, and examples that the champion learned.
        slices: the examples of the evaluation, by the slice's name.
        folds: the folds of a cross-fitted cycle, as indexes into `judged_by_folds`; empty if one in four is held out.
        before: the baseline's scores, by the slice's name.
        losses, trials: what training told of its progress.
    """

    task: LearningTask
    options: CycleOptions
    shared: SharedFeedback
    screened: ScreenedFeedback
    base: Mapping[str, Any]
    champion_id: str | None
    baseline: Adapter | None
    parent: Adapter | None
    checkpoints: Path = Path()
    training: list[Example] = field(default_factory=list)
    replay: list[Example] = field(default_factory=list)
    slices: dict[str, list[Example]] = field(default_factory=dict)
    folds: list[list[int]] = field(default_factory=list)
    before: dict[str, list[Score]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    @property
    def judged_by_folds(self) -> list[Example]:
        """The examples that, in a cross-fitted cycle, candidates which did not learn them are scored on."""
        return [*self.slices[TARGET], *self.slices.get(EARLIER, ())] if self.folds else []

    def without_fold(self, fold: Sequence[int]) -> list[Example]:
        """The new examples that the candidate of a fold learns."""
        every = self.judged_by_folds
        left_out = {every[index].id for index in fold}
        return [example for example in self.training if example.id not in left_out]

    def name_of_fold(self, fold: Sequence[int]) -> str:
        """A name for the checkpoints of a fold's candidate: the same only for the same examples."""
        ids = sorted(example.id for example in self.without_fold(fold))
        return f"fold-{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]}"

    @property
    def learned_although_held_out(self) -> list[Example]:
        """The examples that this cycle learns although their hash holds them out."""
        return [example for example in (*self.training, *self.replay) if is_held_out(example.split_key)]

    def pooled(self, found: Sequence[Sequence[Score] | None]) -> dict[str, list[Score]]:
        """Puts the scores of the folds together, by the slice's name.

        Args:
            found: the scores of each fold; None keeps the scores before, so that the fold counts for neither side.
        """
        before = [score for name in (TARGET, EARLIER) for score in self.before.get(name, ())]
        pool = list(before)
        for fold, scores in zip(self.folds, found, strict=True):
            for position, index in enumerate(fold):
                pool[index] = before[index] if scores is None else scores[position]
        n_target = len(self.slices[TARGET])
        return {TARGET: pool[:n_target]} | ({EARLIER: pool[n_target:]} if EARLIER in self.slices else {})

    @property
    def n_per_judged(self) -> int:
        """How many new subjects it takes until one more is judged by."""
        # A subject with several examples can be on both sides. Of those with one example, one in four is held out.
        are_on_both_sides = any(example.subject for example in (*self.training, *self.slices[TARGET]))
        return 1 if self.folds or are_on_both_sides else HELD_OUT_ONE_IN


def prepare(task: LearningTask, shared: SharedFeedback, options: CycleOptions, folder: Path) -> Cycle:
    """Screens the feedback, makes examples of it, and splits them into what is learned and what is evaluated.

    Args:
        shared: the active feedback of the task that a version for everyone may learn, oldest first.
        folder: the folder of all cycles' checkpoints.

    Raises:
        NotEnoughData: there is too little to learn from or to evaluate with.
        EvalContaminated: a training example is also in the evaluation.
        PluginError: a method of the task raised.
    """
    screened = screen(shared.judged_turns, trusted=options.trusted, labelled=lambda turns: _labelled(task, turns))
    cycle = _begin(task, options, shared, screened)
    examples = [
        _weighted(example, screened.weights)
        for example in call_task(task, "examples", lambda: task.examples(screened.judged_turns))
    ]
    _share_out(cycle, examples)
    _check_enough(cycle)
    for name, protected in call_task(task, "protected", lambda: task.protected(screened.judged_turns)).items():
        if protected:
            # A task may name a slice like one of ours; both are kept.
            cycle.slices[f"{name} (protected)" if name in (TARGET, EARLIER, LEARNED) else name] = list(protected)
    _check_contamination(cycle)
    cycle.checkpoints = folder / task.name / _key(cycle)
    return cycle


def base_of(task: LearningTask) -> Mapping[str, Any]:
    """Returns what the task's adapters are made for.

    It goes through JSON, because it is compared with what a manifest holds: a tuple is read back as a list.
    """
    return call_task(task, "base", lambda: dict(json.loads(json.dumps(dict(task.base())))))


def call_task(task: LearningTask, method: str, call: Callable[[], T]) -> T:
    """Calls a method of a task. An error that is not ours becomes a PluginError that names task and method.

    Raises:
        PluginError: the method raised.
        AssistantError: the method raised it on purpose, such as `NotEnoughData`.
    """
    try:
        return call()
    except BaseException as error:  # a plugin's SystemExit must not end the program
        if isinstance(error, AssistantError) or is_ctrl_c(error):
            raise
        log.exception("%s of %s", method, task.name)
        raise PluginError(
            f"the task {task.name!r}: {method} raised {described(error)}",
            hint="this is a defect of the plugin; nothing was changed",
        ) from error


def _begin(task: LearningTask, options: CycleOptions, shared: SharedFeedback, screened: ScreenedFeedback) -> Cycle:
    """Decides which adapter the candidate is compared with, and which one it may start from."""
    base = base_of(task)
    champion = task.context.adapters.champion(task.name)
    champion_id = champion.id if champion is not None else None
    if champion is not None and dict(champion.base) != base:
        # Its weights do not fit the model that is configured now.
        log.warning("%s was made for another base than %s has now, and is left out", champion.id, task.name)
        champion = None
    if options.rebuild:
        champion = None
    # Weights that learned from a row that was undone, erased or set aside since then would pass it on.
    counted = {judged_turn.feedback.id for judged_turn in screened.judged_turns}
    is_clean = champion is None or counted.issuperset(champion.feedback_ids)
    return Cycle(task, options, shared, screened, base, champion_id, champion, champion if is_clean else None)


def _share_out(cycle: Cycle, examples: Sequence[Example]) -> None:
    """Decides which examples are learned, which ones judge the candidate, and whether some do both."""
    task, champion = cycle.task, cycle.baseline
    report = champion.report if champion is not None else {}
    learned = frozenset(champion.feedback_ids if champion is not None else ())
    judged = frozenset(report.get("held_out_ids", ()))
    known_keys = _known_keys(cycle, frozenset(report.get("cross_fitted_ids", ())))

    def is_known(example: Example) -> bool:
        return not known_keys.isdisjoint(twin_keys(example))

    training, held_out = split(examples, is_known=is_known)
    cycle.replay, cycle.training = _by_age(training, learned)
    earlier, target = _by_age(held_out, judged)
    # Checked in this order: whether the task is cheap may take loading its model.
    if n_subjects(target) < MAX_SUBJECTS and call_task(task, "is_cheap_to_train", lambda: bool(task.is_cheap_to_train)):
        on_training_side = [found for found in examples if not is_held_out(found.split_key) or is_known(found)]
        cycle.replay, _ = _by_age(on_training_side, learned)
        replayed = {id(example) for example in cycle.replay}
        cycle.training = [example for example in examples if id(example) not in replayed]
        # What the champion learned, and twins of it, would be asked of one that knows the answer.
        fresh = [
            examples[index]
            for group in groups_of(examples, twin_keys)
            if not any(id(examples[index]) in replayed or is_known(examples[index]) for index in group)
            for index in group
        ]
        earlier, target = _by_age(fresh, judged)
        cycle.folds = folds_of([*target, *earlier])
    cycle.slices = {TARGET: target} | ({EARLIER: earlier} if earlier else {})
    if kept := [example for example in cycle.replay if is_held_out(example.split_key)]:
        cycle.slices[LEARNED] = kept


def _known_keys(cycle: Cycle, cross_fitted: frozenset[str]) -> frozenset[Hashable]:
    """Returns the keys of the examples that the baseline learned although their hash holds them out.

    They are made again from the feedback, because a later word on the same thing may have replaced them since.
    """
    rows = [row for row in cycle.screened.judged_turns if row.feedback.id in cross_fitted]
    found = call_task(cycle.task, "examples", lambda: cycle.task.examples(rows)) if rows else []
    return frozenset(key for example in found for key in twin_keys(example))


def _check_contamination(cycle: Cycle) -> None:
    """Checks that no candidate is asked what it learned.

    Raises:
        EvalContaminated: a training example is also in the evaluation.
    """
    by_folds = (TARGET, EARLIER) if cycle.folds else ()
    # LEARNED is what both sides of the comparison have learned.
    asked = {name: found for name, found in cycle.slices.items() if name not in (LEARNED, *by_folds)}
    check_contamination([*cycle.training, *cycle.replay], asked)
    every = cycle.judged_by_folds
    for fold in cycle.folds:
        learned = [*cycle.without_fold(fold), *cycle.replay]
        check_contamination(learned, {TARGET: [every[index] for index in fold]})


def _check_enough(cycle: Cycle) -> None:
    """Checks that both sides of the split are about as many new subjects as the task needs.

    Raises:
        NotEnoughData: they are not; it says how many more are needed.
    """
    task, screened = cycle.task, cycle.screened
    least = task.min_examples
    n_asked = n_subjects(cycle.slices[TARGET])
    n_learned = min(map(n_subjects, map(cycle.without_fold, cycle.folds)), default=n_subjects(cycle.training))
    if n_learned >= least and n_asked >= least:
        return
    n_missing = max(least - n_learned, (least - n_asked) * cycle.n_per_judged)
    n_aside, n_personal = len(screened.quarantined), cycle.shared.n_personal
    left_out = [f"{n_aside} sources are set aside"] if n_aside else []
    left_out += [f"{n_personal} rows are not for everyone, so that no shared version learns them"] if n_personal else []
    raise NotEnoughData(
        f"{task.name}: the new feedback has {n_learned} different subjects to learn from and {n_asked} to be judged "
        f"by; {least} of each are needed" + (f" ({'; '.join(left_out)})" if left_out else ""),
        hint=f"give feedback on about {n_missing} more; several wordings of one question count as one subject",
        n_missing=n_missing,
    )


def _labelled(task: LearningTask, judged_turns: Sequence[JudgedTurn]) -> Labels:
    """Asks the task for labels and vectors.

    Raises:
        PluginError: the vectors are not all finite and of one shape.
    """

    def checked() -> Labels:
        import numpy as np

        labels = task.labelled(judged_turns)
        shapes = {np.shape(vector) for _, vector in labels.values()}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(f"vectors of the shapes {sorted(shapes)}")
        if not all(np.isfinite(vector).all() for _, vector in labels.values()):
            raise ValueError("a vector is not finite")
        return labels

    return call_task(task, "labelled", checked)


def _weighted(example: Example, weights: Mapping[str, float]) -> Example:
    """Returns the example with the weight that screening gave its feedback."""
    # The smallest weight of all its rows: a capped source must not gain weight by sharing an example.
    weight = min((weights.get(feedback_id, 1.0) for feedback_id in example.feedback_ids), default=1.0)
    return example if weight == 1.0 else replace(example, weight=example.weight * weight)


def _by_age(examples: Sequence[Example], known: frozenset[str]) -> tuple[list[Example], list[Example]]:
    """Splits examples into old and new ones: an old one is made from `known` feedback alone."""
    old: list[Example] = []
    new: list[Example] = []
    for example in examples:
        (old if example.feedback_ids and known.issuperset(example.feedback_ids) else new).append(example)
    return old, new


def _key(cycle: Cycle) -> str:
    """Names the cycle's checkpoints: the same for the same examples, base, parent and seed.

    Only a cycle with the same key goes on from the checkpoints of one that was stopped.
    """
    examples = [
        [example.id, example.prompt, example.expected, example.feedback_ids, example.weight]
        for example in [*cycle.training, *cycle.replay]
    ]
    whole = [examples, cycle.base, cycle.parent.id if cycle.parent is not None else None, cycle.options.seed]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
