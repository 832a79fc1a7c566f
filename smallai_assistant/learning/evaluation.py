"""Judging a candidate: the split, the paired bootstrap, and the gate that can say no."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from smallai_assistant.errors import EvalContaminated
from smallai_assistant.feedback import Example, Score
from smallai_assistant.learning.text import normalized

HELD_OUT_ONE_IN = 4
N_DRAWS = 10_000  # the tails of few examples lie far out
_DRAWN_AT_ONCE = 1_000_000
CONFIDENCE = 0.95
MAX_DROP = 0.01  # a point: what a protected slice may lose on average
_ROUNDING = 1e-9  # of a mean; a drop of a point exactly is allowed

SliceKind = Literal["target", "protected"]


@dataclass(frozen=True, slots=True)
class SliceReport:
    """One slice of the evaluation, before and after.

    Attributes:
        before, after: mean scores, 0 to 1.
        low, high: 95 % interval of `after - before`, from a paired bootstrap.
    """

    name: str
    kind: SliceKind
    n: int
    before: float
    after: float
    low: float
    high: float

    @property
    def change(self) -> float:
        """Of the mean, positive is better."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word, and the figures it rests on as sentences."""

    is_approved: bool
    reasons: tuple[str, ...]


def is_held_out(split_key: str) -> bool:
    """Whether examples with this key are for the evaluation: one in four by hash, now and in every later cycle."""
    return int(hashlib.sha256(split_key.encode()).hexdigest()[:8], 16) % HELD_OUT_ONE_IN == 0


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples. A prompt that stands on both sides is for the evaluation alone."""
    held_out = [example for example in examples if is_held_out(example.split_key)]
    asked = {normalized(each.prompt) for each in held_out}
    training = [
        example
        for example in examples
        if not is_held_out(example.split_key) and normalized(example.prompt) not in asked
    ]
    return training, held_out


def check_contamination(training: Sequence[Example], asked: Mapping[str, Sequence[Example]]) -> None:
    """Compares what is trained on with what is asked.

    Args:
        asked: the examples of every slice, by its name.

    Raises:
        EvalContaminated: a prompt is on both sides; the message names the feedback that it comes from.
    """
    trained = {normalized(each.prompt): each for each in training}
    for name, examples in asked.items():
        for example in examples:
            if (twin := trained.get(normalized(example.prompt))) is not None:
                raise EvalContaminated(
                    f"the example {twin.id} is trained on, and {example.id} of the slice {name!r} asks the same: "
                    f"{example.prompt[:80]!r} (feedback {', '.join(twin.feedback_ids) or 'unknown'})"
                )


def compare(
    name: str, kind: SliceKind, before: Sequence[Score], after: Sequence[Score], *, seed: int = 0
) -> SliceReport:
    """The slice's means, and the interval of their difference by a paired bootstrap over the examples.

    The bootstrap of Efron and Tibshirani 1993, chapter 13, paired over the same examples as in Koehn 2004. Its
    percentiles are those of Hesterberg 2015, section 5.3: without the wider tails it would be too sure of few examples.

    Raises:
        ValueError: the two are not of the same examples, or a value is not in [0, 1].
    """
    import numpy as np
    from scipy.special import ndtr, stdtrit

    if len(before) != len(after) or not before:
        raise ValueError(f"{name}: {len(before)} scores before and {len(after)} after")
    for each in (*before, *after):
        if not 0.0 <= each.value <= 1.0:
            raise ValueError(f"{name}: a score is {each.value}, not in [0, 1]")
    n = len(before)
    first = np.array([each.value for each in before], dtype=np.float64)
    second = np.array([each.value for each in after], dtype=np.float64)
    difference = second - first
    if n == 1:  # one example says nothing of the others
        return SliceReport(name, kind, 1, float(first[0]), float(second[0]), -1.0, 1.0)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            difference[random.integers(0, n, size=(size, n))].mean(axis=1)
            for size in _chunks(N_DRAWS, max(1, _DRAWN_AT_ONCE // n))
        ]
    )
    tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - CONFIDENCE) / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return SliceReport(name, kind, n, float(first.mean()), float(second.mean()), float(low), float(high))


def gate(slices: Sequence[SliceReport]) -> Verdict:
    """Approves where every target improves beyond doubt and nothing protected drops by more than a point."""
    reasons = []
    is_approved = any(each.kind == "target" for each in slices)
    for each in slices:
        figures = (
            f"{each.name}: {each.before:.1%} before, {each.after:.1%} after, change {100 * each.change:+.1f} points, "
            f"95 % interval {100 * each.low:+.1f} to {100 * each.high:+.1f}, n = {each.n}"
        )
        # Asked so that NaN is a no.
        is_fine = each.low > 0 if each.kind == "target" else each.change >= -MAX_DROP - _ROUNDING
        is_approved &= is_fine
        word = {
            ("target", True): "better on",
            ("target", False): "no sure improvement on",
            ("protected", True): "kept on",
            ("protected", False): "a loss on",
        }[each.kind, is_fine]
        reasons.append(f"{word} {figures}")
    return Verdict(is_approved, tuple(reasons))


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
