"""Components of a version: several things that a task learns, each with a gate of its own.

One training makes the weights of all components, and one evaluation scores them together. Every score has an owner: the
component that the example is of, or the one that answered. So the scores of a version with fewer components are known
without training or asking again: what the others answered counts as unchanged. A component that fails its gate is left
out, and the smaller version is evaluated for good.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from smallai_assistant.errors import TrainingFailed
from smallai_assistant.feedback import Adapter, Component, Example, Score
from smallai_assistant.learning.adapter_files import damaged
from smallai_assistant.learning.cycle import EARLIER, LEARNED, TARGET, Cycle, ids_of
from smallai_assistant.learning.evaluation import (
    Reason,
    ReasonKind,
    SliceReport,
    Verdict,
    compare,
    gate,
    subject_of,
)
from smallai_assistant.learning.report import ComponentReport
from smallai_assistant.models.files import file_sha256

Scores = Mapping[str, Sequence[Score]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A component that was trained, with the decision of its gate and the figures."""

    verdict: Verdict
    slices: tuple[SliceReport, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The components of a candidate that may stay, and what the gate of each said."""

    stays: frozenset[str]
    judged: Mapping[str, Judged]


def with_components(cycle: Cycle, folder: Path, learned: Collection[str]) -> tuple[Component, ...]:
    """Returns the components whose files are in the folder, after it took over those that were not learned.

    Args:
        folder: the files of a candidate. A trained component that is not in `learned` is deleted from it.
        learned: components that were trained and stay.

    Raises:
        TrainingFailed: the task wrote files for none of its components, or the version before is gone.
        IntegrityError: a file of the version before has changed.
    """
    found = []
    for name in (*cycle.components, *cycle.waiting):
        if name in learned and has_files(folder / name):
            rows = ids_of(example for example in (*cycle.replay, *cycle.training) if example.component == name)
            found.append(Component(name, in_order(cycle, set(rows))))
            continue
        shutil.rmtree(folder / name, ignore_errors=True)
        old = cycle.taken_over(name)
        if old is not None and cycle.baseline is not None:
            _copy(cycle.baseline, name, folder)
            found.append(old)
    if cycle.components and not any(component.taken_from is None for component in found):
        names = ", ".join(cycle.components)
        raise TrainingFailed(f"{cycle.task.name}.train wrote no files into the folders of its components: {names}")
    return tuple(found)


def is_in(adapter: Adapter, example: Example) -> bool:
    """Whether a version learned an example that its cycle trained on or kept."""
    rows = set(example.feedback_ids)
    return not example.component or any(
        component.name == example.component and rows.issubset(component.feedback_ids)
        for component in adapter.components
    )


def in_order(cycle: Cycle, row_ids: Collection[str]) -> tuple[str, ...]:
    """Returns the ids in the order of the feedback, oldest first."""
    ids = (judged_turn.feedback.id for judged_turn in cycle.screened.judged_turns)
    return tuple(row_id for row_id in ids if row_id in row_ids)


def compared(cycle: Cycle, after: Scores, components: Collection[str]) -> list[SliceReport]:
    """Compares the slices as if the candidate had learned only these components.

    New feedback of other components is left out; what they answered counts as unchanged.
    """
    found = []
    for name, examples in cycle.slices.items():
        before, now = cycle.before[name], after[name]
        for component, indices in _groups(name, examples).items():
            if name == TARGET and component and component not in components:
                continue
            mixed = [
                now[index] if _counts_for(cycle, _owner(examples[index], now[index]), components) else before[index]
                for index in indices
            ]
            found.append(
                compare(
                    name,
                    "target" if name == TARGET else "protected",
                    [before[index] for index in indices],
                    mixed,
                    subjects=[subject_of(examples[index]) for index in indices],
                    seed=cycle.options.seed,
                    component=component,
                )
            )
    return found


def choose(cycle: Cycle, adapter: Adapter, after: Scores) -> Choice:
    """Lets the gate decide on every component that was trained, and on those that pass together.

    If together they lose too much in a protected slice, the one that loses most there goes.
    """
    judged = {}
    for name in cycle.components:
        if any(component.name == name and component.taken_from is None for component in adapter.components):
            slices = tuple(_own(cycle, after, name))
            needs_target = name not in cycle.renewed
            verdict = gate(
                slices,
                n_per_judged=cycle.n_per_judged,
                needs_target=needs_target,
                judged_by_later=cycle.is_split_by_time,
            )
            judged[name] = Judged(verdict, slices)
    stays = [name for name, found in judged.items() if found.verdict.is_approved]
    while lost := _lost(compared(cycle, after, stays)) if stays else None:
        worst = min(stays, key=lambda name: _change(compared(cycle, after, [name]), lost))
        stays.remove(worst)
        verdict = Verdict(False, (*judged[worst].verdict.reasons, Reason(ReasonKind.LOST, lost)))
        judged[worst] = Judged(verdict, (*judged[worst].slices, lost))
    # A version that learned nothing new is not worth a promotion.
    has_news = any(name not in cycle.renewed for name in stays)
    return Choice(frozenset(stays if has_news else ()), judged)


def leave_out(cycle: Cycle, after: Scores, stays: Collection[str]) -> dict[str, list[Score]]:
    """Takes the new feedback of other components out of the evaluation. Returns the scores without it."""
    left = [
        index
        for index, example in enumerate(cycle.slices[TARGET])
        if not example.component or example.component in stays
    ]
    cycle.slices[TARGET] = [cycle.slices[TARGET][index] for index in left]
    cycle.before[TARGET] = [cycle.before[TARGET][index] for index in left]
    return {name: list(scores) for name, scores in after.items()} | {TARGET: [after[TARGET][index] for index in left]}


def component_reports(cycle: Cycle, adapter: Adapter, choice: Choice) -> tuple[ComponentReport, ...]:
    """Returns what became of each component, as the adapter has it."""
    included = {component.name: component for component in adapter.components}
    taught = cycle.components | {name: waiting.n_judged_turns for name, waiting in cycle.waiting.items()}
    found = []
    for name, n_judged_turns in taught.items():
        report = ComponentReport(
            name=name,
            verdict="waiting",
            is_included=name in included,
            taken_from=included[name].taken_from if name in included else None,
            n_judged_turns=n_judged_turns,
            reasons=(Reason(ReasonKind.NOT_TRAINED),),
        )
        if (waiting := cycle.waiting.get(name)) is not None:
            report = replace(report, reasons=(Reason(ReasonKind.TOO_LITTLE, n_missing=waiting.n_missing),))
        elif (judged := choice.judged.get(name)) is not None:
            verdict: Literal["approved", "refused"] = "approved" if name in choice.stays else "refused"
            report = replace(report, verdict=verdict, reasons=judged.verdict.reasons, slices=judged.slices)
        found.append(report)
    return tuple(found)


def has_files(folder: Path) -> bool:
    """Whether there is a file in the folder or below it."""
    return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))


def _copy(adapter: Adapter, name: str, folder: Path) -> None:
    """Copies the files of a component. Their hashes are compared, because the copy gets new ones."""
    try:
        for file in (file for file in adapter.files if file.startswith(f"{name}/")):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(adapter.folder / file, folder / file)
            if file_sha256(folder / file) != adapter.files[file]:
                raise damaged(adapter.id, f"{file} has changed")
    except FileNotFoundError as error:
        raise TrainingFailed(
            f"{adapter.id}, which the cycle began with, is gone", hint="start the cycle again; nothing was changed"
        ) from error


def _groups(name: str, examples: Sequence[Example]) -> dict[str, list[int]]:
    """Returns the indexes of a slice's examples by their component; a protected slice is one group."""
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.component if name in (TARGET, EARLIER, LEARNED) else "", []).append(index)
    return groups


def _owner(example: Example, score: Score) -> str:
    return example.component or score.component


def _counts_for(cycle: Cycle, owner: str, components: Collection[str]) -> bool:
    # A component that was taken over answers as before; what nobody owns counts for every component.
    return not owner or owner in components or owner not in cycle.components


def _own(cycle: Cycle, after: Scores, name: str) -> list[SliceReport]:
    """Compares the slices that a component has a part in."""
    has_part = {
        slice_name
        for slice_name, examples in cycle.slices.items()
        for example, score in zip(examples, after[slice_name], strict=True)
        if _owner(example, score) in ("", name)
    }
    slices = compared(cycle, after, [name])
    return [found for found in slices if found.name in has_part and found.component in ("", name)]


def _lost(slices: Sequence[SliceReport]) -> SliceReport | None:
    return next((reason.slice for reason in gate(slices).reasons if reason.kind is ReasonKind.LOST), None)


def _change(slices: Sequence[SliceReport], wanted: SliceReport) -> float:
    return next(found.change for found in slices if (found.name, found.component) == (wanted.name, wanted.component))
