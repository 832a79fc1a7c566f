"""The head of an adapter: a linear classifier of the taught classes on the frozen network's vectors.

It is fitted by regularized least squares on class indicators (Rifkin, Yeo and Poggio 2003, section 3). A closed form
gives the leave-one-picture-out predictions, by which the strength of the regularization and the temperature are chosen.
No pictures have to be held out for that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smallai_assistant import errors
from smallai_image.blending import ClassSimilarity, TaughtClasses, softmax, usual_similarity
from smallai_image.feedback import label_key

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from smallai_image.features import Features

    FloatArray = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

_WEIGHTS_FILE, _LABELS_FILE = "head.safetensors", "head.json"
# The settings that are tried; the best by leave-one-out is taken.
STRENGTHS = (0.1, 0.3, 1.0, 3.0)
_TEMPERATURES = (0.05, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3)
# Used if too few pictures have another one of their class. By likelihood these are best for one picture of each class.
_USUAL_STRENGTH, _USUAL_TEMPERATURE = 0.3, 0.05
# Minimum number of pictures that have another one of their class, to choose settings by leave-one-out.
_MIN_JUDGED = 6
# The share of a picture's weight that the picture itself has; its augmented views divide the rest.
_OWN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier.

    Attributes:
        labels: the n classes.
        counts: number of training pictures of each class.
        means: mean vector of each class, float32, shape (n, n_dimensions). It is not scaled to unit length, so that its
            product with a picture's vector is the mean cosine similarity to the class's pictures.
        weights: float32, shape (n, n_dimensions). The scores are `weights @ (vector - center)`.
        center: float32, shape (n_dimensions,).
        temperature: divides the scores before the softmax.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    means: FloatArray
    weights: FloatArray
    center: FloatArray
    temperature: float

    def similarities(self, features: Features, *, among: Collection[str] | None = None) -> dict[str, ClassSimilarity]:
        """Returns the picture's similarity to the training pictures of each class, by label.

        Args:
            among: keys of the labels to compare with; None for all.
        """
        found = {}
        for i in self._known(among):
            mean, n = self.means[i], self.counts[i]
            found[self.labels[i]] = ClassSimilarity(
                float(mean @ features.vector), n, usual_similarity(float(mean @ mean), n)
            )
        return found

    def probabilities(self, features: Features, *, among: Collection[str] | None = None) -> dict[str, float]:
        """Returns the probability of each class, given that the picture is of one of them. They sum to 1.

        Args:
            among: keys of the labels to choose from; None for all.
        """
        known = self._known(among)
        if not known:
            return {}
        scores = self.weights[known] @ (features.vector - self.center)
        named = {self.labels[i]: float(score) for i, score in zip(known, scores, strict=True)}
        return softmax(named, temperature=self.temperature)

    def classes(self, features: Features, *, among: Collection[str] | None = None) -> TaughtClasses:
        """Returns what the head knows of a picture; for `among` see `similarities`."""
        return TaughtClasses(self.similarities(features, among=among), self.probabilities(features, among=among))

    def _known(self, among: Collection[str] | None) -> list[int]:
        return [i for i, label in enumerate(self.labels) if among is None or label_key(label) in among]

    def save(self, folder: Path) -> None:
        """Writes the head into the adapter's folder."""
        from safetensors.numpy import save_file

        tensors = {"means": self.means, "weights": self.weights, "center": self.center}
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / _WEIGHTS_FILE)
        table = {"labels": self.labels, "counts": self.counts, "temperature": self.temperature}
        (folder / _LABELS_FILE).write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Reads the head of the adapter in the folder.

        Raises:
            AdapterMismatch: the files are not a head.
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
    strengths: Sequence[float] = STRENGTHS,
    on_trial: Callable[[float, str, float], None] = lambda *_: None,
) -> Head:
    """Fits a head.

    Args:
        views: float32, shape (n_pictures, n_views, n_dimensions). The first view is the picture itself, the others are
            augmented.
        labels: the label of each picture, two or more different ones.
        weights: how much each picture counts; positive.
        strengths: the strengths of the regularization that are tried.
        on_trial: receives, for each setting that is tried, the fraction done in [0, 1], the setting as text, and the
            leave-one-picture-out cross entropy in nats.
    """
    names: dict[str, str] = {}
    for label in labels:
        names.setdefault(label_key(label), label)
    keys = list(names)
    class_of = np.array([keys.index(label_key(label)) for label in labels])
    _, n_views, n_dimensions = views.shape
    means = np.stack(
        [
            np.average(views[class_of == c, 0], axis=0, weights=np.asarray(weights)[class_of == c])
            for c in range(len(keys))
        ]
    )
    # The mean of the class means and not of all pictures: a class with many pictures must not pull it to its side.
    center = means.mean(0)
    per_view = np.full(n_views, (1 - _OWN_SHARE) / max(1, n_views - 1))
    per_view[0] = _OWN_SHARE if n_views > 1 else 1.0
    # Scaling a row and its target by the square root of a weight multiplies the squared error by the weight.
    scale = np.sqrt(np.outer(np.asarray(weights, np.float64), per_view)).reshape(-1, 1)
    rows = (views.reshape(-1, n_dimensions) - center).astype(np.float64) * scale
    targets = (np.eye(len(keys))[np.repeat(class_of, n_views)] - 1 / len(keys)) * scale
    ridge = Ridge(rows, targets, n_views)
    counts = np.bincount(class_of)
    # Without its only picture a class has none left to recognize the picture by, so such pictures do not count.
    judged = counts[class_of] > 1
    best = (np.inf, _USUAL_STRENGTH, _USUAL_TEMPERATURE)
    if judged.sum() >= _MIN_JUDGED:
        for step, strength in enumerate(strengths, 1):
            scores = ridge.leave_one_out(strength) / scale[::n_views]
            losses = {t: _cross_entropy(scores[judged] / t, class_of[judged]) for t in _TEMPERATURES}
            temperature = min(losses, key=losses.__getitem__)
            best = min(best, (losses[temperature], strength, temperature))
            on_trial(step / len(strengths), f"strength {strength:g}", losses[temperature])
    return Head(
        labels=tuple(names.values()),
        counts=tuple(int(count) for count in counts),
        means=means.astype(np.float32),
        weights=ridge.weights(best[1]).astype(np.float32),
        center=center.astype(np.float32),
        temperature=best[2],
    )


