"""Combines three sources into one list of labels: the model, the adapter's head and the fast memory.

A picture is of a taught class, or of one that the model was trained on. How likely the first is follows from one ratio:
how similar the picture is to the pictures of a taught class, relative to how similar these are to each other. A ratio
needs no scale of its own for each kind of pictures: written digits are all alike (0.9), photos of birds are not (0.4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt

from smallai_assistant import LabelPart
from smallai_image.feedback import label_key

# Slope and midpoint of the logistic curve from that ratio to the probability that a picture is of a taught class.
# Fitted by likelihood on the calibration families of `python -m bench.unseen_kinds --calibrate`, with one, three and
# five taught pictures, against pictures of other things whose label by the model is right. No bench reports on these
# families. Slopes of 10 and 12 are equally likely; at 12, pictures unlike everything taught keep more of their label.
SLOPE, MIDPOINT = 12.0, 0.74
# Prior odds: who taught labels asks about them more often than about other things. Of 1, 2, 3 and 4, chosen on the same
# families: at 1, free answers to the hardest family reach 92 % of the nearest prototype among the taught labels, at 2
# they reach 95 %, and from 3 on they gain little and cost other pictures their label.
_PRIOR_ODDS = 2.0
# Pictures of one class have this similarity as far as nothing is known of the class. It counts like the similarity of
# this many pictures with another one. Chosen by likelihood on the same families.
_USUAL_SIMILARITY, _USUAL_WEIGHT = 0.5, 2.0
# Divides similarities before the softmax over the taught classes. By likelihood 0.05 is best for one, three and five
# pictures of each class alike.
TEMPERATURE = 0.05


@dataclass(frozen=True, slots=True)
class ClassSimilarity:
    """How similar a picture is to the pictures of a taught class.

    Attributes:
        similarity: mean cosine similarity; if `is_same`, that to the same picture.
        n_pictures: number of pictures of the class.
        usual: mean cosine similarity of two pictures of the class, estimated.
        is_same: whether this very picture, or a copy of it, was taught as this class.
    """

    similarity: float
    n_pictures: int
    usual: float = _USUAL_SIMILARITY
    is_same: bool = False


@dataclass(frozen=True, slots=True)
class TaughtClasses:
    """What one source, the fast memory or a head, knows of a picture.

    Attributes:
        similarities: to each class, by label.
        probabilities: of each class by a classifier that was trained to tell the classes apart, by label; empty if
            there is none.
    """

    similarities: Mapping[str, ClassSimilarity] = field(default_factory=dict)
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaughtPrediction:
    """What the fast memory and the head predict for a picture, among the taught classes.

    Attributes:
        probabilities: of each label, given that the picture is of a taught class; they sum to 1.
        confidence: probability that the picture is of a taught class at all, in [0, 1].
    """

    probabilities: Mapping[str, float]
    confidence: float


def usual_similarity(squared_length: float, n: int) -> float:
    """Estimates how similar two pictures of a class are.

    Args:
        squared_length: of the mean of the pictures' unit vectors. It is (1 + (n - 1) s) / n for a mean similarity s of
            two different pictures.
        n: number of pictures. With one picture, the result is what is usual for any class.
    """
    total = n * squared_length - 1 + _USUAL_SIMILARITY * _USUAL_WEIGHT
    # Classes whose pictures have nothing in common must not make every picture similar to them.
    return max(_USUAL_SIMILARITY / 2, total / (n - 1 + _USUAL_WEIGHT))


def predict_taught(memory: TaughtClasses, *heads: TaughtClasses) -> TaughtPrediction | None:
    """Combines the fast memory and the heads of adapters into one prediction; None if none of them knows a class.

    All classes compete by their similarity. What the memory's classes get together, they divide by the geometric mean
    of similarity and of the memory's classifier: the first is better for classes with few pictures, the second for
    classes that look alike. What the classes get together that a head is the first to know, they divide by the head's
    probabilities.

    Args:
        heads: the most personal one first.
    """
    known = dict(memory.similarities)
    names = {label_key(label): label for label in known}
    first_known: list[tuple[list[str], TaughtClasses]] = []
    for head in heads:
        new = []
        for label, found in head.similarities.items():
            same = names.get(label_key(label))
            if same is None:
                known[label] = found
                names[label_key(label)] = label
                new.append(label)
            elif not known[same].is_same:  # the same picture was taught just now: older ones must not outvote it
                known[same] = _joined(known[same], found)
        first_known.append((new, head))
    if not known:
        return None
    confidence = max(confidence_of(found) for found in known.values())
    # This picture was taught: nothing else is asked.
    if same_picture := {label: found.similarity for label, found in known.items() if found.is_same}:
        return TaughtPrediction(dict.fromkeys(known, 0.0) | softmax(same_picture), confidence)
    probabilities = softmax({label: found.similarity for label, found in known.items()})
    if memory.probabilities:
        means = {
            label: sqrt(probabilities[label] * memory.probabilities.get(label, 0.0)) for label in memory.similarities
        }
        probabilities |= _divided(sum(probabilities[label] for label in means), means)
    for labels, head in first_known:
        if labels:
            shares = {label: head.probabilities.get(label, 0.0) for label in labels}
            probabilities |= _divided(sum(probabilities[label] for label in labels), shares)
    return TaughtPrediction(probabilities, confidence)


def confidence_of(found: ClassSimilarity) -> float:
    """Returns the probability that a picture is of a taught class, from its similarity to that class."""
    ratio = found.similarity / found.usual
    return 1.0 / (1.0 + exp(-SLOPE * (ratio - MIDPOINT) - log(_PRIOR_ODDS)))


def softmax(scores: Mapping[str, float], *, temperature: float = TEMPERATURE) -> dict[str, float]:
    """Returns the softmax of the scores, each divided by the temperature."""
    best = max(scores.values())  # subtracted, so that exp() does not overflow
    weights = {label: exp((score - best) / temperature) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def blend(labels: Sequence[LabelPart], prediction: TaughtPrediction | None) -> tuple[LabelPart, ...]:
    """Mixes the model's labels with the prediction. Returns them best first; the scores sum to 1.

    A predicted label that is among the model's labels raises its score. Any other is added with the id -1.

    Args:
        labels: the model's labels, with scores that sum to 1; without any, the prediction decides alone.
    """
    if prediction is None:
        return tuple(labels)
    confidence = prediction.confidence if labels else 1.0
    taught = {label_key(label): (label, share) for label, share in prediction.probabilities.items()}
    mixed = []
    for label in labels:
        _, share = taught.pop(label_key(label.label), ("", 0.0))
        score = (1 - confidence) * label.score + confidence * share
        mixed.append(LabelPart(label.label, label.id, score))
    mixed += [LabelPart(name, -1, confidence * share) for name, share in taught.values()]
    return tuple(sorted(mixed, key=lambda label: -label.score))


def without(labels: Sequence[LabelPart], refused: Collection[str]) -> tuple[LabelPart, ...]:
    """Returns the labels whose keys are not refused, with scores that sum to 1 again.

    All labels are returned if nothing would be left: an answer needs at least one.
    """
    kept = [label for label in labels if label_key(label.label) not in refused]
    total = sum(label.score for label in kept)
    if not kept or total <= 0:
        return tuple(labels)
    return tuple(LabelPart(label.label, label.id, label.score / total) for label in kept)


def _joined(first: ClassSimilarity, second: ClassSimilarity) -> ClassSimilarity:
    """Returns the similarity to the pictures of both: the means are weighted by the numbers of pictures."""
    n = first.n_pictures + second.n_pictures

    def mean(one: float, other: float) -> float:
        return (one * first.n_pictures + other * second.n_pictures) / n

    return ClassSimilarity(mean(first.similarity, second.similarity), n, mean(first.usual, second.usual))


def _divided(mass: float, shares: Mapping[str, float]) -> dict[str, float]:
    """Divides a probability mass in proportion to shares; equally if all shares are zero."""
    total = sum(shares.values())
    if total <= 0:
        return dict.fromkeys(shares, mass / len(shares))
    return {label: mass * share / total for label, share in shares.items()}
