"""Item-item weights: which items the same users choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smallai_recommend.interactions import Floats, InteractionStats, Ints
from smallai_recommend.opinions import Support

# All constants here and in interactions.py were chosen on MovieLens 100K by the mean over each user's second-, third-
# and fourth-to-last choice, never by the last: `python -m bench.recommend --tuning` prints both.
RIDGE = 100.0
NEAR_SCALE = 10.0  # two choices of a user count the more as a pair, the nearer they are in the history ...
NEAR_FLOOR = 0.3  # ... but never less than this
HISTORY_SCALE = 10.0  # when a user is scored, a choice fades over ten newer ones ...
HISTORY_FLOOR = 0.1  # ... down to this
RECENT_SCALE = 3.0  # what is chosen next depends on the last few choices only
RECENT_ITEMS = 20
MAX_HISTORY = 1_000  # a user's latest distinct items: the history of a robot must not make every query slow
NEIGHBOURS = 100  # kept per item if there are too many items for EASE
_BLOCK_BYTES = 128 * 2**20  # of the similarity matrix in memory at once


@dataclass(frozen=True, slots=True)
class Settings:
    """How weights are computed and mixed. A learning cycle searches for better values.

    Attributes:
        ridge: L2 penalty of EASE; a larger one trusts rare pairs less.
        half_life_s: age in seconds, relative to the newest choice, at which a choice counts half; None ignores age.
        next: weight of the transitions; the item-item weights have weight 1.
        popular: weight of the popularity.
    """

    ridge: float = RIDGE
    half_life_s: float | None = None
    next: float = 0.6
    popular: float = 0.2


class EaseModel:
    """Item-item weights: EASE (Steck 2019), or the nearest neighbours by cosine if there are too many items for it.

    EASE is computed here over a weighted co-occurrence matrix: two choices of a user count by their distance in the
    history, `NEAR_FLOOR + (1 - NEAR_FLOOR) * exp(-distance / NEAR_SCALE)`. This kernel is positive definite, so the
    matrix stays positive definite and has an inverse.

    Args:
        stats: the histories to learn from.
        max_dense_items: the largest number of items for EASE. Its time grows with the third power of their number:
            10,000 items need about 1 GB and a minute on two cores.
        settings: how the weights are computed.

    Attributes:
        is_ease: True for EASE, False for nearest neighbours.
        n_interactions: number of choices that the weights were computed from.
        weights: from the row's item to the column's, float32, shape (n_items, n_items): an array or a scipy csr matrix.
    """

    def __init__(
        self, stats: InteractionStats, *, max_dense_items: int = 10_000, settings: Settings = Settings()
    ) -> None:
        self.n_interactions = stats.n_interactions
        self._n_items = stats.n_items
        self.is_ease = self._n_items <= max_dense_items
        compute = _ease if self.is_ease else _neighbours
        self.weights: Any = compute(stats, settings)

    @classmethod
    def of_weights(cls, weights: Any, *, n_interactions: int, is_ease: bool) -> EaseModel:
        """Wraps weights that were computed before.

        Args:
            weights: scipy csr matrix, float32, shape (n_items, n_items).
            n_interactions: number of choices that they were computed from.
            is_ease: whether they come from EASE.
        """
        model = cls.__new__(cls)
        model.n_interactions, model.is_ease, model.weights = n_interactions, is_ease, weights
        model._n_items = weights.shape[0]
        return model

    def score(self, items: Ints, amounts: Floats) -> Floats:
        """How well each item goes with a weighted set of items.

        Args:
            items: item indices, shape (n,). Those without weights are ignored.
            amounts: float32, shape (n,).

        Returns:
            float32, one score for each item that has weights; items that came later have none.
        """
        known = items < self._n_items
        return np.asarray(amounts[known] @ self.weights[items[known]], dtype=np.float32)

    def support(self, items: Ints, amounts: Floats) -> Support:
        """What `score` consists of; takes several times as long.

        Args:
            items: item indices, shape (n,). Those without weights are ignored.
            amounts: float32, above 0, shape (n,).
        """
        known = items < self._n_items
        rows, amounts = self.weights[items[known]], amounts[known]
        if isinstance(rows, np.ndarray):
            return Support.of(amounts[:, None] * rows)
        positive = rows.maximum(0.0)
        parts = (amounts @ rows, amounts @ positive, (amounts * amounts) @ positive.multiply(positive))
        return Support(*(np.asarray(part, dtype=np.float32) for part in parts))

    def block(self, items: Ints, columns: Ints) -> Floats:
        """The weights from `items` to `columns`: float32, shape (n_rows, n_columns), 0 for items that came later."""
        block = np.zeros((len(items), len(columns)), dtype=np.float32)
        rows, into = np.flatnonzero(items < self._n_items), np.flatnonzero(columns < self._n_items)
        if isinstance(self.weights, np.ndarray):
            found = self.weights[np.ix_(items[rows], columns[into])]
        else:
            found = self.weights[items[rows]][:, columns[into]].toarray()
        block[np.ix_(rows, into)] = found
        return block


def fade_together(strengths: Floats) -> Floats:
    """How much each choice of a history counts for the item-item weights: float32, oldest first, as `strengths`."""
    age = np.arange(len(strengths), dtype=np.float32)[::-1]
    return np.asarray(strengths * (HISTORY_FLOOR + np.exp(-age / HISTORY_SCALE)), dtype=np.float32)


def fade_next(strengths: Floats) -> Floats:
    """How much each of the last `RECENT_ITEMS` choices counts for the transitions: float32, oldest first."""
    recent = strengths[-RECENT_ITEMS:]
    age = np.arange(len(recent), dtype=np.float32)[::-1]
    return np.asarray(recent * np.exp(-age / RECENT_SCALE), dtype=np.float32)


def _histories(stats: InteractionStats, settings: Settings) -> Sequence[tuple[Ints, Floats]]:
    found = []
    for history in stats.users.values():
        items, amounts, times = history.first()
        if settings.half_life_s is not None:
            age = np.clip(stats.newest_at - times, 0.0, None) / settings.half_life_s
            # Half the exponent: two amounts are multiplied for a pair, which then counts by their mean age.
            amounts = (amounts * 0.5 ** (age / 2)).astype(np.float32)
        found.append((items[-MAX_HISTORY:], amounts[-MAX_HISTORY:]))
    return found


def _ease(stats: InteractionStats, settings: Settings) -> Floats:
    n = stats.n_items
    # Double precision while it is cheap; beyond that the matrix would take more memory than the rest of the program.
    gram = np.zeros((n, n), dtype=np.float64 if n <= 4_000 else np.float32)
    distance = np.arange(MAX_HISTORY)
    near = NEAR_FLOOR + (1.0 - NEAR_FLOOR) * np.exp(-distance / NEAR_SCALE)
    kernel = near[np.abs(distance[:, None] - distance[None, :])].astype(gram.dtype)
    for items, amounts in _histories(stats, settings):
        size = len(items)
        gram[np.ix_(items, items)] += kernel[:size, :size] * np.outer(amounts, amounts)
    gram[np.diag_indices(n)] += settings.ridge
    # Steck 2019: the weights are -P[i, j] / P[j, j] with a zero diagonal.
    inverse = _inverse(gram)
    inverse /= -np.diag(inverse).copy()[None, :]
    inverse[np.diag_indices(n)] = 0.0
    return inverse.astype(np.float32)


def _inverse(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inverts a symmetric positive definite matrix in place, by Cholesky: half the work of a general inverse."""
    from scipy.linalg import lapack

    if not len(matrix):
        return matrix
    name = "d" if matrix.dtype == np.float64 else "s"
    # LAPACK stores columns first: only the transpose, which is the same matrix, can be overwritten without a copy.
    factor, failed = getattr(lapack, f"{name}potrf")(matrix.T, lower=False, overwrite_a=True)
    if not failed:
        inverse, failed = getattr(lapack, f"{name}potri")(factor, lower=False, overwrite_c=True)
    if failed:
        raise ArithmeticError("the item-item matrix is not positive definite")
    upper = np.triu_indices(len(matrix), 1)
    inverse.T[upper] = inverse[upper]  # potri fills one triangle only
    return np.asarray(inverse)


