"""Items that nobody has chosen yet stand where those stand that read most like them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smallai_recommend.interactions import Floats, Ints

Bools = npt.NDArray[np.bool_]

COLD_NEIGHBOURS = 30
COLD_SHARPNESS = 0.2  # a neighbour whose cosine is lower by this counts 1/e
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Texts:
    """Vectors of the catalogue's texts by item index, float32, shape (n_items, n_dimensions), zeros where none.

    Attributes:
        whole: of title and text.
        about: of the text alone, of the title where there is no text. Titles mislead: "Kids" is not for kids.
        has: which items have both.
    """

    whole: Floats
    about: Floats
    has: Bools


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Items without interactions and those with them that read most like each.

    Attributes:
        cold: shape (n_cold,).
        near: shape (n_cold, n_near), nearest first.
        weights: float32, same shape, rows sum to 1.
    """

    cold: Ints
    near: Ints
    weights: Floats


def nearest(vectors: Floats, cold: Ints, known: Ints) -> Neighbours:
    """For each cold item the known ones that read most like it, by the cosine of their vectors."""
    n_kept = min(COLD_NEIGHBOURS, len(known))
    near = np.zeros((len(cold), n_kept), dtype=np.intp)
    weights = np.zeros((len(cold), n_kept), dtype=np.float32)
    if n_kept:
        for start in range(0, len(cold), _BLOCK):
            rows = slice(start, start + _BLOCK)
            cosines = vectors[cold[rows]] @ vectors[known].T
            columns = np.argpartition(-cosines, n_kept - 1, axis=1)[:, :n_kept]
            columns = np.take_along_axis(columns, np.argsort(-np.take_along_axis(cosines, columns, 1), axis=1), 1)
            cosines = np.take_along_axis(cosines, columns, 1)
            decay = np.exp((cosines - cosines[:, :1]) / COLD_SHARPNESS)
            near[rows], weights[rows] = known[columns], decay / decay.sum(axis=1, keepdims=True)
    return Neighbours(cold, near, weights)
