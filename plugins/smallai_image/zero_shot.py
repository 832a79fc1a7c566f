"""Zero-shot classification: matches a picture with labels that no model was trained on.

The method is ConSE, the convex combination of semantic embeddings (Norouzi et al. 2014, arXiv:1312.5650). The sentence
vectors of the classes that the model knows are averaged, weighted by the classes' probabilities, and the result is
compared with the sentence vector of each label. There are three changes:

- A class is described by its WordNet definition, not by its bare name.
- A label's similarity is measured in standard deviations over all classes: some labels are similar to everything.
- The probabilities are flattened.

The changes were chosen on 129 cut-outs of 20 classes. The 119 cut-outs of `python -m bench.image` are other pictures,
but their figures were seen meanwhile, so they are not fully independent.
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
from smallai_image.feedback import label_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from smallai_assistant import EmbeddingModel

    FloatArray = npt.NDArray[np.float32]

# Divides the scores, which are in standard deviations. By likelihood 0.7 is best on 129 cut-outs of 20 classes, 0.4 on
# 119 cut-outs of 5 classes.
TEMPERATURE = 0.6
# A class's vector is weighted by this power of its probability. Below 1 the less likely classes count more; on the 129
# cut-outs 0.7 has a higher likelihood than 1.
_POWER = 0.7
# Labels that are embedded in one call.
_BATCH = 64
# A question with alternatives is short; a longer text is something else and would be slow to match.
_MAX_QUESTION_CHARS = 300

# What a question is about: "it", "this", "the picture".
_THING = r"(?:it|this|that|these|those|they|there|(?:the|this|that)\s+\w+)"
# Everything before the first label: "Is it ", "Tell me whether this is ", "Does the picture show ".
_LEAD_IN = re.compile(
    rf"^.*?\b(?:(?:is|are|does|do|was|were)\s+{_THING}|(?:whether|if)\s+{_THING}\s+(?:is|are))\s+"
    r"(?:(?:shows?|depicts?|contains?|looks?\s+like|more\s+like|of|rather|showing)\s+)?",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:an?|the|some|either)\s+", re.IGNORECASE)
# Words in the place of a label that name nothing: "Is it a cat or not?"
_NO_LABEL = frozenset({"not", "no", "what", "something", "something else", "else", "nothing", "other", "another"})


def alternatives(question: str) -> tuple[str, ...]:
    """Returns the labels that a question offers: `("cat", "dog")` for "Is it a cat or a dog?".

    The result is empty if the question offers fewer than two, or if one of the alternatives does not name a thing.
    """
    text = " ".join(question.split()).rstrip(" ?!.")
    if len(text) > _MAX_QUESTION_CHARS or not re.search(r"\bor\b", text, re.IGNORECASE):
        return ()
    text = text.rpartition(":")[2].strip()
    text = _LEAD_IN.sub("", text, count=1)
    parts = [part.strip() for part in re.split(r"\s*,\s*(?:or\s+)?|\s+or\s+", text, flags=re.IGNORECASE)]
    labels = []
    for part in parts:
        label = _ARTICLE.sub("", part)
        # A label without an article has at most two words: "safe to eat" in "Is it safe to eat or drink?" is none.
        if not label or len(label.split()) > (4 if label != part else 2) or label.lower() in _NO_LABEL:
            return ()
        labels.append(label)
    unique: dict[str, str] = {}
    for label in labels:
        unique.setdefault(label_key(label), label)
    return tuple(unique.values()) if len(unique) > 1 else ()


def class_texts(labels: Sequence[str]) -> list[str]:
    """Returns the text to embed for each class: its name, and its WordNet definition if it is an ImageNet class."""
    definitions = dict(imagenet_classes())
    return [f"{label}: {definitions[label]}" if label in definitions else label for label in labels]


def class_vectors(labels: Sequence[str], model: EmbeddingModel, folder: Path) -> FloatArray:
    """Returns the sentence vectors of the classes. They are cached in `folder`, because a thousand take seconds.

    Returns:
        float32, shape (n_labels, n_dimensions), unit length.
    """
    texts = class_texts(labels)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    file = folder / f"class_vectors_{digest[:16]}.npy"
    try:
        kept: FloatArray = np.load(file, allow_pickle=False)
        # Two rows are computed again, to check that the file was made by the same embedding model.
        if kept.shape[0] == len(texts) and np.allclose(kept[[0, -1]], model.embed([texts[0], texts[-1]]), atol=1e-3):
            return kept
    except (OSError, ValueError, EOFError):  # no file, or a damaged one: it is written again
        pass
    # In batches, so that other callers of the model are served in between; by length, so that little is padded.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = (order[start : start + _BATCH] for start in range(0, len(order), _BATCH))
    shuffled = np.concatenate([model.embed([texts[i] for i in batch]) for batch in batches])
    vectors = np.empty_like(shuffled)
    vectors[order] = shuffled
    with contextlib.suppress(OSError):  # with a full disk the next start is slow, but the answer is given
        _save(vectors, file)
    return vectors


def _save(vectors: FloatArray, file: Path) -> None:
    """Writes the file atomically. Two threads may do so at once: each has its own temporary file."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".partial")
    try:
        with open(handle, "wb") as stream:
            np.save(stream, vectors)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def conse(probabilities: FloatArray, classes: FloatArray, labels: FloatArray) -> FloatArray:
    """Returns the scores of labels for pictures, from the probabilities of the model's classes.

    Args:
        probabilities: float32, shape (n_images, n_classes).
        classes: sentence vectors, unit length, float32, shape (n_classes, n_dimensions).
        labels: sentence vectors, unit length, float32, shape (n_labels, n_dimensions).

    Returns:
        float32, shape (n_images, n_labels). Each row sums to 1.
    """
    pictures = probabilities**_POWER @ classes
    pictures /= np.maximum(np.linalg.norm(pictures, axis=1, keepdims=True), 1e-9)
    # A label's similarities to all classes: their mean and deviation tell which similarity is unusual.
    usual = classes @ labels.T
    deviation = np.maximum(usual.std(0), 1e-3)
    scores = (pictures @ labels.T - usual.mean(0)) / deviation / TEMPERATURE
    scores = np.exp(scores - scores.max(1, keepdims=True))
    shares: FloatArray = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    return shares
