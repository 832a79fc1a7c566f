"""What was learned into weights: a linear classifier of the taught classes on the frozen network's vectors.

Regularized least squares on the classes' indicators (Rifkin, Yeo and Poggio 2003, section 3), with a closed form that
also says how each picture would be classified by all the others: by that the strength of the regularization and the
sharpness of the scores are chosen, without setting pictures aside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smallai_assistant import errors
from smallai_image.blending import Likeness, shares_of
from smallai_image.feedback import label_key

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from smallai_image.features import Seen

    FloatArray = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

_WEIGHTS_FILE, _LABELS_FILE = "head.safetensors", "head.json"
_STRENGTHS = (0.1, 0.3, 1.0, 3.0)
_TEMPERATURES = (0.05, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3)
# Where too few pictures have another of their class to be judged by; by likelihood these are best for one picture each.
_USUAL_STRENGTH, _USUAL_TEMPERATURE = 0.3, 0.05
_MIN_JUDGED = 6
_OWN_SHARE = 0.5  # of a picture's weight, beside its changed views


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier.

    Attributes:
        labels: what it knows, `n` of them.
        counts: how many pictures each was learned from.
        means: of each class's vectors, float32, shape (n, n_dimensions); not of length 1, so that the product with a
            picture is the mean cosine with the class's pictures.
        weights, center: the scores are `weights @ (vector - center)`.
        temperature: divides the scores.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    means: FloatArray
    weights: FloatArray
    center: FloatArray
    temperature: float

    def likeness(self, seen: Seen, *, among: Collection[str] | None = None) -> dict[str, Likeness]:
        """How like each class's pictures this one is.

        Args:
            among: the keys of the only labels that count.
        """
        return {
            self.labels[i]: Likeness(float(self.means[i] @ seen.vector), self.counts[i]) for i in self._known(among)
        }

    def shares(self, seen: Seen, *, among: Collection[str] | None = None) -> dict[str, float]:
        """Of the same classes, should it be one of them; they sum to 1."""
        known = self._known(among)
        if not known:
            return {}
        scores = self.weights[known] @ (seen.vector - self.center)
        named = {self.labels[i]: float(score) for i, score in zip(known, scores, strict=True)}
        return shares_of(named, temperature=self.temperature)

    def _known(self, among: Collection[str] | None) -> list[int]:
        return [i for i, label in enumerate(self.labels) if among is None or label_key(label) in among]

    def save(self, folder: Path) -> None:
        """Writes it into the folder."""
        from safetensors.numpy import save_file

        tensors = {"means": self.means, "weights": self.weights, "center": self.center}
        save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, folder / _WEIGHTS_FILE)
        table = {"labels": self.labels, "counts": self.counts, "temperature": self.temperature}
        (folder / _LABELS_FILE).write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Reads it again.

        Raises:
            AdapterMismatch: the files are not of a head.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            table = json.loads((folder / _LABELS_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS_FILE)
            head = cls(
                labels=tuple(map(str, table["labels"])),
                counts=tuple(map(int, table["counts"])),
                means=tensors["means"],
                weights=tensors["weights"],
                center=tensors["center"],
                temperature=float(table["temperature"]),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise errors.AdapterMismatch(f"{folder.name}: not a picture head: {error}") from error
        shape = (len(head.labels), *head.center.shape)
        if head.means.shape != shape or head.weights.shape != shape or not 0 < head.temperature < 1e3:
            raise errors.AdapterMismatch(f"{folder.name}: a picture head of {shape} whose parts do not fit together")
        return head


def fit(
    views: FloatArray,
    labels: Sequence[str],
    weights: Sequence[float],
    *,
    on_trial: Callable[[float, str, float], None] = lambda *_: None,
) -> Head:
    """Fits a head.

    Args:
        views: the pictures' vectors, shape (n_pictures, n_views, n_dimensions); the first view is the picture itself.
        labels: of each picture; two or more different ones.
        weights: how much each picture counts, in (0, 1].
        on_trial: told the fraction done, the setting that was tried, and the cross-entropy of pictures as classified
            by the others.
    """
    names: dict[str, str] = {}
    for label in labels:
        names.setdefault(label_key(label), label)
    keys = list(names)
    of = np.array([keys.index(label_key(label)) for label in labels])
    _, n_views, n_dimensions = views.shape
    means = np.stack(
        [np.average(views[of == c, 0], axis=0, weights=np.asarray(weights)[of == c]) for c in range(len(keys))]
    )
    center = means.mean(0)
    per_view = np.full(n_views, (1 - _OWN_SHARE) / max(1, n_views - 1))
    per_view[0] = _OWN_SHARE if n_views > 1 else 1.0
    scale = np.sqrt(np.outer(np.asarray(weights, np.float64), per_view)).reshape(-1, 1)
    rows = (views.reshape(-1, n_dimensions) - center).astype(np.float64) * scale
    targets = (np.eye(len(keys))[np.repeat(of, n_views)] - 1 / len(keys)) * scale
    solver = _Ridge(rows, targets, n_views)
    per_class = np.bincount(of)
    judged = per_class[of] > 1
    best = (np.inf, _USUAL_STRENGTH, _USUAL_TEMPERATURE)
    if judged.sum() >= _MIN_JUDGED:
        for step, strength in enumerate(_STRENGTHS, 1):
            scores = solver.by_the_others(strength) / scale[::n_views]
            losses = {t: _cross_entropy(scores[judged] / t, of[judged]) for t in _TEMPERATURES}
            temperature = min(losses, key=losses.__getitem__)
            best = min(best, (losses[temperature], strength, temperature))
            on_trial(step / len(_STRENGTHS), f"strength {strength:g}", losses[temperature])
    return Head(
        labels=tuple(names.values()),
        counts=tuple(int(each) for each in per_class),
        means=means.astype(np.float32),
        weights=solver.weights(best[1]).astype(np.float32),
        center=center.astype(np.float32),
        temperature=best[2],
    )


class _Ridge:
    """Least squares with a penalty on the weights' squares, for every penalty from one decomposition.

    Args:
        rows: shape (n_rows, n_dimensions); `n_views` rows after each other are of one picture.
        targets: shape (n_rows, n_classes).
    """

    def __init__(self, rows: Float64Array, targets: Float64Array, n_views: int) -> None:
        self._rows, self._targets, self._n_views = rows, targets, n_views
        self._is_wide = rows.shape[0] < rows.shape[1]
        gram = rows @ rows.T if self._is_wide else rows.T @ rows
        values, self._axes = np.linalg.eigh(gram)
        self._values = np.maximum(values, 0.0)
        self._on_axes = self._axes * np.sqrt(self._values) if self._is_wide else rows @ self._axes

    def weights(self, strength: float) -> Float64Array:
        """Shape (n_classes, n_dimensions)."""
        if self._is_wide:
            solved = self._axes @ ((self._axes.T @ self._targets) / (self._values + strength)[:, None])
            wide: Float64Array = solved.T @ self._rows
            return wide
        solved = (self._on_axes.T @ self._targets) / (self._values + strength)[:, None]
        weights: Float64Array = (self._axes @ solved).T
        return weights

    def by_the_others(self, strength: float) -> Float64Array:
        """Scores of each picture's first row by weights that were fitted without the picture, shape (n, n_classes).

        With the hat matrix H the residuals without a block b are `(I - H_bb)^-1 (y - Hy)_b`: the block form of the
        leave-one-out formula (Golub, Heath and Wahba 1979, equation 1.4).
        """
        shrunk = self._on_axes / (self._values + strength)
        fitted = shrunk @ (self._on_axes.T @ self._targets)
        n, v = len(self._rows) // self._n_views, self._n_views
        blocks = self._on_axes.reshape(n, v, -1)
        hat = shrunk.reshape(n, v, -1) @ blocks.transpose(0, 2, 1)
        residuals = (self._targets - fitted).reshape(n, v, -1)
        without = np.linalg.solve(np.eye(v) - hat, residuals)
        scores: Float64Array = self._targets[::v] - without[:, 0]
        return scores


def _cross_entropy(logits: Float64Array, truth: npt.NDArray[np.int64]) -> float:
    logits = logits - logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-logits[np.arange(len(truth)), truth].mean())
