"""Where the marks of a report page's plots lie. The templates draw them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smallai_assistant.learning.evaluation import MAX_DROP, Reason, ReasonKind, SliceReport, gate
from smallai_assistant.task import Trial

# Fewer points than pixels of a wide screen: more would only make the page larger.
_MAX_POINTS = 400
# A point of the bold curve is the mean of the last tenth of the steps: single steps jump too much to be read.
_SMOOTHED_SHARE = 0.1
_N_TICKS = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled line of an axis; `at` in percent of its length."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One slice of the plot of gains. Places are in percent of the axis, None if the figure is not finite."""

    found: SliceReport
    kind: ReasonKind
    gain: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """The gain of each slice in points, with its 95 % interval.

    Attributes:
        zero: where no change lies, in percent of the axis.
        limit: where the largest allowed loss of a protected slice lies.
    """

    ticks: tuple[Tick, ...]
    rows: tuple[IntervalRow, ...]
    zero: float
    limit: float


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The losses of the training steps as SVG points, x from 0 to 1000 and y from 0 to 100, downwards.

    Attributes:
        raw, mean: each step, and the mean of the last `n_mean` steps.
        first, last: the loss of the first step, and the mean at the last one.
    """

    raw: str
    mean: str
    n_steps: int
    n_mean: int
    low: float
    high: float
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A setting that was tried, and whether its loss is the lowest."""

    setting: str
    loss: float
    is_best: bool


def interval_plot(slices: Sequence[SliceReport], reasons: Sequence[Reason] = ()) -> IntervalPlot | None:
    """Places the intervals on an axis that holds all of them whole; None without slices.

    Args:
        reasons: the gate's, which say what became of each slice.
    """
    if not slices:
        return None
    values = [value for found in slices for value in (found.change, found.low, found.high) if math.isfinite(value)]
    # Zero and the limit are always on it: they are what the gate compares with.
    low, high = 100 * min(0.0, -MAX_DROP, *values), 100 * max(0.0, MAX_DROP, *values)
    step = _tick_step((high - low) / _N_TICKS)
    # Rounded outwards to whole ticks; a figure on the edge itself would be drawn half.
    first, last = math.floor(low / step - 0.2), math.ceil(high / step + 0.2)
    # No score can change by more than 100 points: an axis beyond that would only squeeze the marks.
    first, last = max(first, math.floor(min(-100.0, low) / step)), min(last, math.ceil(max(100.0, high) / step))

    def at(points: float) -> float:
        return round(100 * (points / step - first) / (last - first), 3)

    def placed(share: float) -> float | None:
        return at(100 * share) if math.isfinite(share) else None

    # The gate is asked again because a report of an older version stored no kinds.
    known = (*gate(slices).reasons, *reasons)
    kinds = {reason.slice.title: reason.kind for reason in known if reason.slice is not None}
    rows = [
        IntervalRow(found, kinds[found.title], placed(found.change), placed(found.low), placed(found.high))
        for found in slices
    ]
    ticks = [Tick(at(number * step), f"{number * step:+g}" if number else "0") for number in range(first, last + 1)]
    return IntervalPlot(tuple(ticks), tuple(rows), zero=at(0.0), limit=at(-100 * MAX_DROP))


def loss_curve(losses: Sequence[float]) -> LossCurve | None:
    """Places the losses of training steps; None for less than two, of which no curve can be drawn."""
    if len(losses) < 2:
        return None
    n_mean = max(1, round(len(losses) * _SMOOTHED_SHARE))
    smooth = [sum(losses[max(0, n + 1 - n_mean) : n + 1]) / min(n + 1, n_mean) for n in range(len(losses))]
    low, high = min(losses), max(losses)
    # All losses may be equal.
    span = (high - low) or 1.0
    step = max(1, len(losses) // _MAX_POINTS)
    kept = sorted({*range(0, len(losses), step), len(losses) - 1})

    def points(values: Sequence[float]) -> str:
        return " ".join(f"{1000 * n / (len(losses) - 1):.1f},{100 * (high - values[n]) / span:.2f}" for n in kept)

    return LossCurve(points(losses), points(smooth), len(losses), n_mean, low, high, losses[0], smooth[-1])


def trial_rows(trials: Sequence[Trial]) -> list[TrialRow]:
    """The settings that were tried, in the order in which they were; of equal ones the first is the best."""
    best = min(range(len(trials)), key=lambda number: trials[number].loss, default=0)
    return [TrialRow(trial.setting, trial.loss, number == best) for number, trial in enumerate(trials)]


def _tick_step(wanted: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= wanted * (1 - 1e-9))
