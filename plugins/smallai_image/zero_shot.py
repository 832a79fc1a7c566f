"""Labels the user names, without a model that was trained on them.

ConSE, a convex combination of semantic embeddings (Norouzi et al. 2014, arXiv:1312.5650): the probabilities of the
classes a model knows weight the sentence vectors of these classes, and the sum is compared with the vector of each
label. Three changes, chosen on 129 cut-outs of 20 other classes (the 119 of `python -m bench.image` were looked at
meanwhile, so that figure is not wholly independent): a class is described by its
WordNet definition and not by its bare name; a label's similarity is counted in standard deviations over all classes,
since some labels are near to everything; and the probabilities are flattened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from smallai_image.engine import imagenet_classes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from smallai_assistant import EmbeddingModel

    FloatArray = npt.NDArray[np.float32]

# Divides the scores, which are in standard deviations: by likelihood the best is 0.7 on 129 cut-outs of 20 classes and
# 0.4 on 119 cut-outs of 5 classes.
TEMPERATURE = 0.6
# The power of a class's probability that weighs its vector: below 1 the less likely classes say more. On the 129
# cut-outs 0.7 is more likely than 1.
_POWER = 0.7

_BATCH = 64
_THING = r"(?:it|this|that|these|those|they|there|(?:the|this|that)\s+\w+)"
_LEAD_IN = re.compile(
    rf"^.*?\b(?:(?:is|are|does|do|was|were)\s+{_THING}|(?:whether|if)\s+{_THING}\s+(?:is|are))\s+"
    r"(?:(?:shows?|depicts?|contains?|looks?\s+like|more\s+like|of|rather|showing)\s+)?",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:an?|the|some|either)\s+", re.IGNORECASE)
_NO_LABEL = frozenset({"not", "no", "what", "something", "something else", "else", "nothing", "other", "another"})


def alternatives(question: str) -> tuple[str, ...]:
    """The labels that a question offers: `("cat", "dog")` of "Is it a cat or a dog?"; empty where it offers none."""
    text = " ".join(question.split()).rstrip(" ?!.")
    if len(text) > 300 or not re.search(r"\bor\b", text, re.IGNORECASE):
        return ()
    text = text.rpartition(":")[2].strip()
    text = _LEAD_IN.sub("", text, count=1)
    parts = [each.strip() for each in re.split(r"\s*,\s*(?:or\s+)?|\s+or\s+", text, flags=re.IGNORECASE)]
    labels = []
    for part in parts:
        label = _ARTICLE.sub("", part)
        # Without an article it must be short: "safe to eat or drink" names no things.
        if not label or len(label.split()) > (4 if label != part else 2) or label.lower() in _NO_LABEL:
            return ()
        labels.append(label)
    unique = dict.fromkeys(labels)
    return tuple(unique) if len(unique) > 1 else ()


def class_texts(labels: Sequence[str]) -> list[str]:
    """What is embedded for each class: its name and, where it is an ImageNet class, what WordNet says it is."""
    definitions = dict(imagenet_classes())
    return [f"{label}: {definitions[label]}" if label in definitions else label for label in labels]


def class_vectors(labels: Sequence[str], model: EmbeddingModel, folder: Path) -> FloatArray:
    """The sentence vectors of the classes, kept in `folder` because a thousand take seconds.

    Returns:
        float32, shape (n_labels, n_dimensions).
    """
    texts = class_texts(labels)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    file = folder / f"class_vectors_{digest[:16]}.npy"
    try:
        kept: FloatArray = np.load(file, allow_pickle=False)
        # Two rows made anew tell whether the model is still the one that made the file.
        if kept.shape[0] == len(texts) and np.allclose(kept[[0, -1]], model.embed([texts[0], texts[-1]]), atol=1e-3):
            return kept
    except (OSError, ValueError, EOFError):
        pass
    # In pieces, so that other users of the model are served between them; texts of like length waste no padding.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pieces = (order[start : start + _BATCH] for start in range(0, len(order), _BATCH))
    shuffled = np.concatenate([model.embed([texts[i] for i in piece]) for piece in pieces])
    vectors = np.empty_like(shuffled)
    vectors[order] = shuffled
    with contextlib.suppress(OSError):  # a full disk costs time at the next start, not the answer
        _save(vectors, file)
    return vectors


def _save(vectors: FloatArray, file: Path) -> None:
    """Writes the file whole or not at all, also where two threads do it at once."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".partial")
    try:
        with open(handle, "wb") as stream:
            np.save(stream, vectors)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def conse(probabilities: FloatArray, classes: FloatArray, labels: FloatArray) -> FloatArray:
    """Scores of labels from probabilities of classes.

    Args:
        probabilities: shape (n_images, n_classes).
        classes: sentence vectors of length 1, shape (n_classes, n_dimensions).
        labels: sentence vectors of length 1, shape (n_labels, n_dimensions).

    Returns:
        float32, shape (n_images, n_labels), rows sum to 1.
    """
    pictures = probabilities**_POWER @ classes
    pictures /= np.maximum(np.linalg.norm(pictures, axis=1, keepdims=True), 1e-9)
    usual = classes @ labels.T
    deviation = np.maximum(usual.std(0), 1e-3)
    scores = (pictures @ labels.T - usual.mean(0)) / deviation / TEMPERATURE
    scores = np.exp(scores - scores.max(1, keepdims=True))
    shares: FloatArray = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    return shares
