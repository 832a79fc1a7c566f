"""Judging a candidate: the train / held-out split, the paired bootstrap, and the gate that may refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress
from typing import Literal

from smallai_assistant.errors import EvalContaminated
from smallai_assistant.feedback import Example, Score, is_held_out
from smallai_assistant.learning.text import normalized

# With few examples the widened percentiles lie far out in the tails, where 1,000 draws would leave a handful of means.
N_DRAWS = 10_000
# Bounds the memory of one batch of draws to 8 MB of indexes.
_MAX_INDEXES_AT_ONCE = 1_000_000
CONFIDENCE = 0.95
# One point: one more wrong answer in a protected slice of 100 is not yet a loss.
MAX_DROP = 0.01
# The mean of 100 scores is rounded; a drop of exactly one point must still pass.
_ROUNDING = 1e-9
# More feedback than this nobody gives: then no number is named.
_MAX_WANTED = 100_000

SliceKind = Literal["target", "protected"]


@dataclass(frozen=True, slots=True)
class SliceReport:
    """The scores of one slice of the evaluation, before and after.

    Attributes:
        kind: a `target` slice must improve, a `protected` slice must not get worse.
        n: number of subjects, see `Example.subject`. They are what the evidence counts.
        before, after: mean scores over the subjects, 0 to 1.
        low, high: lower and upper end of the 95 % interval of `after - before`, from a paired bootstrap over the
            subjects.
        n_examples: number of examples: more than `n` if a subject was asked in several wordings. 0 in reports that an
            older version stored.
        component: the component that the examples are of, see `Example.component`; empty if they are of none.
    """

    name: str
    kind: SliceKind
    n: int
    before: float
    after: float
    low: float
    high: float
    n_examples: int = 0
    component: str = ""

    @property
    def title(self) -> str:
        """The name for people, with that of the component."""
        return f"{self.name} ({self.component})" if self.component else self.name

    @property
    def change(self) -> float:
        """Change of the mean score, -1 to 1; positive is better."""
        return self.after - self.before


class ReasonKind(StrEnum):
    """What a reason says. Programs read this; people read the sentence."""

    IMPROVED = "improved"
    NOT_SURE = "not_sure"
    NOTHING_NEW = "nothing_new"
    KEPT = "kept"
    LOST = "lost"
    PLUGIN_APPROVED = "plugin_approved"
    PLUGIN_REFUSED = "plugin_refused"
    CHAMPION_CHANGED = "champion_changed"
    NO_ANSWER = "no_answer"
    TOO_LITTLE = "too_little"
    NOT_TRAINED = "not_trained"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a decision on a candidate. `str(reason)` is the sentence for people.

    Attributes:
        kind: `improved`, `not_sure`, `nothing_new`, `kept` and `lost` are the gate's, one for each slice;
            `plugin_approved` and `plugin_refused` are the word of a plugin's `approve_adapter`; `champion_changed` and
            `no_answer` say why an approved candidate does not serve; `too_little` and `not_trained` say why a component
            was not judged; `recorded` is a sentence that an older version stored without a kind.
        slice: the figures, if the reason is the gate's.
        plugin: the name of the plugin, if the reason is a plugin's.
        detail: the error of a candidate that did not answer, or the recorded sentence.
        n_missing: about how many more subjects would decide, if they turn out like these; 0 unless the kind is
            `too_little`, or it is `not_sure` and the answers became better in the mean.
    """

    kind: ReasonKind
    slice: SliceReport | None = None
    plugin: str = ""
    detail: str = ""
    n_missing: int = 0

    def __str__(self) -> str:
        match self.kind:
            case ReasonKind.PLUGIN_APPROVED:
                return f"the plugin {self.plugin} approved it"
            case ReasonKind.PLUGIN_REFUSED:
                return f"the plugin {self.plugin} refused it"
            case ReasonKind.CHAMPION_CHANGED:
                return "not promoted: what serves changed while the cycle ran; promote it by hand if it is better"
            case ReasonKind.NO_ANSWER:
                return f"it did not answer: {self.detail}"
            case ReasonKind.RECORDED:
                return self.detail
            case ReasonKind.TOO_LITTLE:
                return f"too little new feedback: about {self.n_missing} more are needed"
            case ReasonKind.NOT_TRAINED:
                return "nothing was trained: the time was too short, or its feedback is all of one kind"
        assert self.slice is not None
        words = {
            ReasonKind.IMPROVED: "better on",
            ReasonKind.NOT_SURE: "no sure improvement on",
            ReasonKind.NOTHING_NEW: "nothing new in",
            ReasonKind.KEPT: "kept on",
            ReasonKind.LOST: "a loss on",
        }
        found = self.slice
        figures = f"{found.before:.1%} before, {found.after:.1%} after, change {100 * found.change:+.1f} points"
        interval = f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        several = f" ({found.n_examples} examples)" if found.n_examples > found.n else ""
        more = f"; feedback on about {self.n_missing} more would decide" if self.n_missing else ""
        return f"{words[self.kind]} {found.title}: {figures}, {interval}, n = {found.n}{several}{more}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision, with one reason for each slice."""

    is_approved: bool
    reasons: tuple[Reason, ...]


