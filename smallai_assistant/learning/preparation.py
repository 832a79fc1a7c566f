"""Prepares a learning cycle: feedback becomes examples, and the examples are split into training and held-out ones."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from smallai_assistant.errors import AssistantError, NotEnoughData, PluginError
from smallai_assistant.feedback import Adapter, Example, JudgedTurn, is_held_out
from smallai_assistant.foreign.calls import described, is_ctrl_c
from smallai_assistant.learning.agreement import SharedFeedback
from smallai_assistant.learning.cross_fitting import MAX_SUBJECTS, folds_of, groups_of, twin_keys
from smallai_assistant.learning.cycle import EARLIER, LEARNED, TARGET, Cycle, CycleOptions, Waiting, ids_of
from smallai_assistant.learning.evaluation import by_age, check_contamination, n_subjects, split
from smallai_assistant.learning.quarantine import Labels
from smallai_assistant.learning.screening import ScreenedFeedback, screen
from smallai_assistant.learning.time_split import split_by_time
from smallai_assistant.task import LearningTask
from smallai_assistant.validation import EVERYONE, is_one_person

T = TypeVar("T")
log = logging.getLogger(__name__)


def prepare(task: LearningTask, shared: SharedFeedback, options: CycleOptions, folder: Path) -> Cycle:
    """Screens the feedback, makes examples of it, and splits them into what is learned and what is evaluated.

    Args:
        shared: the active feedback of the task that a version for the audience may learn, oldest first.
        folder: the folder of all cycles' checkpoints.

    Raises:
        NotEnoughData: there is too little to learn from or to evaluate with.
        EvalContaminated: a training example is also in the evaluation.
        PluginError: a method of the task raised.
    """
    trusted = set(options.trusted)
    if is_one_person(options.audience):  # nobody else is answered with it, so there is nothing to protect
        trusted |= {judged_turn.feedback.source for judged_turn in shared.judged_turns}
    screened = screen(shared.judged_turns, trusted=trusted, labelled=lambda turns: _labelled(task, turns))
    cycle = _begin(task, options, shared, screened)
    examples = [
        _weighted(example, screened.weights)
        for example in call_task(task, "examples", lambda: task.examples(screened.judged_turns))
    ]
    _share_out(cycle, examples)
    _share_out_components(cycle)
    for name, protected in call_task(task, "protected", lambda: task.protected(screened.judged_turns)).items():
        if protected:
            # A task may name a slice like one of ours; both are kept.
            cycle.slices[f"{name} (protected)" if name in (TARGET, EARLIER, LEARNED) else name] = list(protected)
    _check_contamination(cycle)
    cycle.checkpoints = folder / _folder_name(task.name, options.audience) / _key(cycle)
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

    def fitting(found: Adapter | None) -> Adapter | None:
        if found is None or dict(found.base) == base:
            return found
        # Its weights do not fit the model that is configured now.
        log.warning("%s was made for another base than %s has now, and is left out", found.id, task.name)
        return None

    serving = task.context.adapters.champion(task.name, (options.audience,))
    champion_id = serving.id if serving is not None else None
    champion = fitting(serving)
    is_shared = options.audience == EVERYONE
    over = None if is_shared else fitting(task.context.adapters.champion(task.name, (EVERYONE,)))
    if options.rebuild:
        champion = None
    # Weights that learned from a row that was undone, erased or set aside since then would pass it on.
    counted = {judged_turn.feedback.id for judged_turn in screened.judged_turns}
    is_clean = champion is None or counted.issuperset(champion.feedback_ids)
    parent = champion if is_clean else None
    return Cycle(task, options, shared, screened, base, champion_id, champion, parent, over=over)


def _share_out(cycle: Cycle, examples: Sequence[Example]) -> None:
    """Decides which examples are learned, which ones judge the candidate, and whether some do both."""
    task, champion = cycle.task, cycle.baseline
    report = champion.report if champion is not None else {}
    learned = frozenset(champion.feedback_ids if champion is not None else ())
    judged = frozenset(report.get("held_out_ids", ()))
    if cycle.is_split_by_time:
        found = split_by_time(examples, cycle.screened.judged_turns, learned=learned, judged=judged)
        cycle.replay, cycle.training = found.replay, found.training
        cycle.slices = {TARGET: found.target} | ({EARLIER: found.earlier} if found.earlier else {})
        return
    known_keys = _known_keys(cycle, frozenset(report.get("cross_fitted_ids", ())))

    def is_known(example: Example) -> bool:
        return not known_keys.isdisjoint(twin_keys(example))

    training, held_out = split(examples, is_known=is_known)
    cycle.replay, cycle.training = by_age(training, learned)
    earlier, target = by_age(held_out, judged)
    # Checked in this order: whether the task is cheap may take loading its model.
    if n_subjects(target) < MAX_SUBJECTS and call_task(task, "is_cheap_to_train", lambda: bool(task.is_cheap_to_train)):
        on_training_side = [found for found in examples if not is_held_out(found.split_key) or is_known(found)]
        cycle.replay, _ = by_age(on_training_side, learned)
        replayed = {id(example) for example in cycle.replay}
        cycle.training = [example for example in examples if id(example) not in replayed]
        # What the champion learned, and twins of it, would be asked of one that knows the answer.
        fresh = [
            examples[index]
            for group in groups_of(examples, twin_keys)
            if not any(id(examples[index]) in replayed or is_known(examples[index]) for index in group)
            for index in group
        ]
        earlier, target = by_age(fresh, judged)
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


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many new subjects a component has to learn from and to be judged by, and about how many are missing."""

    n_learned: int
    n_asked: int
    n_missing: int


