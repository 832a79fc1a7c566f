"""The state of a learning cycle: what it learns, what judges it, and which of its components it trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InvalidInput
from smallai_assistant.feedback import HELD_OUT_ONE_IN, Adapter, Component, Example, Score, is_held_out
from smallai_assistant.learning.agreement import SharedFeedback
from smallai_assistant.learning.screening import ScreenedFeedback
from smallai_assistant.task import LearningTask, Trial
from smallai_assistant.validation import EVERYONE, canonical_audience

# The names of the slices of held-out feedback, as reports show them: feedback that the champion was not judged by, and
# feedback that it was. LEARNED is feedback that both champion and candidate learned, although its hash holds it out.
TARGET, EARLIER, LEARNED = "new feedback", "earlier feedback", "learned feedback"


def ids_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """Returns the feedback that the examples were made from, each row once."""
    return tuple(dict.fromkeys(row_id for example in examples for row_id in example.feedback_ids))


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
        audience: for whom it learns: `everyone`; or `user:ID` or `group:NAME` for a version that answers that person or
            that group alone, over the version for everyone.

    Raises:
        InvalidInput: `budget_s` is not a positive number of seconds, or `audience` is not an audience.
    """

    budget_s: float | None = None
    promote: bool = True
    rebuild: bool = False
    seed: int = 0
    trusted: tuple[str, ...] = ()
    audience: str = EVERYONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "audience", canonical_audience(self.audience))
        # NaN fails the chain, too. The limit of 115 days refuses infinity.
        if self.budget_s is not None and not 0 < self.budget_s < 1e7:
            raise InvalidInput(f"budget_s is {self.budget_s}", hint="give a positive number of seconds")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A component that a cycle does not train: how much taught it, and about how many subjects are missing."""

    n_judged_turns: int
    n_missing: int


@dataclass(slots=True)
class Cycle:
    """The state of a running cycle.

    Attributes:
        shared: the feedback before screening, and what several people agreed on.
        base: what the candidate is made for.
        champion_id: the adapter that served when the cycle began; None for the bare base.
        baseline: the audience's own adapter that the candidate is compared with; None if it has none.
        over: the adapter for everyone that baseline and candidate lie over; None for the bare base.
        parent: the adapter that training may start from; None if there is none or if it learned from feedback that
            does not count any more.
        checkpoints: the folder of the checkpoints of this cycle.
        training, replay: new examples, and examples that the champion learned.
        slices: the examples of the evaluation, by the slice's name.
        folds: the folds of a cross-fitted cycle, as indexes into `judged_by_folds`; empty if one in four is held out.
        before: the baseline's scores, by the slice's name.
        losses, trials: what training told of its progress.
        components: the components that the cycle trains, see `Example.component`, each with the number of judged turns
            that taught it.
        renewed: those of them that are trained again without new feedback to be judged by, because the champion's
            weights of them cannot be taken over.
        waiting: the components that it does not train.
        kept: examples that the champion learned, of components that are not trained.
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
    components: dict[str, int] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    kept: list[Example] = field(default_factory=list)
    over: Adapter | None = None

    def as_served(self, adapter: Adapter | None) -> Adapter | None:
        """The adapter as it answers its audience: over that for everyone."""
        return self.over if adapter is None else replace(adapter, over=self.over)

    def taken_over(self, name: str) -> Component | None:
        """Returns a component as the baseline has it, for a version that learns nothing new of it; None if it cannot.

        What learned from a row that was taken back or set aside since then would pass it on.
        """
        # A version for one person is compared over that for everyone, and must not copy it.
        if self.baseline is None or self.baseline.id != self.champion_id:
            return None
        counted = {judged_turn.feedback.id for judged_turn in self.screened.judged_turns}
        for component in self.baseline.components:
            if component.name == name and counted.issuperset(component.feedback_ids):
                return replace(component, taken_from=component.taken_from or self.baseline.id)
        return None

    @property
    def judged_by_folds(self) -> list[Example]:
        """The examples that, in a cross-fitted cycle, candidates which did not learn them are scored on."""
        return [*self.slices[TARGET], *self.slices.get(EARLIER, ())] if self.folds else []

    def without_fold(self, fold: Sequence[int]) -> list[Example]:
        """The new examples that the candidate of a fold learns."""
        every = self.judged_by_folds
        left_out = {every[index].id for index in fold}
        return [example for example in self.training if example.id not in left_out]

    @property
    def is_split_by_time(self) -> bool:
        """Whether later events judge than those that were learned; see `LearningTask.split_by`."""
        return self.task.split_by == "time"

    def is_held_out(self, example: Example) -> bool:
        """Whether the hash holds the example out, in every cycle."""
        return not self.is_split_by_time and is_held_out(example.split_key)

    def name_of_fold(self, fold: Sequence[int]) -> str:
        """A name for the checkpoints of a fold's candidate: the same only for the same examples."""
        ids = sorted(example.id for example in self.without_fold(fold))
        return f"fold-{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]}"

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