def split(
    examples: Sequence[Example], *, is_known: Callable[[Example], bool] = lambda _: False
) -> tuple[list[Example], list[Example]]:
    """Splits examples into those to train on and those to evaluate with.

    A prompt that would be on both sides stays on the held-out side only.

    Args:
        is_known: whether what serves learned the example, or its twin, although its key is held out. Such an example
            is trained on: asking it would compare one that knows the answer with one that does not.

    Returns:
        The training examples and the held-out examples, each in the given order.
    """
    is_asked = [is_held_out(example.split_key) and not is_known(example) for example in examples]
    held_out = list(compress(examples, is_asked))
    asked = {normalized(example.prompt) for example in held_out}
    training = [
        example
        for example, held in zip(examples, is_asked, strict=True)
        if not held and normalized(example.prompt) not in asked
    ]
    return training, held_out


def by_age(examples: Sequence[Example], known: frozenset[str]) -> tuple[list[Example], list[Example]]:
    """Splits examples into old and new ones: an old one is made from `known` feedback alone."""
    old: list[Example] = []
    new: list[Example] = []
    for example in examples:
        (old if example.feedback_ids and known.issuperset(example.feedback_ids) else new).append(example)
    return old, new


def check_contamination(training: Sequence[Example], asked: Mapping[str, Sequence[Example]]) -> None:
    """Checks that no prompt is both trained on and asked in the evaluation.

    Args:
        training: what the candidate learns from.
        asked: the examples of every slice, by the slice's name.

    Raises:
        EvalContaminated: a prompt is on both sides; the message names both examples and the feedback they come from.
    """
    trained = {normalized(example.prompt): example for example in training}
    for name, examples in asked.items():
        for example in examples:
            if (twin := trained.get(normalized(example.prompt))) is not None:
                raise EvalContaminated(
                    f"the example {twin.id} is trained on, and {example.id} of the slice {name!r} asks the same: "
                    f"{example.prompt[:80]!r} (feedback {', '.join(twin.feedback_ids) or 'unknown'})"
                )


def subject_of(example: Example) -> str:
    """Returns what the example is evidence about; an example without a subject is one of its own."""
    return f"subject {example.subject}" if example.subject else f"example {example.id}"


def n_subjects(examples: Sequence[Example]) -> int:
    """Returns how many different subjects the examples are about."""
    return len({subject_of(example) for example in examples})


def compare(
    name: str,
    kind: SliceKind,
    before: Sequence[Score],
    after: Sequence[Score],
    *,
    subjects: Sequence[str] | None = None,
    seed: int = 0,
    component: str = "",
) -> SliceReport:
    """Computes a slice's means and the interval of their difference, by a paired bootstrap over the subjects.

    The bootstrap is that of Efron and Tibshirani 1993, chapter 13, paired over the same examples as in Koehn 2004. What
    is drawn are subjects: twelve wordings of one question are right or wrong together, so they are one piece of
    evidence and not twelve (the cluster bootstrap of Davison and Hinkley 1997, section 3.8). The percentiles are
    widened as in Hesterberg 2015, section 5.3, because plain ones are too narrow for few subjects.

    Args:
        before, after: scores of the same examples in the same order, each in [0, 1].
        subjects: the subject of each example; None if every example is one of its own.
        seed: of the random draws; the same seed gives the same interval.
        component: the component that the examples are of.

    Raises:
        ValueError: the sides are empty or of different lengths, or a value is not in [0, 1].
    """
    import numpy as np
    from scipy.special import ndtr, stdtrit

    if len(before) != len(after) or not before:
        raise ValueError(f"{name}: {len(before)} scores before and {len(after)} after")
    if subjects is not None and len(subjects) != len(before):
        raise ValueError(f"{name}: {len(before)} scores of {len(subjects)} subjects")
    for score in (*before, *after):
        # Written so that NaN fails, too.
        if not 0.0 <= score.value <= 1.0:
            raise ValueError(f"{name}: a score is {score.value}, not in [0, 1]")
    first, second = (
        np.array(_means(scores, subjects or range(len(scores))), dtype=np.float64) for scores in (before, after)
    )
    difference = second - first
    n = len(difference)
    # The variance of one subject is unknown, so the interval is everything that is possible.
    if n == 1:
        return SliceReport(name, kind, 1, float(first[0]), float(second[0]), -1.0, 1.0, len(before), component)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            difference[random.integers(0, n, size=(size, n))].mean(axis=1)
            for size in _batch_sizes(N_DRAWS, max(1, _MAX_INDEXES_AT_ONCE // n))
        ]
    )
    # The normal probability of the t quantile, scaled by sqrt(n / (n - 1)): Hesterberg's "expanded percentile".
    tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - CONFIDENCE) / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    ends = float(low), float(high)
    sides = float(first.mean()), float(second.mean())
    return SliceReport(name, kind, n, *sides, *ends, n_examples=len(before), component=component)


