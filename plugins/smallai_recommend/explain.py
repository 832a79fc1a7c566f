"""Explains a recommendation by what its score really consists of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smallai_recommend.cold_start import ColdNeighbours
from smallai_recommend.interactions import Floats, Ints
from smallai_recommend.ranking import FITS, Ranking
from smallai_recommend.snapshot import Snapshot

_MAX_NAMED = 2  # more titles than these make a reason too long to read
_WORTH_NAMING = 0.3  # an item of the history is named if it contributes this share of what the strongest one does


def reasons(snapshot: Snapshot, ranking: Ranking, item: int) -> str:
    """Why `item` is recommended, in a few words such as "matches “western”; because you liked Tombstone".

    Args:
        snapshot: what the ranking was made from.
        ranking: the ranking that the item belongs to.
        item: its index.
    """
    titles = snapshot.catalogue.titles
    found: list[str] = []
    if ranking.alike is not None and ranking.alike[item] >= FITS and ranking.like is not None:
        found.append(f"similar to {_listed([titles[int(i)] for i in ranking.like if int(i) in titles])}")
    if ranking.fit is not None and ranking.query.text and not ranking.query.doubtful and ranking.fit[item] >= FITS:
        found.append(f"matches “{ranking.query.text}”")
    near = _near(snapshot.neighbours, item)
    # A cold item has the score of its neighbours, so it has their reasons, too.
    columns, weights = near or (np.array([item], dtype=np.intp), np.ones(1, dtype=np.float32))
    liked, share = _liked(snapshot, ranking, columns, weights)
    popular = float(ranking.user.popular[columns] @ weights)
    if near is not None:
        nearest = titles.get(int(columns[0]))
        found.append(f"new, and described much like {nearest}" if nearest else "new")
    elif not snapshot.is_warm[item] and not found:
        found.append("new here")
    if liked and (share > popular or not found):
        found.append(f"because you liked {_listed(liked)}")
    elif popular > 0 and snapshot.is_warm[item]:
        found.append("popular now")
    return "; ".join(found) or "little chosen so far"


def _liked(snapshot: Snapshot, ranking: Ranking, columns: Ints, weights: Floats) -> tuple[list[str], float]:
    """The titles of the history that contribute most to the score, and the sum of all positive contributions."""
    user = ranking.user
    if not len(user.history):
        return [], 0.0
    added = user.because(columns, weights)
    titles: list[str] = []
    for place in np.argsort(-added, kind="stable"):
        item = int(user.history[place])
        if user.strengths[place] <= 0:  # what goes badly with a disliked item was not chosen for liking it
            continue
        if added[place] <= max(0.0, _WORTH_NAMING * float(added.max())) or len(titles) == _MAX_NAMED:
            break
        if item in snapshot.catalogue.titles:  # a removed item is not named
            titles.append(snapshot.catalogue.titles[item])
    return titles, float(added[(added > 0) & (user.strengths > 0)].sum())


def _near(neighbours: ColdNeighbours | None, item: int) -> tuple[Ints, Floats] | None:
    """The items by which a cold item was scored, and their weights; None for a warm item."""
    if neighbours is None or not neighbours.near.size:
        return None
    row = np.flatnonzero(neighbours.cold == item)
    return (neighbours.near[row[0]], neighbours.weights[row[0]]) if len(row) else None


def _listed(titles: Sequence[str]) -> str:
    *first, last = titles or ["what you chose last"]
    return f"{', '.join(first)} and {last}" if first else last
