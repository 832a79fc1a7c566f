"""Combines three sources into one list of labels: the model, the adapter's head and the fast memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import exp

from smallai_assistant import LabelPart
from smallai_image.feedback import label_key

# Slope and midpoint of the logistic curve from a cosine similarity to the probability that a picture is of a taught
# class. Fitted by likelihood with five kinds of cut-outs taught, and the rest of these and twenty other kinds asked.
# Then the curve was moved until photos of other things keep their labels (`python -m bench.teach_image`).
_SLOPE, _MIDPOINT = 16.0, 0.45
# Divides similarities before the softmax over the taught classes. By likelihood 0.05 is best for one, three and five
# pictures of each class alike.
TEMPERATURE = 0.05
# From this similarity on, two pictures count as the same one. A picture that was saved again (JPEG, quality 85) has a
# median similarity of 0.98 to itself; two cut-outs of one kind reach at most 0.88.
MIN_SAME_PICTURE = 0.9


@dataclass(frozen=True, slots=True)
class ClassSimilarity:
    """How similar a picture is to the pictures of a taught class.

    Attributes:
        similarity: mean cosine similarity.
        n_pictures: number of pictures of the class.
    """

    similarity: float
    n_pictures: int


@dataclass(frozen=True, slots=True)
class TaughtPrediction:
    """What the fast memory and the head predict for a picture, among the taught classes.

    Attributes:
        probabilities: of each label, given that the picture is of a taught class; they sum to 1.
        confidence: probability that the picture is of a taught class at all, in [0, 1].
    """

    probabilities: Mapping[str, float]
    confidence: float


def predict_taught(
    memory: Mapping[str, ClassSimilarity],
    head: Mapping[str, ClassSimilarity] | None = None,
    head_probabilities: Mapping[str, float] | None = None,
) -> TaughtPrediction | None:
    """Combines the fast memory and an adapter's head into one prediction; None if neither knows a class.

    All classes compete by their similarity. The classes that only the head knows share what they get together in the
    proportions of the head's probabilities, because the head was trained to tell them apart.

    Args:
        memory: similarities to the memory's classes, by label.
        head: similarities to the head's classes, by label.
        head_probabilities: the head's probabilities of its classes.
    """
    head_only, head_probabilities = dict(head or {}), head_probabilities or {}
    similarities: dict[str, float] = {}
    for label, in_memory in memory.items():
        same = next((name for name in head_only if label_key(name) == label_key(label)), None)
        # The same picture was taught just now: older pictures of the class must not outvote it.
        if same is None or in_memory.similarity >= MIN_SAME_PICTURE:
            similarities[label] = in_memory.similarity
        else:
            # Both know the class: the mean over all of its pictures.
            in_head = head_only[same]
            n = in_memory.n_pictures + in_head.n_pictures
            total = in_memory.similarity * in_memory.n_pictures + in_head.similarity * in_head.n_pictures
            similarities[label] = total / n
        if same is not None:
            del head_only[same]
    similarities |= {label: known.similarity for label, known in head_only.items()}
    if not similarities:
        return None
    probabilities = softmax(similarities)
    mass = sum(probabilities[label] for label in head_only)
    total = sum(head_probabilities[label] for label in head_only)
    if total > 0:
        probabilities |= {label: mass * head_probabilities[label] / total for label in head_only}
    return TaughtPrediction(probabilities, confidence_of(max(similarities.values())))


def confidence_of(similarity: float) -> float:
    """Returns the probability that a picture is of a class, from its mean cosine similarity to the class's pictures."""
    return 1.0 / (1.0 + exp(-_SLOPE * (similarity - _MIDPOINT)))


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
        labels: the model's labels, with scores that sum to 1.
    """
    if prediction is None:
        return tuple(labels)
    taught = {label_key(label): (label, share) for label, share in prediction.probabilities.items()}
    mixed = []
    for label in labels:
        _, share = taught.pop(label_key(label.label), ("", 0.0))
        score = (1 - prediction.confidence) * label.score + prediction.confidence * share
        mixed.append(LabelPart(label.label, label.id, score))
    mixed += [LabelPart(name, -1, prediction.confidence * share) for name, share in taught.values()]
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
