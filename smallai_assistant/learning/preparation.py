"""What a learning cycle works on: lessons become examples, and these the two sides of the split."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from smallai_assistant.errors import AssistantError, InvalidInput, NotEnoughData, PluginError
from smallai_assistant.feedback import Adapter, Example, JudgedTurn, Score
from smallai_assistant.learning.evaluation import check_contamination, split
from smallai_assistant.learning.screening import Labels, ScreenedFeedback, screen
from smallai_assistant.task import LearningTask

T = TypeVar("T")
log = logging.getLogger(__name__)

TARGET, EARLIER = "new feedback", "earlier lessons"


@dataclass(frozen=True, slots=True)
class CycleOptions:
    """How a cycle is run.

    Args:
        budget_s: training ends with what it has after so many seconds; None gives it as long as it takes.
        promote: False stops after the gate's word: `smallai adapters promote` does the rest.
        rebuild: as if nothing had been learned: from the bare base, from all feedback that still counts, and judged
            against the bare base, for what serves may hold what was erased.
        seed: of the training and the bootstrap.
        trusted: sources that the guard does not set aside.
    """

    budget_s: float | None = None
    promote: bool = True
    rebuild: bool = False
    seed: int = 0
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.budget_s is not None and not 0 < self.budget_s < 1e7:
            raise InvalidInput(f"budget_s is {self.budget_s}", hint="give a positive number of seconds")


@dataclass(slots=True)
class Cycle:
    """What is known of the cycle that runs.

    Attributes:
        champion_id: what served when it began, whatever it is worth.
        baseline: what the candidate is compared with; None for the bare base.
        parent: what the candidate may start from; None where that learned from what no longer counts.
    """

    task: LearningTask
    options: CycleOptions
    screened: ScreenedFeedback
    base: Mapping[str, Any]
    champion_id: str | None
    baseline: Adapter | None
    parent: Adapter | None
    checkpoints: Path = Path()
    training: list[Example] = field(default_factory=list)
    replay: list[Example] = field(default_factory=list)
    slices: dict[str, list[Example]] = field(default_factory=dict)
    before: dict[str, list[Score]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def prepare(task: LearningTask, judged_turns: Sequence[JudgedTurn], options: CycleOptions, folder: Path) -> Cycle:
    """Screens the lessons, makes examples of them, and splits these into what is learned and what is asked.

    Args:
        folder: of all cycles' checkpoints.

    Raises:
        NotEnoughData: there is too little to learn from or to judge by.
        EvalContaminated: something to be trained on is asked in the evaluation.
        PluginError: a method of the task raised.
    """
    screened = screen(judged_turns, trusted=options.trusted, labelled=lambda screened: _labelled(task, screened))
    base = base_of(task)
    champion = task.context.adapters.champion(task.name)
    champion_id = champion.id if champion is not None else None
    if champion is not None and dict(champion.base) != base:
        log.warning("%s was made for another base than %s has now, and is left out", champion.id, task.name)
        champion = None
    if options.rebuild:
        champion = None
    counted = {judged_turn.feedback.id for judged_turn in screened.judged_turns}
    is_clean = champion is None or counted.issuperset(champion.feedback_ids)
    cycle = Cycle(task, options, screened, base, champion_id, champion, champion if is_clean else None)
    examples = [
        _weighted(each, screened.weights)
        for each in asked(task, "examples", lambda: task.examples(screened.judged_turns))
    ]
    training, held_out = split(examples)
    learned = frozenset(champion.feedback_ids if champion is not None else ())
    judged = frozenset(champion.report.get("held_out_ids", ()) if champion is not None else ())
    cycle.replay, cycle.training = _by_age(training, learned)
    earlier, target = _by_age(held_out, judged)
    least = task.least_examples
    if len(cycle.training) < least or len(target) < least:
        n = len(screened.judged_turns)
        n_aside = len(screened.quarantined)
        raise NotEnoughData(
            f"{task.name}: {n} lessons give {len(cycle.training)} new examples to learn from and {len(target)} to "
            f"judge by; {least} of each are needed" + (f" ({n_aside} sources are set aside)" if n_aside else "")
        )
    cycle.slices = {TARGET: target} | ({EARLIER: earlier} if earlier else {})
    for name, found in asked(task, "protected", lambda: task.protected(screened.judged_turns)).items():
        if found:
            cycle.slices[f"{name} (protected)" if name in (TARGET, EARLIER) else name] = list(found)
    check_contamination([*cycle.training, *cycle.replay], cycle.slices)
    cycle.checkpoints = folder / task.name / _key(cycle)
    return cycle


def base_of(task: LearningTask) -> Mapping[str, Any]:
    """What the task's adapters are made for, as it will be read back."""
    return asked(task, "base", lambda: dict(json.loads(json.dumps(dict(task.base())))))


def asked(task: LearningTask, name: str, call: Callable[[], T]) -> T:
    """What a method of the task gives; what it raises by mistake becomes a PluginError."""
    try:
        return call()
    except AssistantError:
        raise
    except Exception as error:
        log.exception("%s of %s", name, task.name)
        raise PluginError(
            f"the task {task.name!r}: {name} raised {type(error).__name__}: {error}",
            hint="this is a defect of the plugin; nothing was changed",
        ) from error


def _labelled(task: LearningTask, judged_turns: Sequence[JudgedTurn]) -> Labels:
    """What the task says is labelled, if it can be compared.

    Raises:
        PluginError: the vectors are not all finite and of one shape.
    """

    def checked() -> Labels:
        import numpy as np

        found = task.labelled(judged_turns)
        shapes = {np.shape(vector) for _, vector in found.values()}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(f"vectors of the shapes {sorted(shapes)}")
        if not all(np.isfinite(vector).all() for _, vector in found.values()):
            raise ValueError("a vector is not finite")
        return found

    return asked(task, "labelled", checked)


def _weighted(example: Example, weights: Mapping[str, float]) -> Example:
    """The example with the weight that the guard gave its feedback."""
    share = min((weights.get(feedback_id, 1.0) for feedback_id in example.feedback_ids), default=1.0)
    return example if share == 1.0 else replace(example, weight=example.weight * share)


def _by_age(examples: Sequence[Example], known: frozenset[str]) -> tuple[list[Example], list[Example]]:
    """Examples that were there in the cycle of the champion, and new ones."""
    old: list[Example] = []
    new: list[Example] = []
    for example in examples:
        (old if example.feedback_ids and known.issuperset(example.feedback_ids) else new).append(example)
    return old, new


def _key(cycle: Cycle) -> str:
    """The same for the same examples, base, parent and seed: what a stopped cycle left can be gone on with."""
    seen = [
        [each.id, each.prompt, each.expected, each.feedback_ids, each.weight]
        for each in [*cycle.training, *cycle.replay]
    ]
    whole = [seen, cycle.base, cycle.parent.id if cycle.parent is not None else None, cycle.options.seed]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