def _share_out_components(cycle: Cycle) -> None:
    """Decides which components are trained: each needs as many new subjects on both sides of the split as the task.

    Raises:
        NotEnoughData: no component has enough; it says how many more are needed.
    """
    asked = [*cycle.training, *cycle.slices[TARGET]]
    names = list(dict.fromkeys(example.component for example in (*cycle.replay, *asked))) or [""]
    counts = {name: _counts(cycle, name) for name in names}
    if all(found.n_missing for found in counts.values()):
        raise _not_enough(cycle, min(counts.values(), key=lambda found: found.n_missing))
    for name in filter(None, names):
        rows = ids_of(found for found in (*cycle.replay, *asked) if found.component == name)
        old = [example for example in cycle.replay if example.component == name]
        if not counts[name].n_missing:
            cycle.components[name] = len(rows)
            continue
        cycle.slices[TARGET] = [example for example in cycle.slices[TARGET] if example.component != name]
        if old and cycle.taken_over(name) is None:
            cycle.components[name] = len(rows)
            cycle.renewed.add(name)
            continue
        cycle.waiting[name] = Waiting(len(rows), counts[name].n_missing)
        cycle.kept += old
        cycle.training = [example for example in cycle.training if example.component != name]
        cycle.replay = [example for example in cycle.replay if example.component != name]
    if cycle.folds:
        cycle.folds = folds_of([*cycle.slices[TARGET], *cycle.slices.get(EARLIER, ())])


def _counts(cycle: Cycle, name: str) -> _Counts:
    def n_of(examples: Sequence[Example]) -> int:
        return n_subjects([example for example in examples if example.component == name])

    least = cycle.task.min_examples
    n_asked = n_of(cycle.slices[TARGET])
    n_learned = min(map(n_of, map(cycle.without_fold, cycle.folds)), default=n_of(cycle.training))
    return _Counts(n_learned, n_asked, max(0, least - n_learned, (least - n_asked) * cycle.n_per_judged))


def _not_enough(cycle: Cycle, counts: _Counts) -> NotEnoughData:
    task, screened = cycle.task, cycle.screened
    n_aside, n_personal = len(screened.quarantined), cycle.shared.n_personal
    left_out = [f"{n_aside} sources are set aside"] if n_aside else []
    if n_personal:
        left_out.append(f"{n_personal} rows are not for everyone, so that no shared version learns them")
    return NotEnoughData(
        f"{task.name}: the new feedback has {counts.n_learned} different subjects to learn from and {counts.n_asked} "
        f"to be judged by; {task.min_examples} of each are needed" + (f" ({'; '.join(left_out)})" if left_out else ""),
        hint=f"give feedback on about {counts.n_missing} more; several wordings of one question count as one subject",
        n_missing=counts.n_missing,
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


def _folder_name(task: str, audience: str) -> str:
    """The name of the folder of an audience's checkpoints; it does not tell who a person is."""
    return task if audience == EVERYONE else f"{task}~{hashlib.sha256(audience.encode()).hexdigest()[:16]}"
