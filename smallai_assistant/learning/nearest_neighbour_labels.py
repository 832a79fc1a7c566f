"""Labels that contradict what others call what looks alike: pictures have no words that could be compared.

Nearest neighbours vote, as where wrong labels are edited out of training data (Wilson 1972), but people vote and not
rows: who labels much, or comes under few names, has few votes. One contradicted label is often a hard picture, and the
most worth learning; a source most of whose labels are contradicted is set aside. A kind that is new and known to few
keeps its label where its pictures are more like each other than like any other kind's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

N_VOTES = 5  # of the other sources whose nearest thing is nearest
MIN_VOTES = 3
SPEAKS_FOR, SUPPORTS = 0.6, 0.4  # shares: so many for another label, and no more for its own
N_COMPARED = 5  # nearest things of the label and of its rival
MIN_CONTRADICTED, MAX_CONTRADICTED = 2, 0.5  # labels of a source, and their share
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Labelled:
    """That a thing has this label.

    Args:
        label: normalized.
        vector: of the thing, float32, shape (n_dimensions,), of length 1; two that are alike have a product near 1.
    """

    id: str
    source: str
    label: str
    vector: npt.NDArray[np.float32]


def contradicting(claims: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """The contradicted claims of the sources most of whose claims are contradicted; by source.

    What is found no longer speaks for what is left, and so on until nothing more is found.
    """
    found: defaultdict[str, list[Labelled]] = defaultdict(list)
    n_of = Counter(claim.source for claim in claims)
    defined = _defined(claims)
    left = list(claims)
    while left:
        suspects: defaultdict[str, list[Labelled]] = defaultdict(list)
        for each in contradicted(left, defined):
            suspects[each.source].append(each)
        gone: set[str] = set()
        for source, rows in suspects.items():
            n = len(rows) + len(found[source])
            if n >= MIN_CONTRADICTED and n > MAX_CONTRADICTED * n_of[source]:
                found[source] += rows
                gone |= {row.id for row in rows}
        if not gone:
            break
        left = [each for each in left if each.id not in gone]
    return {source: rows for source, rows in found.items() if rows}


def contradicted(claims: Sequence[Labelled], defined: Collection[str] = ()) -> list[Labelled]:
    """The claims whose look-alikes speak for another label.

    Args:
        defined: labels that nothing speaks against.
    """
    import numpy as np

    suspects = [place for place, each in enumerate(claims) if each.label not in defined]
    if not suspects:
        return []
    vectors = np.stack([claim.vector for claim in claims])
    found = []
    for start in range(0, len(suspects), _AT_ONCE):
        places = suspects[start : start + _AT_ONCE]
        for place, likeness in zip(places, vectors[places] @ vectors.T, strict=True):
            if _is_contradicted(place, claims, np.argsort(-likeness, kind="stable"), likeness):
                found.append(claims[place])
    return found


def _defined(claims: Sequence[Labelled]) -> set[str]:
    """The labels that one source alone uses: what they mean is its to say."""
    givers: defaultdict[str, set[str]] = defaultdict(set)
    for claim in claims:
        givers[claim.label].add(claim.source)
    return {label for label, sources in givers.items() if len(sources) == 1}


def _is_contradicted(
    place: int, claims: Sequence[Labelled], nearest: npt.NDArray[np.intp], likeness: npt.NDArray[np.float32]
) -> bool:
    claim = claims[place]
    votes: dict[str, str] = {}  # by source
    for other in nearest:
        voter = claims[other]
        if voter.source != claim.source:
            votes.setdefault(voter.source, voter.label)
        if len(votes) == N_VOTES:
            break
    counts = Counter(votes.values())
    own = counts.pop(claim.label, 0)
    if len(votes) < MIN_VOTES or not counts:
        return False
    ((rival, n_rival),) = counts.most_common(1)
    if n_rival < SPEAKS_FOR * len(votes) or own > SUPPORTS * len(votes):
        return False
    alike: list[int] = [n for n in nearest if claims[n].label == claim.label and n != place][:N_COMPARED]
    theirs: list[int] = [n for n in nearest if claims[n].label == rival and claims[n].source != claim.source]
    theirs = theirs[: len(alike)]
    return not alike or float(likeness[alike].mean()) <= float(likeness[theirs].mean())
