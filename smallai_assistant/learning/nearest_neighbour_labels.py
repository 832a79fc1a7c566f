"""Labels that contradict what others call similar things: pictures have no words that could be compared.

The nearest neighbours vote, as in editing wrong labels out of training data (Wilson 1972), but sources vote and not
rows: a source that labels much has one vote. One contradicted label is often a hard picture, and hard pictures are the
most worth learning; only a source most of whose labels are contradicted is set aside. A new kind that few people know
keeps its label if its pictures are more similar to each other than to any other kind's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# The other sources whose nearest thing is nearest vote: five, or at least three. Fewer than three cannot outvote one
# wrong neighbour. All figures here were chosen on eight draws of five kinds of cut-outs, see docs/decisions.md, 18.
N_VOTERS, MIN_VOTERS = 5, 3
# A label is contradicted if 60 % of the voters give one other label (three of five) and at most 40 % give the label
# itself.
MIN_SHARE_FOR_RIVAL, MAX_SHARE_FOR_OWN = 0.6, 0.4
# The similarity of a thing to a label is the mean of this many nearest things: a single one may be mislabelled itself.
N_COMPARED = 5
# A source is set aside for at least two contradicted labels that are more than half of its labels.
MIN_CONTRADICTED, MAX_CONTRADICTED_SHARE = 2, 0.5
# Rows of the similarity matrix computed at once: 512 x 100,000 float32 take 200 MB.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Labelled:
    """The claim of a source that a thing has a label.

    Args:
        id: of the feedback.
        label: normalized.
        vector: of the thing, float32, shape (n_dimensions,), unit length; similar things have a dot product near 1.
    """

    id: str
    source: str
    label: str
    vector: npt.NDArray[np.float32]


def contradicting(claims: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """Finds the sources most of whose labels are contradicted.

    Rows already flagged are excluded, and the vote is repeated until no new source is found.

    Returns:
        The contradicted claims of those sources, by source.
    """
    found: defaultdict[str, list[Labelled]] = defaultdict(list)
    n_of = Counter(claim.source for claim in claims)
    # Computed once: a label does not become its giver's own because the others who use it were set aside.
    own_labels = _labels_of_one_source(claims)
    left = list(claims)
    while left:
        suspects: defaultdict[str, list[Labelled]] = defaultdict(list)
        for claim in contradicted(left, own_labels):
            suspects[claim.source].append(claim)
        gone: set[str] = set()
        for source, flagged in suspects.items():
            n = len(flagged) + len(found[source])
            if n >= MIN_CONTRADICTED and n > MAX_CONTRADICTED_SHARE * n_of[source]:
                found[source] += flagged
                gone |= {claim.id for claim in flagged}
        if not gone:
            break
        left = [claim for claim in left if claim.id not in gone]
    return {source: flagged for source, flagged in found.items() if flagged}


def contradicted(claims: Sequence[Labelled], exempt: Collection[str] = ()) -> list[Labelled]:
    """Finds the claims whose nearest neighbours speak for another label.

    Args:
        exempt: labels that are never contradicted.
    """
    import numpy as np

    suspects = [place for place, claim in enumerate(claims) if claim.label not in exempt]
    if not suspects:
        return []
    vectors = np.stack([claim.vector for claim in claims])
    found = []
    for start in range(0, len(suspects), _CHUNK):
        places = suspects[start : start + _CHUNK]
        for place, similarity in zip(places, vectors[places] @ vectors.T, strict=True):
            # A stable sort, so that the result does not depend on the machine if two things are equally near.
            if _is_contradicted(place, claims, np.argsort(-similarity, kind="stable"), similarity):
                found.append(claims[place])
    return found


def _labels_of_one_source(claims: Sequence[Labelled]) -> set[str]:
    """The labels that only one source uses: that source alone decides what they mean."""
    sources_of: defaultdict[str, set[str]] = defaultdict(set)
    for claim in claims:
        sources_of[claim.label].add(claim.source)
    return {label for label, sources in sources_of.items() if len(sources) == 1}


def _is_contradicted(
    place: int, claims: Sequence[Labelled], nearest: npt.NDArray[np.intp], similarity: npt.NDArray[np.float32]
) -> bool:
    """Whether the neighbours of one claim speak against its label.

    Args:
        place: of the claim in `claims`.
        nearest: places of all claims, the most similar first, shape (n_claims,).
        similarity: of all claims to this one, shape (n_claims,).
    """
    claim = claims[place]
    votes: dict[str, str] = {}  # the label of each other source's nearest thing, by source
    for other in nearest:
        voter = claims[other]
        if voter.source != claim.source:
            votes.setdefault(voter.source, voter.label)
        if len(votes) == N_VOTERS:
            break
    counts = Counter(votes.values())
    n_own = counts.pop(claim.label, 0)
    if len(votes) < MIN_VOTERS or not counts:
        return False
    ((rival, n_rival),) = counts.most_common(1)
    if n_rival < MIN_SHARE_FOR_RIVAL * len(votes) or n_own > MAX_SHARE_FOR_OWN * len(votes):
        return False
    # A new kind looks like itself. The source's own rows count for its label, but not for the rival: they are in doubt.
    own: list[int] = [other for other in nearest if claims[other].label == claim.label and other != place][:N_COMPARED]
    rivals: list[int] = [
        other for other in nearest if claims[other].label == rival and claims[other].source != claim.source
    ][: len(own)]
    return not own or float(similarity[own].mean()) <= float(similarity[rivals].mean())
