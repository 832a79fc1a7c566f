"""Ranks the items for one request by the user's scores and by what the query asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from smallai_recommend.interactions import Bools, Floats, Ints, UserHistory
from smallai_recommend.query import Query
from smallai_recommend.snapshot import Snapshot
from smallai_recommend.user_scores import UserScores, standardize, user_scores

# The query comes first, and the user's scores choose among what fits: from the worst item to the best, they are worth
# this many standard deviations of similarity to the query.
USER_SPAN = 1.5
MIN_COSINE = 0.25  # a query is understood if the cosine of some item reaches this
FITS = 1.0  # standard deviations above the mean item, from which an item is said to match

Embed = Callable[[str], Floats]


@dataclass(frozen=True, slots=True)
class Ranking:
    """All items that may be recommended, best first.

    Attributes:
        order: item indices, shape (n_candidates,).
        scores: float32, shape (n_items,).
        user: the user's scores.
        query: what the request asks for.
        fit: how well each item matches the query's text, in standard deviations; None if that was not compared.
        alike: how similar each item is to the titles that the query names, the same way.
        like: the items to be like, shape (n_like,).
        was_understood: False if nothing in the catalogue is near to the query's text.
    """

    order: Ints
    scores: Floats
    user: UserScores
    query: Query
    fit: Floats | None = None
    alike: Floats | None = None
    like: Ints | None = None
    was_understood: bool = True


def rank(
    snapshot: Snapshot,
    user: str | None,
    query: Query | None = None,
    *,
    include_consumed: bool = False,
    embed: Embed | None = None,
    history: UserHistory | None = None,
) -> Ranking:
    """Ranks the catalogue for a user.

    Args:
        snapshot: what is known.
        user: the profile to rank for; None or an unknown one ranks by popularity.
        query: what the request asks for; None for nothing in particular.
        include_consumed: whether items that the user consumed or refused may come.
        embed: returns the vector of a text; None if there is no model, and then the query's words do not count.
        history: used instead of the history known of the user.
    """
    query = query or Query()
    of_user = user_scores(snapshot, user, history)
    candidates = snapshot.catalogue.is_item.copy()
    if not include_consumed:
        candidates[of_user.history] = False
        candidates[of_user.refused] = False
    like = np.array(query.like, dtype=np.intp)
    if query.like_last and len(of_user.history):
        like = of_user.history[of_user.strengths > 0][-1:]
    candidates[like] = False  # who asks for something like Alien does not ask for Alien

    scores, understood = of_user.scores, True
    fit = alike = None
    if len(like):
        alike = _alike(snapshot, like, candidates)
    if embed is not None and snapshot.texts is not None and (query.text or query.avoid):
        fit, understood = _fit(snapshot, query, candidates, embed)
    if fit is not None or alike is not None:
        scores = USER_SPAN * _share_below(scores, candidates)
        scores = scores + sum(part for part in (fit, alike) if part is not None)
    chosen = np.flatnonzero(candidates)
    # A stable sort: items with equal scores keep the order of their indices, and a question its answer.
    order = chosen[np.argsort(-scores[chosen], kind="stable")]
    return Ranking(order, np.asarray(scores, np.float32), of_user, query, fit, alike, like, understood)


def _fit(snapshot: Snapshot, query: Query, among: Bools, embed: Embed) -> tuple[Floats | None, bool]:
    """Similarity to the query's text minus similarity to what it wants to avoid, and whether it was understood."""
    texts = snapshot.texts
    assert texts is not None
    readable = among & texts.has
    text_map = snapshot.text_map
    is_mapped = text_map is not None and text_map.for_queries
    place = text_map if text_map is not None and is_mapped else np.asarray
    whole, about = place(texts.whole), place(texts.about)
    total, understood = np.zeros(snapshot.n_items, dtype=np.float32), True
    for words, sign in ((query.text, 1.0), (query.avoid, -1.0)):
        if not words or not readable.any():
            continue
        plain = embed(words)
        # By the plain vectors: a learned map changes all cosines, and the threshold would mean something else.
        if sign > 0 and max((texts.whole @ plain)[readable].max(), (texts.about @ plain)[readable].max()) < MIN_COSINE:
            understood = False
            continue
        vector = place(plain)
        by_whole, by_about = whole @ vector, about @ vector
        nearness = np.asarray((by_whole + by_about) / 2.0, dtype=np.float32)
        total += sign * standardize(nearness, readable)
    total[~texts.has] = 0.0
    return (total if total.any() else None), understood


def _alike(snapshot: Snapshot, like: Ints, among: Bools) -> Floats:
    """Similarity to some items, standardized: chosen by the same users, chosen soon after them, similar texts."""
    warm = snapshot.is_warm & among
    together = np.zeros(snapshot.n_items, dtype=np.float32)
    found = snapshot.model.score(like, np.ones(len(like), dtype=np.float32))
    together[: len(found)] = found
    after = snapshot.stats.transitions_from(like).sum(axis=0, dtype=np.float32)
    total = standardize(together, warm) + snapshot.settings.next * standardize(after, warm)
    total[~warm] = 0.0
    texts = snapshot.texts
    if texts is not None and texts.has[like].any():
        nearness = texts.whole @ texts.whole[like].sum(axis=0, dtype=np.float32)
        total += standardize(nearness, among & texts.has) * texts.has
    return standardize(total, among)


def _share_below(scores: Floats, among: Bools) -> Floats:
    """The share of items with a lower score, 0 to 1: the long tail of raw scores would outweigh any query."""
    places = np.flatnonzero(among)
    share = np.zeros(len(scores), dtype=np.float32)
    ordered = np.sort(scores[places])
    share[places] = np.searchsorted(ordered, scores[places]) / max(1, len(places) - 1)
    return share
