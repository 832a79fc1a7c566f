"""What a user thought of an item counts little beside the fact that the user had it.

Measured on MovieLens 100K with its stars: who watched a film and gave it one star watches what goes with it nearly as
often as who liked it. So every item that a user had counts for what goes together, for all users, and an opinion below
a whole choice takes a little away. Only near candidates around which the user disliked most, dislikes count against.

The constants were chosen on one half of the users by their second-, third- and fourth-to-last film; decision 33 in
docs/decisions.md says what else was tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smallai_recommend.interactions import Floats

HAD = 0.9  # of a whole choice, for an item that the user had and has no opinion about
PRIOR_ITEMS = 4.0  # items for which the user's general share of dislikes counts beside the items near a candidate
MOSTLY = 0.6  # share of dislikes from which they count less; half-way from here to 1 they begin to count against
_TINY = 1e-12


class Support(NamedTuple):
    """How much a set of items speaks for each candidate.

    Attributes:
        score: the sum of the items' contributions, float32, shape (n_items,).
        positive: the sum of the positive ones, float32, shape (n_items,).
        squares: the sum of the squares of the positive ones, float32, shape (n_items,).
    """

    score: Floats
    positive: Floats
    squares: Floats

    @classmethod
    def of(cls, rows: Floats) -> Support:
        """Sums contributions: float32, shape (n_rows, n_items)."""
        positive = np.maximum(rows, 0.0)
        return cls(rows.sum(axis=0), positive.sum(axis=0), (positive * positive).sum(axis=0))


def counted(opinions: Floats) -> Floats:
    """How much items that a user had count for those that go with them: float32, above 0, as `opinions`."""
    return np.asarray(np.maximum(opinions, HAD + (1.0 - HAD) * opinions), dtype=np.float32)


def weighed(liked: Support, disliked: Support, share: float) -> Floats:
    """The score of what a user liked and of what the user had and disliked: float32, shape (n_items,).

    Args:
        liked: what the liked items say.
        disliked: what the disliked ones say if they count like any item that the user had.
        share: the share of disliked items among all that the user had.
    """
    positive, squares = liked.positive + disliked.positive, liked.squares + disliked.squares
    # The number of items of equal weight that would say the same (Kish's effective sample size): a single strong
    # neighbour is a single opinion.
    n_near = positive * positive / np.maximum(squares, _TINY)
    share_near = disliked.positive / np.maximum(positive, _TINY)
    shares = (n_near * share_near + PRIOR_ITEMS * share) / (n_near + PRIOR_ITEMS)
    against = np.clip((shares - MOSTLY) / (1.0 - MOSTLY), 0.0, 1.0)
    return np.asarray(liked.score + (1.0 - 2.0 * against) * disliked.score, dtype=np.float32)
