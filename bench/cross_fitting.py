"""What cross-fitting decides and at what risk, simulated: `python -m bench.cross_fitting`.

First the power of the gate: how often it sees a gain, by the number of held-out subjects. The number from which on one
in four is held out was chosen by it. Then the risk: a champion and a candidate, nearest class means in 16 dimensions,
learn five classes. In half of the cycles half of the new labels are random, so that the candidate is often worse.
Whether it is better is known from 4,000 other points. Counted is which candidates the gate approves, by cross-fitting
and by one in four.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from smallai_assistant import Example, Score
from smallai_assistant.feedback import HELD_OUT_ONE_IN
from smallai_assistant.learning.cross_fitting import MAX_SUBJECTS, folds_of
from smallai_assistant.learning.evaluation import compare, gate

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
N_CYCLES = 500
N_CLASSES, N_DIMENSIONS, N_TRUTH = 5, 16, 4000
# Points that the champion learned, new points, and distance of the classes in standard deviations.
SETTINGS = ((25, 25, 1.2), (10, 25, 1.2), (50, 25, 1.2), (25, 25, 0.8), (25, 50, 1.2))
MAX_FALSE = 0.05


def is_approved(before: FloatArray, after: FloatArray, seed: int) -> bool:
    """Returns the gate's decision on the scores of a target slice."""
    pairs = [[Score(float(value)) for value in values] for values in (before, after)]
    return gate([compare("new feedback", "target", *pairs, seed=seed)]).is_approved


def power(n: int, *, better: float = 0.4, worse: float = 0.1) -> float:
    """Returns the share of cycles that see the gain if these shares of `n` subjects get better and worse."""
    n_seen = 0
    for seed in range(N_CYCLES):
        random = np.random.default_rng(seed)
        drawn = random.random(n)
        same = (random.random(n) < 0.5).astype(np.float64)
        before = np.where(drawn < better, 0.0, np.where(drawn < better + worse, 1.0, same))
        after = np.where(drawn < better, 1.0, np.where(drawn < better + worse, 0.0, same))
        n_seen += is_approved(before, after, seed)
    return n_seen / N_CYCLES


def class_means(points: FloatArray, labels: IntArray) -> FloatArray:
    """Learns: returns the mean of each class; far away for a class without points."""
    far = np.full(N_DIMENSIONS, 9.0)
    return np.stack([points[labels == c].mean(0) if (labels == c).any() else far for c in range(N_CLASSES)])


def scores(means: FloatArray, points: FloatArray, labels: IntArray) -> FloatArray:
    """Returns 1 for each point whose nearest mean is that of its class, else 0."""
    nearest = ((points[:, None] - means) ** 2).sum(-1).argmin(1)
    return (nearest == labels).astype(np.float64)


def cycles(n_old: int, n_new: int, distance: float) -> Iterator[tuple[bool, bool, bool]]:
    """Yields for each cycle whether the candidate is better, and whether each way of judging approves it."""
    for seed in range(N_CYCLES):
        random = np.random.default_rng(seed)
        centers = random.normal(size=(N_CLASSES, N_DIMENSIONS)) * distance / np.sqrt(2)
        old, new, truth = (np.repeat(np.arange(N_CLASSES), n // N_CLASSES) for n in (n_old, n_new, N_TRUTH))
        old_points, new_points, points = (
            centers[labels] + random.normal(size=(len(labels), N_DIMENSIONS)) for labels in (old, new, truth)
        )
        if seed % 2:
            new = np.where(random.random(n_new) < 0.5, random.integers(0, N_CLASSES, n_new), new)
        champion = class_means(old_points, old)

        candidate = partial(_candidate, (old_points, old), (new_points, new))
        everything = np.ones(n_new, np.bool_)
        is_better = scores(candidate(everything), points, truth).mean() > scores(champion, points, truth).mean()
        before, after = scores(champion, new_points, new), np.zeros(n_new)
        examples = [Example(str(i), f"point {i}", str(label), f"{seed} {i}") for i, label in enumerate(new)]
        for fold in folds_of(examples):
            rest = everything.copy()
            rest[fold] = False
            after[fold] = scores(candidate(rest), new_points[fold], new[fold])
        held_out = random.permutation(n_new)[: n_new // HELD_OUT_ONE_IN]
        rest = everything.copy()
        rest[held_out] = False
        judged = scores(candidate(rest), new_points[held_out], new[held_out])
        yield bool(is_better), is_approved(before, after, seed), is_approved(before[held_out], judged, seed)


def _candidate(
    old: tuple[FloatArray, IntArray], new: tuple[FloatArray, IntArray], is_learned: npt.NDArray[np.bool_]
) -> FloatArray:
    points = np.concatenate([old[0], new[0][is_learned]])
    return class_means(points, np.concatenate([old[1], new[1][is_learned]]))


def main() -> int:
    """Prints the figures and a JSON line. Returns 1 if too many worse candidates are approved, else 0."""
    by_number = {n: power(n) for n in (6, 12, 20, 30, MAX_SUBJECTS, 60)}
    for n, share in by_number.items():
        print(f"{n:3} held-out subjects, 40 % better and 10 % worse: the gate sees it in {share:.0%} of the cycles")
    counts: Counter[str] = Counter()
    for setting in SETTINGS:
        for is_better, by_folds, by_quarter in cycles(*setting):
            side = "better" if is_better else "worse"
            counts.update({side: 1, f"{side}_by_folds": int(by_folds), f"{side}_by_quarter": int(by_quarter)})
        print(f"  {setting}: {dict(counts)}", flush=True)
    false = counts["worse_by_folds"] / counts["worse"]
    print(f"  of the worse candidates cross-fitting approves {false:.1%} (at most {MAX_FALSE:.0%})")
    print(json.dumps({"bench": "cross_fitting", "power": by_number, "false": round(false, 4), **counts}))
    return 0 if false <= MAX_FALSE else 1


if __name__ == "__main__":
    sys.exit(main())
