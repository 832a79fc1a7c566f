"""How much one user would like each item, and which of the user's items say so."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smallai_recommend.ease import MAX_HISTORY, RECENT_ITEMS, fade_next, fade_together
from smallai_recommend.index import SHORT_HISTORY, Index
from smallai_recommend.interactions import Floats, Ints, UserHistory
from smallai_recommend.signals import REFUSED

# Weights of the standardised parts beside those in `Settings`; see model.py for how they were chosen.
TEXT = 0.5  # for a user without history, less with each item of it, nothing from `SHORT_HISTORY` on
# What a user skipped or disliked; no data here could choose these: MovieLens has no skips.
ITSELF = 6.0  # standard deviations that an item loses for a whole choice against it; half of it takes it from the top
LEANING = 0.5  # weight of what goes with it, for a user who has chosen nothing
AGAINST = 0.25  # of a choice: how much popularity an item loses for everybody by one who is against it
COLD_SCALE = 2.5  # a mean over neighbours is flatter than what it is a mean of


@dataclass(frozen=True, slots=True)
class Taste:
    """A user's scores and what they are made of.

    Attributes:
        scores: float32, shape (n_items,): weighted standard deviations above the mean item.
        popular: the part of `scores` that popularity is.
        history: the user's items, oldest first, shape (n_history,).
        is_cold: whether the user has none.
        refused: items that the user does not want to see again.
    """

    scores: Floats
    popular: Floats
    history: Ints
    is_cold: bool
    refused: Ints
    _index: Index
    _together: Floats  # by history item, scaled as in `scores`
    _next: Floats  # shape (n_recent, n_items), the same
    _text: Floats  # shape (n_read, n_items), the same

    def because(self, items: Ints, weights: Floats) -> Floats:
        """What each item of the history adds to the weighted score of `items`: float32, shape (n_history,)."""
        parts = self._index.model.block(self.history, items) @ weights * self._together
        for block in (self._next, self._text):
            if len(block):
                parts[-len(block) :] += block[:, items] @ weights
        return np.asarray(parts, dtype=np.float32)


def taste_of(index: Index, user: str | None, history: UserHistory | None = None) -> Taste:
    """The taste of a user, or of everybody where the user is None or unknown.

    Args:
        history: instead of the one that is known of the user.
    """
    n, settings = index.n_items, index.settings
    warm = index.is_warm
    popular = _popular(index, warm)
    if history is None and user is not None:
        history = index.stats.users.get(user)
    leaning = _leanings(index, user)
    refused = np.array([item for item, amount in leaning.items() if amount <= REFUSED], dtype=np.intp)
    if history is None or not history.items:
        none = np.zeros((0, n), dtype=np.float32)
        scores = _with_cold_items(index, popular + _leaning_alone(index, leaning, warm), warm)
        _shift(scores, leaning)
        return Taste(scores, popular, np.zeros(0, np.intp), True, refused, index, none[:, 0], none, none)
    items, strengths = history.latest()
    items, strengths = items[-MAX_HISTORY:], strengths[-MAX_HISTORY:]
    if leaning:  # the last word on an item counts: what was chosen and then disliked speaks against its like
        strengths = np.array([leaning.get(item, amount) for item, amount in zip(items.tolist(), strengths.tolist(),
                              strict=True)], dtype=np.float32)  # fmt: skip

    amounts = fade_together(strengths)
    together = np.zeros(n, dtype=np.float32)
    found = index.model.score(items, amounts)
    together[: len(found)] = found
    skipped, against = _unchosen(leaning, items)
    if len(skipped):
        together[: len(found)] += index.model.score(skipped, against)
    spread = _spread(together, warm)
    scores = (together - _mean(together, warm)) / spread
    amounts /= spread

    recent = items[-RECENT_ITEMS:]
    following = index.stats.transitions_from(recent) * fade_next(strengths)[:, None]
    total = following.sum(axis=0)
    following *= settings.next / _spread(total, warm)
    scores += settings.next * (total - _mean(total, warm)) / _spread(total, warm)

    read = _read(index, items)
    scores += read.sum(axis=0) + settings.popular * popular
    scores = _with_cold_items(index, np.asarray(scores, np.float32), warm)
    _shift(scores, leaning)
    return Taste(scores, np.asarray(settings.popular * popular), items, False, refused, index, amounts, following, read)


def standardise(values: Floats, among: npt.NDArray[np.bool_]) -> Floats:
    """Standard deviations above the mean of those `among`; zeros where they are all alike."""
    if not among.any():
        return np.zeros_like(values)
    return np.asarray((values - values[among].mean()) / _spread(values, among), dtype=np.float32)


def _mean(values: Floats, among: npt.NDArray[np.bool_]) -> float:
    return float(values[among].mean()) if among.any() else 0.0


def _spread(values: Floats, among: npt.NDArray[np.bool_]) -> float:
    spread = float(values[among].std()) if among.any() else 0.0
    return spread if spread > 1e-12 else 1.0


def _popular(index: Index, warm: npt.NDArray[np.bool_]) -> Floats:
    """Chosen often, half of it lately."""
    stats = index.stats
    kept = np.clip(1.0 - AGAINST * index.against / (stats.popularity + 1.0), 0.0, 1.0)
    ever = np.log1p(kept * stats.popularity).astype(np.float32)
    lately = np.log1p(kept * stats.trend(min(stats.newest_at, time.time()))).astype(np.float32)
    return (standardise(ever, warm) + standardise(lately, warm)) / 2.0


def _leanings(index: Index, user: str | None) -> dict[int, float]:
    """What speaks for or against single items without a choice, by item index, oldest first."""
    said = index.memory.leanings_of(user) if user is not None else []
    found = ((index.stats.find(item_id), amount) for item_id, amount in said)
    return {place: amount for place, amount in found if place is not None}


def _unchosen(leaning: dict[int, float], history: Ints) -> tuple[Ints, Floats]:
    """The leanings on items that are not in the history; like choices they fade over newer ones."""
    chosen = set(history.tolist())
    left = {item: amount for item, amount in leaning.items() if item not in chosen}
    amounts = fade_together(np.array(list(left.values()), dtype=np.float32))
    return np.array(list(left), dtype=np.intp), amounts


def _leaning_alone(index: Index, leaning: dict[int, float], warm: npt.NDArray[np.bool_]) -> Floats:
    """What the leanings of a user who has chosen nothing say about other items."""
    total = np.zeros(index.n_items, dtype=np.float32)
    items, amounts = _unchosen(leaning, np.zeros(0, np.intp))
    if len(items):
        found = index.model.score(items, amounts)
        total[: len(found)] = found
    return LEANING * min(1.0, float(np.abs(amounts).sum())) * standardise(total, warm)


def _shift(scores: Floats, leaning: dict[int, float]) -> None:
    """Moves the items themselves, in place; less, the more was said since."""
    if not leaning:
        return
    scores[list(leaning)] += ITSELF * fade_together(np.array(list(leaning.values()), dtype=np.float32))


def _read(index: Index, items: Ints) -> Floats:
    """What the texts of a short history add: float32, shape (n_read, n_items)."""
    weight = TEXT * max(0.0, 1.0 - len(items) / SHORT_HISTORY)
    texts = index.texts
    if not weight or texts is None or not texts.has[items].any():
        return np.zeros((0, index.n_items), dtype=np.float32)
    cosines = texts.whole[items] @ texts.whole.T
    cosines *= fade_together(texts.has[items].astype(np.float32))[:, None]
    total = cosines.sum(axis=0)
    scale = weight / _spread(total, texts.has)
    cosines -= cosines[:, texts.has].mean(axis=1, keepdims=True)
    cosines[:, ~texts.has] = 0.0
    return np.asarray(cosines * scale, dtype=np.float32)


def _with_cold_items(index: Index, scores: Floats, warm: npt.NDArray[np.bool_]) -> Floats:
    """Places the items without interactions by those that read like them, behind all others where that fails."""
    scores = scores.copy()
    if not warm.any():
        return scores
    scores[~warm] = scores[warm].min() - 1.0
    near = index.neighbours()
    if near is not None and near.near.size:
        scores[near.cold] = COLD_SCALE * (scores[near.near] * near.weights).sum(axis=1)
    return scores
