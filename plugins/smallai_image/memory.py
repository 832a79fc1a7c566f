"""The fast memory: what was taught about pictures counts for the next one.

It is a function of the feedback and lives in RAM: the vectors of the pictures that were taught or corrected, by
class, and the labels that were refused. A new picture is compared with each class's pictures.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smallai_image.blending import NEAR, Likeness
from smallai_image.feedback import Saying, label_key

if TYPE_CHECKING:
    import numpy.typing as npt

    from smallai_assistant import ImagePart
    from smallai_image.features import Seen

    FloatArray = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

MAX_PICTURES = 1000  # of the newest feedback; learning into the weights empties the memory
# A class is as similar as its pictures are on average, the more similar ones counting more: 0 is the plain mean,
# with 2 to 4 the right class is likeliest.
_FOCUS = 2.0
# What pictures of one class have in common where there is but one: pairs of two classes reach it seldom.
_USUAL = 0.55
_OVERLAP = 1 / 3

# What is seen on each picture; None where it cannot be read.
Look = Callable[[Sequence["ImagePart"]], Sequence["Seen | None"]]


@dataclass(frozen=True, slots=True)
class _Taught:
    label: str
    vector: FloatArray


class FastMemory:
    """What was said about pictures, newest word last. Any thread may ask.

    Pictures are looked at when somebody asks, not when they are recalled: a start costs nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: list[Saying] = []
        self._taught: dict[str, _Taught] = {}  # by the sha256 of the picture
        self._refused: dict[tuple[str, str], FloatArray] = {}  # by the sha256 of the picture and the label's key

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        with self._lock:
            return not (self._waiting or self._taught or self._refused)

    def rebuild(self, sayings: Sequence[Saying]) -> None:
        """Forgets all and waits to learn these."""
        with self._lock:
            self._taught, self._refused = {}, {}
            self._waiting = list(sayings[-MAX_PICTURES:])
            if len(sayings) > MAX_PICTURES:
                log.warning("only the %d newest of %d lessons are remembered at once", MAX_PICTURES, len(sayings))

    def learn(self, sayings: Sequence[Saying], look: Look) -> None:
        """Takes in what was said now."""
        with self._lock:
            self._waiting += sayings
            self.wake(look)

    def wake(self, look: Look) -> None:
        """Looks at the pictures that wait."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            try:
                seen = look([each.part for each in waiting]) if waiting else []
            except BaseException:
                self._waiting = waiting + self._waiting
                raise
            for saying, picture in zip(waiting, seen, strict=True):
                if picture is not None:
                    self._take(saying, picture)

    def counts(self) -> dict[str, int]:
        """How many pictures there are of each label, as it was first written."""
        with self._lock:
            n = Counter(label_key(each.label) for each in self._taught.values())
            labels = {label_key(each.label): each.label for each in reversed(self._taught.values())}
        return {labels[key]: n[key] for key in sorted(n)}

    def likeness(self, seen: Seen, *, among: Collection[str] | None = None) -> dict[str, Likeness]:
        """How like each taught label's pictures this one is.

        Args:
            among: the keys of the only labels that count.
        """
        with self._lock:
            classes = self._classes(among)
        found = {}
        for label, vectors in classes.items():
            similarities = vectors @ seen.vector
            weights = np.exp(_FOCUS * similarities)
            nearest = float(similarities.max())
            score = nearest if nearest >= NEAR else float((weights * similarities).sum() / weights.sum())
            found[label] = Likeness(score, len(vectors))
        return found

    def refused(self, seen: Seen) -> set[str]:
        """The keys of the labels that this picture, or one that is nearly the same, does not have."""
        with self._lock:
            refused = list(self._refused.items())
        return {key for (picture, key), vector in refused if picture == seen.key or float(vector @ seen.vector) >= NEAR}

    def overlaps(self, label: str) -> list[str]:
        """The other labels whose pictures are hard to tell from those of this one."""
        with self._lock:
            classes = self._classes(None)
        mine = next((vectors for each, vectors in classes.items() if label_key(each) == label_key(label)), None)
        if mine is None:
            return []
        others = ((each, vectors) for each, vectors in classes.items() if label_key(each) != label_key(label))
        return [each for each, vectors in others if _confusion(mine, vectors) >= _OVERLAP]

    def _take(self, saying: Saying, picture: Seen) -> None:
        key = label_key(saying.label)
        taught = self._taught.get(picture.key)
        if saying.kind == "not":
            self._refused[picture.key, key] = picture.vector
            if taught is not None and label_key(taught.label) == key:
                del self._taught[picture.key]
            return
        for other, vector in list(self._refused.items()):  # the newer word counts
            if other[1] == key and (other[0] == picture.key or float(vector @ picture.vector) >= NEAR):
                del self._refused[other]
        is_taught_class = any(label_key(each.label) == key for each in self._taught.values())
        if saying.kind == "is" or (is_taught_class and taught is None):  # a praised guess of a taught class is one more
            self._taught.pop(picture.key, None)
            self._taught[picture.key] = _Taught(saying.label, picture.vector)

    def _classes(self, among: Collection[str] | None) -> dict[str, FloatArray]:
        """The vectors of each label's pictures, shape (n_pictures, n_dimensions)."""
        labels: dict[str, str] = {}
        vectors: dict[str, list[FloatArray]] = {}
        for each in self._taught.values():
            key = label_key(each.label)
            if among is None or key in among:
                vectors.setdefault(labels.setdefault(key, each.label), []).append(each.vector)
        return {label: np.stack(rows) for label, rows in vectors.items()}


def _confusion(first: FloatArray, second: FloatArray) -> float:
    """The share of pictures that resemble the other class more than the rest of their own."""
    n_confused = 0
    for mine, other in ((first, second), (second, first)):
        n = len(mine)
        pairs = mine @ mine.T
        own = (pairs.sum(1) - pairs.diagonal()) / (n - 1) if n > 1 else np.full(1, _USUAL)
        n_confused += int(((mine @ other.T).mean(1) > own).sum())
    return n_confused / (len(first) + len(second))
