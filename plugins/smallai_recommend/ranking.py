"""Orders the items for one request: the user's taste, and what the request wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from smallai_recommend.cold_start import Bools
from smallai_recommend.index import Index
from smallai_recommend.interactions import Floats, Ints, UserHistory
from smallai_recommend.query import Wish
from smallai_recommend.user_scores import Taste, standardise, taste_of

# A wish comes first, taste chooses among what fits: from the worst to the best item, taste is worth this many
# standard deviations of likeness to the wish.
TASTE_SPAN = 1.5
MIN_COSINE = 0.25  # a wish that nothing is nearer to is not understood
FITS = 1.0  # standard deviations above the mean item from which an item is said to match


@dataclass(frozen=True, slots=True)
class Ranking:
    """All items that may be recommended, best first.

    Attributes:
        order: item indices, shape (n_candidates,).
        scores: float32, shape (n_items,).
        taste: what the user's history said.
        wish: what of the request was used.
        fit: how well each item matches the wish's text, in standard deviations; None where there is none.
        alike: how much each item is like the titles named, the same.
        like: the items to be like.
        was_understood: False where the wish's text is near to nothing in the catalogue.
    """

    order: Ints
    scores: Floats
    taste: Taste
    wish: Wish
    fit: Floats | None = None
    alike: Floats | None = None
    like: Ints | None = None
    was_understood: bool = True


def rank(
    index: Index,
    user: str | None,
    wish: Wish | None = None,
    *,
    include_consumed: bool = False,
    embed: Callable[[str], Floats] | None = None,
    history: UserHistory | None = None,
) -> Ranking:
    """Ranks the catalogue for a user.

    Args:
        wish: what the request asks for; None for a bare one.
        include_consumed: whether what the user has had or refused stays in.
        embed: gives the vector of a text; None where no model is to be had, then a wish's words count for nothing.
        history: of the user, instead of the known one.
    """
    wish = wish or Wish()
    taste = taste_of(index, user, history)
    candidates = index.is_item.copy()
    if not include_consumed:
        candidates[taste.history] = False
        candidates[taste.refused] = False
    like = np.array(wish.like, dtype=np.intp)
    if wish.like_last and len(taste.history):
        like = taste.history[-1:]
    candidates[like] = False

    scores, understood = taste.scores, True
    fit = alike = None
    if len(like):
        alike = _alike(index, like, candidates)
    if embed is not None and index.texts is not None and (wish.text or wish.avoid):
        fit, understood = _fit(index, wish, candidates, embed)
    if fit is not None or alike is not None:
        scores = TASTE_SPAN * _share_below(scores, candidates)
        scores = scores + sum(part for part in (fit, alike) if part is not None)
    chosen = np.flatnonzero(candidates)
    # Equal scores go by the index, which is the order of the catalogue: the same question, the same answer.
    order = chosen[np.argsort(-scores[chosen], kind="stable")]
    return Ranking(order, np.asarray(scores, np.float32), taste, wish, fit, alike, like, understood)


def _fit(index: Index, wish: Wish, among: Bools, embed: Callable[[str], Floats]) -> tuple[Floats | None, bool]:
    """Likeness to the wish's words, less that to the unwanted ones."""
    texts = index.texts
    assert texts is not None
    readable = among & texts.has
    text_map = index.text_map
    is_mapped = text_map is not None and text_map.for_wishes
    place = text_map if text_map is not None and is_mapped else np.asarray
    whole, about = place(texts.whole), place(texts.about)
    total, understood = np.zeros(index.n_items, dtype=np.float32), True
    for words, sign in ((wish.text, 1.0), (wish.avoid, -1.0)):
        if not words or not readable.any():
            continue
        plain = embed(words)
        if sign > 0 and max((texts.whole @ plain)[readable].max(), (texts.about @ plain)[readable].max()) < MIN_COSINE:
            understood = False
            continue
        vector = place(plain)
        by_whole, by_about = whole @ vector, about @ vector
        nearness = np.asarray((by_whole + by_about) / 2.0, dtype=np.float32)
        total += sign * standardise(nearness, readable)
    total[~texts.has] = 0.0
    return (total if total.any() else None), understood


def _alike(index: Index, like: Ints, among: Bools) -> Floats:
    """Likeness to some items: chosen by the same users, chosen after them, described alike."""
    warm = index.is_warm & among
    together = np.zeros(index.n_items, dtype=np.float32)
    found = index.model.score(like, np.ones(len(like), dtype=np.float32))
    together[: len(found)] = found
    after = index.stats.transitions_from(like).sum(axis=0, dtype=np.float32)
    total = standardise(together, warm) + index.settings.next * standardise(after, warm)
    total[~warm] = 0.0
    if index.texts is not None and index.texts.has[like].any():
        whole = index.texts.whole
        total += (
            standardise(whole @ whole[like].sum(axis=0, dtype=np.float32), among & index.texts.has) * index.texts.has
        )
    return standardise(total, among)


def _share_below(scores: Floats, among: Bools) -> Floats:
    """The share of items with a lower score: taste has a long tail that would drown any wish."""
    places = np.flatnonzero(among)
    share = np.zeros(len(scores), dtype=np.float32)
    ordered = np.sort(scores[places])
    share[places] = np.searchsorted(ordered, scores[places]) / max(1, len(places) - 1)
    return share
