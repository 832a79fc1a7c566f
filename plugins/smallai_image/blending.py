"""Several who know something of a picture, and one answer: the model, the adapter, the fast memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import exp

from smallai_assistant import LabelPart
from smallai_image.feedback import label_key

# How sure a similarity makes that a picture is of a taught class: a logistic curve, fitted by likelihood with five
# kinds of cut-outs taught and the rest of these and twenty other kinds asked, and moved until photos of other things
# keep their labels (`python -m bench.teach_image`). What the model knows well stays ahead besides: its share is large.
_SLOPE, _MIDDLE = 16.0, 0.45
# Divides similarities before they are compared among classes; by likelihood 0.05 is best for one, three and five
# pictures alike.
TEMPERATURE = 0.05
# A picture saved again (JPEG, quality 85) is 0.98 similar to itself in the median, two cut-outs of a kind 0.88 at most.
NEAR = 0.9


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like a class's pictures a picture is.

    Attributes:
        similarity: the mean cosine.
        n_pictures: so many there are.
    """

    similarity: float
    n_pictures: int


@dataclass(frozen=True, slots=True)
class Opinion:
    """What those who know some classes say of a picture.

    Attributes:
        shares: of the labels, should it be one of them; they sum to 1.
        trust: how likely it is one of them at all, 0 to 1.
    """

    shares: Mapping[str, float]
    trust: float


def formed(
    remembered: Mapping[str, Likeness],
    learned: Mapping[str, Likeness] | None = None,
    scores: Mapping[str, float] | None = None,
) -> Opinion | None:
    """One opinion of the fast memory and of an adapter's head; None where neither knows a class.

    The classes compete by their likeness. Those that only the head knows divide what they get by its scores, which
    tell them apart better.

    Args:
        remembered: the memory's classes by label.
        learned: the head's.
        scores: the head's shares of its classes.
    """
    known, scores = dict(learned or {}), scores or {}
    likeness: dict[str, float] = {}
    for label, mine in remembered.items():
        same = next((each for each in known if label_key(each) == label_key(label)), None)
        if same is None or mine.similarity >= NEAR:
            likeness[label] = mine.similarity
        else:
            n = mine.n_pictures + known[same].n_pictures
            total = mine.similarity * mine.n_pictures + known[same].similarity * known[same].n_pictures
            likeness[label] = total / n
        if same is not None:
            del known[same]
    likeness |= {label: each.similarity for label, each in known.items()}
    if not likeness:
        return None
    shares = shares_of(likeness)
    of_head, total = sum(shares[label] for label in known), sum(scores[label] for label in known)
    if total > 0:
        shares |= {label: of_head * scores[label] / total for label in known}
    return Opinion(shares, trust_of(max(likeness.values())))


def trust_of(similarity: float) -> float:
    """How likely a picture is of a class whose pictures are on average so similar to it (a cosine)."""
    return 1.0 / (1.0 + exp(-_SLOPE * (similarity - _MIDDLE)))


def shares_of(scores: Mapping[str, float], *, temperature: float = TEMPERATURE) -> dict[str, float]:
    """The softmax of scores."""
    best = max(scores.values())
    weights = {label: exp((score - best) / temperature) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def blended(guesses: Sequence[LabelPart], opinion: Opinion | None) -> tuple[LabelPart, ...]:
    """The guesses, whose scores sum to 1, and the opinion as one list, best first, that does so too.

    A label of the opinion that is among the guesses raises it; another is added with the id -1.
    """
    if opinion is None:
        return tuple(guesses)
    taught = {label_key(label): (label, share) for label, share in opinion.shares.items()}
    mixed = []
    for guess in guesses:
        _, share = taught.pop(label_key(guess.label), ("", 0.0))
        score = (1 - opinion.trust) * guess.score + opinion.trust * share
        mixed.append(LabelPart(guess.label, guess.id, score))
    mixed += [LabelPart(label, -1, opinion.trust * share) for label, share in taught.values()]
    return tuple(sorted(mixed, key=lambda each: -each.score))


def without(guesses: Sequence[LabelPart], refused: Collection[str]) -> tuple[LabelPart, ...]:
    """The guesses less the labels with those keys, their scores summing to 1 again."""
    kept = [guess for guess in guesses if label_key(guess.label) not in refused]
    total = sum(each.score for each in kept)
    if not kept or total <= 0:
        return tuple(guesses)
    return tuple(LabelPart(each.label, each.id, each.score / total) for each in kept)
