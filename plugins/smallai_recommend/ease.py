"""What goes together: item-item weights from the users' histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smallai_recommend.interactions import Floats, InteractionStats, Ints

# All constants, here and in evidence.py, were chosen on MovieLens 100K by the mean over each user's second-, third-
# and fourth-to-last choice, never the last: `python -m bench.recommend --tuning` prints both.
RIDGE = 100.0
NEAR_SCALE = 10.0  # choices of one user count as together the more, the nearer they lie ...
NEAR_FLOOR = 0.3  # ... but never less than this
HISTORY_SCALE = 10.0  # in scoring, a choice fades over ten newer ones ...
HISTORY_FLOOR = 0.1  # ... to this
RECENT_SCALE = 3.0  # what comes next depends on the last few
RECENT_ITEMS = 20
MAX_HISTORY = 1_000  # of a user's distinct items, the latest: one account of a robot must not cost everybody
NEIGHBOURS = 100  # kept by item where there are too many items for EASE
_BLOCK_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """How the weights are made and mixed; a learning cycle may find better ones.

    Attributes:
        ridge: of EASE; more of it trusts rare pairs less.
        half_life_s: a choice so much older than the newest counts half; None lets age not count.
        next: weight of what was chosen after the last ones, where that of what goes together is 1.
        popular: weight of what is popular.
    """

    ridge: float = RIDGE
    half_life_s: float | None = None
    next: float = 0.6
    popular: float = 0.2


class TogetherModel:
    """Item-item weights: EASE (Steck 2019) where they fit, cosine neighbours where there are too many items.

    EASE here is not over the plain co-occurrence matrix: two choices of one user count by how near they lie in the
    history, `NEAR_FLOOR + (1 - NEAR_FLOOR) * exp(-distance / NEAR_SCALE)`. That kernel is positive definite, so the
    matrix stays one and the inverse exists.

    Args:
        max_dense_items: most items for EASE, whose cost grows with their third power (10,000 items need about 1 GB
            and a minute on two cores).

    Attributes:
        is_ease: which of the two it is.
        n_interactions: how many interactions it was made from.
        weights: from each item to each, shape (n_items, n_items), float32: an array, or a sparse matrix.
    """

    def __init__(
        self, stats: InteractionStats, *, max_dense_items: int = 10_000, settings: Settings = Settings()
    ) -> None:
        self.n_interactions = stats.n_interactions
        self._n_items = stats.n_items
        self.is_ease = self._n_items <= max_dense_items
        make = _ease if self.is_ease else _neighbours
        self.weights: Any = make(stats, settings)

    @classmethod
    def of_weights(cls, weights: Any, *, n_interactions: int, is_ease: bool) -> TogetherModel:
        """A model of weights that were made before, sparse, shape (n_items, n_items)."""
        model = cls.__new__(cls)
        model.n_interactions, model.is_ease, model.weights = n_interactions, is_ease, weights
        model._n_items = weights.shape[0]
        return model

    def score(self, items: Ints, amounts: Floats) -> Floats:
        """How much each item goes with `items`, weighted: float32, one for each item there was when it was made."""
        known = items < self._n_items
        return np.asarray(amounts[known] @ self.weights[items[known]], dtype=np.float32)

    def block(self, items: Ints, columns: Ints) -> Floats:
        """The weights from each of `items` to each of `columns`, 0 for those that came later."""
        block = np.zeros((len(items), len(columns)), dtype=np.float32)
        rows, into = np.flatnonzero(items < self._n_items), np.flatnonzero(columns < self._n_items)
        if isinstance(self.weights, np.ndarray):
            found = self.weights[np.ix_(items[rows], columns[into])]
        else:
            found = self.weights[items[rows]][:, columns[into]].toarray()
        block[np.ix_(rows, into)] = found
        return block


def fade_together(strengths: Floats) -> Floats:
    """How much each choice of a history counts for what goes together; oldest first."""
    age = np.arange(len(strengths), dtype=np.float32)[::-1]
    return np.asarray(strengths * (HISTORY_FLOOR + np.exp(-age / HISTORY_SCALE)), dtype=np.float32)


def fade_next(strengths: Floats) -> Floats:
    """The same for what comes next, of the last `RECENT_ITEMS` at most."""
    recent = strengths[-RECENT_ITEMS:]
    age = np.arange(len(recent), dtype=np.float32)[::-1]
    return np.asarray(recent * np.exp(-age / RECENT_SCALE), dtype=np.float32)


def _histories(stats: InteractionStats, settings: Settings) -> Sequence[tuple[Ints, Floats]]:
    found = []
    for history in stats.users.values():
        items, amounts, times = history.first()
        if settings.half_life_s is not None:  # two of them meet in a pair, which then counts by their mean age
            age = np.clip(stats.newest_at - times, 0.0, None) / settings.half_life_s
            amounts = (amounts * 0.5 ** (age / 2)).astype(np.float32)
        found.append((items[-MAX_HISTORY:], amounts[-MAX_HISTORY:]))
    return found


def _ease(stats: InteractionStats, settings: Settings) -> Floats:
    n = stats.n_items
    gram = np.zeros((n, n), dtype=np.float64 if n <= 4_000 else np.float32)
    distance = np.arange(MAX_HISTORY)
    near = NEAR_FLOOR + (1.0 - NEAR_FLOOR) * np.exp(-distance / NEAR_SCALE)
    kernel = near[np.abs(distance[:, None] - distance[None, :])].astype(gram.dtype)
    for items, amounts in _histories(stats, settings):
        size = len(items)
        gram[np.ix_(items, items)] += kernel[:size, :size] * np.outer(amounts, amounts)
    gram[np.diag_indices(n)] += settings.ridge
    inverse = _inverse(gram)
    inverse /= -np.diag(inverse).copy()[None, :]
    inverse[np.diag_indices(n)] = 0.0
    return inverse.astype(np.float32)


def _inverse(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of a symmetric positive definite matrix, in place: half the work of a general inverse."""
    from scipy.linalg import lapack

    if not len(matrix):
        return matrix
    name = "d" if matrix.dtype == np.float64 else "s"
    factor, failed = getattr(lapack, f"{name}potrf")(matrix.T, lower=False, overwrite_a=True)
    if not failed:
        inverse, failed = getattr(lapack, f"{name}potri")(factor, lower=False, overwrite_c=True)
    if failed:
        raise ArithmeticError("the item-item matrix is not positive definite")
    upper = np.triu_indices(len(matrix), 1)
    inverse.T[upper] = inverse[upper]
    return np.asarray(inverse)


def _neighbours(stats: InteractionStats, settings: Settings) -> Any:
    """Cosine similarity between items' columns of users, the nearest kept; sparse, float32."""
    from scipy import sparse

    histories = _histories(stats, settings)
    if not histories:
        return sparse.csr_matrix((stats.n_items, stats.n_items), dtype=np.float32)
    counts = [len(items) for items, _ in histories]
    columns = np.concatenate([items for items, _ in histories])
    values = np.concatenate([amounts for _, amounts in histories])
    shape = (len(histories), stats.n_items)
    users = sparse.csr_matrix((values, (np.repeat(np.arange(len(counts)), counts), columns)), shape=shape)
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
    """The largest `NEIGHBOURS` of each row but the item itself, which is column `first` of row 0 and so on."""
    from scipy import sparse

    similarity[np.arange(len(similarity)), first + np.arange(len(similarity))] = 0.0
    keep = min(NEIGHBOURS, similarity.shape[1] - 1)
    columns = np.argpartition(-similarity, keep, axis=1)[:, :keep]
    rows = np.repeat(np.arange(len(similarity)), keep)
    values = similarity[rows, columns.ravel()]
    return sparse.csr_matrix((values, (rows, columns.ravel())), shape=similarity.shape)