def _neighbours(stats: InteractionStats, settings: Settings) -> Any:
    """Cosine similarity between the items' columns of users, the nearest kept: scipy csr matrix, float32."""
    from scipy import sparse

    histories = _histories(stats, settings)
    if not histories:
        return sparse.csr_matrix((stats.n_items, stats.n_items), dtype=np.float32)
    counts = [len(items) for items, _ in histories]
    columns = np.concatenate([items for items, _ in histories])
    values = np.concatenate([amounts for _, amounts in histories])
    shape = (len(histories), stats.n_items)
    users = sparse.csr_matrix((values, (np.repeat(np.arange(len(counts)), counts), columns)), shape=shape)
    # The 1 keeps items with a single user from having a cosine of 1 with everything that user chose.
    length = np.sqrt(np.asarray(users.multiply(users).sum(axis=0)).ravel() + 1.0)
    users = (users @ sparse.diags(1.0 / length)).tocsc().astype(np.float32)
    by_user = users.tocsr()
    n_rows = max(1, _BLOCK_BYTES // (4 * shape[1]))
    return sparse.vstack(
        [
            _nearest((users[:, start : start + n_rows].T @ by_user).toarray(), first=start)
            for start in range(0, shape[1], n_rows)
        ],
        format="csr",
    )


def _nearest(similarity: Floats, *, first: int) -> Any:
    """Keeps the largest `NEIGHBOURS` of each row, without the item itself: column `first` of row 0 and so on."""
    from scipy import sparse

    similarity[np.arange(len(similarity)), first + np.arange(len(similarity))] = 0.0
    keep = min(NEIGHBOURS, similarity.shape[1] - 1)
    columns = np.argpartition(-similarity, keep, axis=1)[:, :keep]
    rows = np.repeat(np.arange(len(similarity)), keep)
    values = similarity[rows, columns.ravel()]
    return sparse.csr_matrix((values, (rows, columns.ravel())), shape=similarity.shape)
