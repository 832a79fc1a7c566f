"""Says why: from what the score of an item was really made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smallai_recommend.cold_start import Neighbours
from smallai_recommend.index import Index
from smallai_recommend.interactions import Floats, Ints
from smallai_recommend.ranking import FITS, Ranking

_MAX_NAMED = 2
_WORTH_NAMING = 0.3  # of what the strongest item of the history adds


def reasons(index: Index, ranking: Ranking, item: int) -> str:
    """Why `item` is recommended, a few words, such as "matches “western”; because you liked Tombstone"."""
    found: list[str] = []
    if ranking.alike is not None and ranking.alike[item] >= FITS and ranking.like is not None:
        found.append(f"similar to {_listed([index.titles[int(i)] for i in ranking.like if int(i) in index.titles])}")
    if ranking.fit is not None and ranking.wish.text and ranking.fit[item] >= FITS:
        found.append(f"matches “{ranking.wish.text}”")
    near = _near(index.neighbours(), item)
    columns, weights = near or (np.array([item], dtype=np.intp), np.ones(1, dtype=np.float32))
    liked, share = _liked(index, ranking, columns, weights)
    popular = float(ranking.taste.popular[columns] @ weights)
    if near is not None:
        nearest = index.titles.get(int(columns[0]))
        found.append(f"new, and described much like {nearest}" if nearest else "new")
    elif not index.is_warm[item] and not found:
        found.append("new here")
    if liked and (share > popular or not found):
        found.append(f"because you liked {_listed(liked)}")
    elif popular > 0 and index.is_warm[item]:
        found.append("popular now")
    return "; ".join(found) or "little chosen so far"


def _liked(index: Index, ranking: Ranking, columns: Ints, weights: Floats) -> tuple[list[str], float]:
    """The titles of the history that speak most for the item, and how much all that speak for it add."""
    taste = ranking.taste
    if not len(taste.history):
        return [], 0.0
    added = taste.because(columns, weights)
    titles: list[str] = []
    for place in np.argsort(-added, kind="stable"):
        item = int(taste.history[place])
        if added[place] <= max(0.0, _WORTH_NAMING * float(added.max())) or len(titles) == _MAX_NAMED:
            break
        if item in index.titles:  # what was removed is not named
            titles.append(index.titles[item])
    return titles, float(added[added > 0].sum())


def _near(neighbours: Neighbours | None, item: int) -> tuple[Ints, Floats] | None:
    """The items by which an item without interactions was placed, and their weights."""
    if neighbours is None or not neighbours.near.size:
        return None
    row = np.flatnonzero(neighbours.cold == item)
    return (neighbours.near[row[0]], neighbours.weights[row[0]]) if len(row) else None


def _listed(titles: Sequence[str]) -> str:
    *first, last = titles or ["what you chose last"]
    return f"{', '.join(first)} and {last}" if first else last
