"""Places items without interactions: each is scored like the known items whose texts are most similar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smallai_recommend.interactions import Floats, Ints

# bench/recommend.py measures both on films whose interactions are hidden.
COLD_NEIGHBOURS = 30
COLD_SHARPNESS = 0.2  # a neighbour whose cosine is lower by this much counts 1/e
_BLOCK = 512  # rows of the similarity matrix in memory at once


@dataclass(frozen=True, slots=True)
class ColdNeighbours:
    """Cold items (no interactions) and for each the warm items (with interactions) that read most like it.

    Attributes:
        cold: item indices, shape (n_cold,).
        near: item indices, shape (n_cold, n_near), nearest first.
        weights: float32, shape (n_cold, n_near); each row sums to 1.
    """

    cold: Ints
    near: Ints
    weights: Floats


def nearest_warm(vectors: Floats, cold: Ints, warm: Ints) -> ColdNeighbours:
    """Finds for each cold item the warm items with the highest cosine.

    Args:
        vectors: float32, shape (n_items, n_dimensions), rows of length 1.
        cold: item indices, shape (n_cold,).
        warm: item indices, shape (n_warm,).
    """
    n_kept = min(COLD_NEIGHBOURS, len(warm))
    near = np.zeros((len(cold), n_kept), dtype=np.intp)
    weights = np.zeros((len(cold), n_kept), dtype=np.float32)
    if n_kept:
        for start in range(0, len(cold), _BLOCK):
            rows = slice(start, start + _BLOCK)
            cosines = vectors[cold[rows]] @ vectors[warm].T
            # Partition first and sort only the few that are kept: a full sort of each row is not needed.
            columns = np.argpartition(-cosines, n_kept - 1, axis=1)[:, :n_kept]
            columns = np.take_along_axis(columns, np.argsort(-np.take_along_axis(cosines, columns, 1), axis=1), 1)
            cosines = np.take_along_axis(cosines, columns, 1)
            # A softmax relative to the nearest one: what counts is how much worse the others fit.
            decay = np.exp((cosines - cosines[:, :1]) / COLD_SHARPNESS)
            near[rows], weights[rows] = warm[columns], decay / decay.sum(axis=1, keepdims=True)
    return ColdNeighbours(cold, near, weights)