class Ridge:
    """Ridge regression, for every strength of the penalty from one eigendecomposition.

    Args:
        rows: float64, shape (n_rows, n_dimensions). Each picture has `n_views` consecutive rows.
        targets: float64, shape (n_rows, n_classes).
    """

    def __init__(self, rows: Float64Array, targets: Float64Array, n_views: int) -> None:
        self._rows, self._targets, self._n_views = rows, targets, n_views
        # The smaller Gram matrix is decomposed: with few pictures that of the rows, with many that of the dimensions.
        self._is_wide = rows.shape[0] < rows.shape[1]
        gram = rows @ rows.T if self._is_wide else rows.T @ rows
        values, self._axes = np.linalg.eigh(gram)
        self._values = np.maximum(values, 0.0)  # rounding can make a zero eigenvalue negative
        self._on_axes = self._axes * np.sqrt(self._values) if self._is_wide else rows @ self._axes

    def weights(self, strength: float) -> Float64Array:
        """Returns the fitted weights: float64, shape (n_classes, n_dimensions)."""
        if self._is_wide:
            solved = self._axes @ ((self._axes.T @ self._targets) / (self._values + strength)[:, None])
            wide: Float64Array = solved.T @ self._rows
            return wide
        solved = (self._on_axes.T @ self._targets) / (self._values + strength)[:, None]
        weights: Float64Array = (self._axes @ solved).T
        return weights

    def leave_one_out(self, strength: float) -> Float64Array:
        """Returns the scores of each picture's first row by weights fitted without any of the picture's rows.

        With the hat matrix H, the residuals of a block b that is left out are `(I - H_bb)^-1 (y - Hy)_b`. This is the
        block form of the leave-one-out formula (Golub, Heath and Wahba 1979, equation 1.4).

        Returns:
            float64, shape (n_pictures, n_classes).
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
    """Returns the mean cross entropy in nats."""
    logits = logits - logits.max(1, keepdims=True)  # so that exp() does not overflow
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-logits[np.arange(len(truth)), truth].mean())
