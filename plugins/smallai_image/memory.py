"""The fast memory of pictures: what was taught about earlier pictures counts for the next one.

It lives in RAM and is a function of the feedback. It holds the features of the pictures that were taught or corrected,
by class, and the labels that were refused. A new picture is compared with the pictures of each class, and classified by
the same kind of linear classifier that a learning cycle trains.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smallai_image.blending import ClassSimilarity, TaughtClasses, usual_similarity
from smallai_image.feedback import LabelFeedback, all_label_feedback, label_key
from smallai_image.head import STRENGTHS, Head, fit

if TYPE_CHECKING:
    import numpy.typing as npt

    from smallai_assistant import ImagePart, JudgedTurn
    from smallai_image.features import Features

    FloatArray = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

# Pictures of the newest feedback. Every question is compared with all of them; a learning cycle empties the memory.
MAX_PICTURES = 1000
# Without augmented views a weaker regularization than that of a trained head helps: on the calibration families of
# `bench.unseen_kinds` 0.03 raises the accuracy with five pictures of each class by 0.6 points.
_STRENGTHS = (0.03, *STRENGTHS)
# Assumed similarity of pictures of one class while there is only one: pictures of two classes seldom reach it.
_USUAL_SIMILARITY = 0.55
# Two labels are reported as hard to tell apart if this share of their pictures resembles the other class more.
_MIN_CONFUSED = 1 / 3

# Computes the features of pictures; None for a picture that cannot be read.
ExtractFeatures = Callable[[Sequence["ImagePart"]], Sequence["Features | None"]]


@dataclass(frozen=True, slots=True)
class _TaughtPicture:
    label: str
    features: Features


class FastMemory:
    """What was said about pictures; the newest feedback on a picture counts. Thread-safe.

    Features are computed when a picture is first asked about, not when the memory is rebuilt: a start costs nothing.
    """

    def __init__(self) -> None:
        # Reentrant: `learn` calls `process_pending` under the lock.
        self._lock = threading.RLock()
        self._pending: list[LabelFeedback] = []
        self._taught: dict[str, _TaughtPicture] = {}  # by the sha256 of the picture
        self._refused: dict[tuple[str, str], Features] = {}  # by the sha256 of the picture and the label's key
        self._head: Head | None = None  # of the taught pictures; None if they changed or are of fewer than two labels

    @property
    def is_empty(self) -> bool:
        """Whether there is no feedback."""
        with self._lock:
            return not (self._pending or self._taught or self._refused)

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Forgets everything and takes what these say, given oldest first. What cannot be used is logged."""
        self.rebuild(all_label_feedback(judged_turns))

    def add(self, judged_turn: JudgedTurn) -> None:
        """Takes what one more says; its features are computed when they are needed."""
        with self._lock:
            self._pending += all_label_feedback([judged_turn])

    def rebuild(self, feedback: Sequence[LabelFeedback]) -> None:
        """Forgets everything and marks the feedback, given oldest first, as pending."""
        with self._lock:
            self._taught, self._refused, self._head = {}, {}, None
            self._pending = list(feedback[-MAX_PICTURES:])
            if len(feedback) > MAX_PICTURES:
                log.warning("the memory keeps only the %d newest of %d judged pictures", MAX_PICTURES, len(feedback))

    def learn(self, feedback: Sequence[LabelFeedback], extract: ExtractFeatures) -> None:
        """Adds new feedback at once."""
        with self._lock:
            self._pending += feedback
            self.process_pending(extract)

    def process_pending(self, extract: ExtractFeatures) -> None:
        """Computes the features of pending pictures and adds them. They stay pending if `extract` raises."""
        with self._lock:
            pending, self._pending = self._pending, []
            try:
                features = extract([item.part for item in pending]) if pending else []
            except BaseException:
                self._pending = pending + self._pending
                raise
            for item, found in zip(pending, features, strict=True):
                if found is not None:
                    self._add(item, found)

    def counts(self) -> dict[str, int]:
        """Returns the number of pictures of each label, in the spelling in which the label was first taught."""
        with self._lock:
            n = Counter(label_key(picture.label) for picture in self._taught.values())
            # From the end, so that the first spelling of a label is written last and stays.
            labels = {label_key(picture.label): picture.label for picture in reversed(self._taught.values())}
        return {labels[key]: n[key] for key in sorted(n)}

    def classes(self, features: Features, *, among: Collection[str] | None = None) -> TaughtClasses:
        """Returns what the memory knows of a picture.

        Args:
            among: keys of the labels to compare with; None for all.
        """
        with self._lock:
            classes = self._classes(among)
            head = self._fitted_head()
        similarities = {}
        for label, rows in classes.items():
            mean = np.mean([row.vector for row in rows], axis=0)
            usual = usual_similarity(float(mean @ mean), len(rows))
            same = [float(row.vector @ features.vector) for row in rows if row.is_same_picture(features)]
            # The same picture again: its own label counts, however different the others of the class are.
            similarity = max(same, default=float(mean @ features.vector))
            similarities[label] = ClassSimilarity(similarity, len(rows), usual, is_same=bool(same))
        return TaughtClasses(similarities, head.probabilities(features, among=among) if head is not None else {})

    def refused(self, features: Features) -> set[str]:
        """Returns the keys of the labels that were refused for this picture or for a copy of it."""
        with self._lock:
            refused = list(self._refused.items())
        return {key for (_, key), found in refused if found.is_same_picture(features)}

    def confusable_labels(self, label: str) -> list[str]:
        """Returns the other labels whose pictures are hard to tell from the pictures of this one."""
        with self._lock:
            classes = {name: np.stack([row.vector for row in rows]) for name, rows in self._classes(None).items()}
        own = next((vectors for name, vectors in classes.items() if label_key(name) == label_key(label)), None)
        if own is None:
            return []
        others = ((name, vectors) for name, vectors in classes.items() if label_key(name) != label_key(label))
        return [name for name, vectors in others if _confusion(own, vectors) >= _MIN_CONFUSED]

    def _add(self, item: LabelFeedback, features: Features) -> None:
        """Applies one piece of feedback; it overrides earlier feedback on the same picture."""
        self._head = None
        key = label_key(item.label)
        taught = self._taught.get(features.key)
        if item.kind == "refused":
            self._refused[features.key, key] = features
            if taught is not None and label_key(taught.label) == key:
                del self._taught[features.key]
            return
        for (picture, refused_key), found in list(self._refused.items()):
            if refused_key == key and found.is_same_picture(features):
                del self._refused[picture, refused_key]
        is_taught_class = any(label_key(picture.label) == key for picture in self._taught.values())
        # A praised answer adds a picture to a taught class. A praised class of the model needs no memory.
        if item.kind == "labelled" or (is_taught_class and taught is None):
            # Removed first, so that the picture moves to the end: the dictionary is ordered by the newest feedback.
            self._taught.pop(features.key, None)
            self._taught[features.key] = _TaughtPicture(item.label, features)

    def _classes(self, among: Collection[str] | None) -> dict[str, list[Features]]:
        """Returns the features of each label's pictures."""
        labels: dict[str, str] = {}
        found: dict[str, list[Features]] = {}
        for picture in self._taught.values():
            key = label_key(picture.label)
            if among is None or key in among:
                found.setdefault(labels.setdefault(key, picture.label), []).append(picture.features)
        return found

    def _fitted_head(self) -> Head | None:
        """Returns a classifier of the taught pictures, fitted when it is first asked for. The caller holds the lock."""
        classes = self._classes(None)
        if self._head is None and len(classes) > 1:
            labels = [label for label, rows in classes.items() for _ in rows]
            # Every class weighs the same, or a class with one picture would hardly ever be chosen.
            mean = len(labels) / len(classes)
            weights = [mean / len(rows) for rows in classes.values() for _ in rows]
            views = np.stack([row.vector[None] for rows in classes.values() for row in rows])
            self._head = fit(views, labels, weights, strengths=_STRENGTHS)
        return self._head


def _confusion(first: FloatArray, second: FloatArray) -> float:
    """Returns the share of pictures that are more similar to the other class than to the rest of their own."""
    n_confused = 0
    for own, other in ((first, second), (second, first)):
        n = len(own)
        pairs = own @ own.T
        # A picture is not compared with itself: the diagonal is left out of the mean.
        within = (pairs.sum(1) - pairs.diagonal()) / (n - 1) if n > 1 else np.full(1, _USUAL_SIMILARITY)
        n_confused += int(((own @ other.T).mean(1) > within).sum())
    return n_confused / (len(first) + len(second))