def gate(
    slices: Sequence[SliceReport],
    *,
    n_per_judged: int = 1,
    needs_target: bool = True,
    judged_by_later: bool = False,
) -> Verdict:
    """Decides on a candidate.

    Approves if the lower 95 % bound of every target's gain is above zero and no protected slice loses more than one
    point.

    Args:
        n_per_judged: how many subjects it takes until one more is judged by; with one in four held out, four.
        needs_target: whether it refuses if there is no target slice.
        judged_by_later: whether the targets are later events and not what was taught, see `LearningTask.split_by`.
    """
    kinds = [_kind_of(found, judged_by_later=judged_by_later) for found in slices]
    reasons = [
        Reason(kind, found, n_missing=n_per_judged * _n_missing(found) if kind is ReasonKind.NOT_SURE else 0)
        for kind, found in zip(kinds, slices, strict=True)
    ]
    has_target = any(found.kind == "target" for found in slices)
    is_approved = (has_target or not needs_target) and all(
        reason.kind in (ReasonKind.IMPROVED, ReasonKind.KEPT) for reason in reasons
    )
    return Verdict(is_approved, tuple(reasons))


def nothing_is_new(reasons: Sequence[Reason]) -> bool:
    """Whether a candidate was not approved because nothing could improve, and for no other reason."""
    kinds = {reason.kind for reason in reasons}
    return ReasonKind.NOTHING_NEW in kinds and kinds <= {ReasonKind.NOTHING_NEW, ReasonKind.IMPROVED, ReasonKind.KEPT}


def _kind_of(found: SliceReport, *, judged_by_later: bool) -> ReasonKind:
    # All comparisons are false for NaN, so a figure that could not be computed never approves.
    if found.kind == "protected":
        return ReasonKind.KEPT if found.change >= -MAX_DROP - _ROUNDING else ReasonKind.LOST
    if found.low > 0:
        return ReasonKind.IMPROVED
    # Equally good at what was taught may also mean that the training failed, unless everything was right before.
    could_not_improve = judged_by_later or found.before >= 1.0 - _ROUNDING
    # No more of the same would show a gain, or it is surely less than a point, for which no version is worth keeping.
    no_gain = not _n_missing(found) or found.high <= MAX_DROP + _ROUNDING
    is_as_good = no_gain and found.change >= -MAX_DROP - _ROUNDING
    return ReasonKind.NOTHING_NEW if could_not_improve and is_as_good else ReasonKind.NOT_SURE


def _n_missing(found: SliceReport) -> int:
    """Returns about how many more subjects would put the lower end of the interval above zero."""
    # More of the same does not decide for a candidate that is not better. Written so that NaN fails, too.
    if not found.change > 0:
        return 0
    # The interval's width falls with the square root of the number. A product, because a power may overflow.
    ratio = (found.change - found.low) / found.change
    wanted = found.n * (ratio * ratio)
    return max(1, math.ceil(wanted - found.n)) if wanted < _MAX_WANTED else 0


def _means(scores: Sequence[Score], subjects: Sequence[Hashable]) -> list[float]:
    """Returns the mean score of each subject, in the order in which the subjects first appear."""
    values: dict[Hashable, list[float]] = {}
    for score, subject in zip(scores, subjects, strict=True):
        values.setdefault(subject, []).append(score.value)
    return [sum(found) / len(found) for found in values.values()]


def _batch_sizes(total: int, limit: int) -> list[int]:
    """Splits `total` draws into batches of at most `limit`."""
    return [min(limit, total - start) for start in range(0, total, limit)]
