"""What a picture is like, as numbers that pictures can be compared by.

A picture's vector has two parts. One is the model's embedding. The other says what the picture means: the classes that
the model sees in it, each by the sentence vector of its definition, as in ConSE (Norouzi et al. 2014,
arXiv:1312.5650): to the first part a hen and an owl are two shapes, to the second both are birds. With five pictures
each of five kinds of cut-outs the nearest class mean is right on 87.9 % of the rest by the first part alone, the fast
memory by both on 90.6 %; with one picture each it is 68.9 and 81.8 %. On twenty other kinds it is 78.7 % both times
with five, 62.6 and 63.9 % with one. The weight was chosen on all of these (`python -m bench.teach_image`).
"""

from __future__ import annotations

import base64
import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL import Image

from smallai_image.engine import EfficientNetLite, imagenet_classes

if TYPE_CHECKING:
    import numpy.typing as npt

    from smallai_assistant import Adapter, ImageModel
    from smallai_image.feedback import Picture

    FloatArray = npt.NDArray[np.float32]
    ImageArray = npt.NDArray[np.uint8]

# The model's crop leaves out a margin of 32 in 256 pixels and of a long picture all but the middle. What is taught is
# compared whole: on a square of its own border's colour, with a margin for the crop.
_MARGIN = 256 / 224
_ENOUGH_PIXELS = 512
_MEANING_WEIGHT = 0.6  # beside the embedding's 1; 0.4 to 1 differ by a point
_MEANING_POWER = 0.7  # flattens the probabilities, as in zero_shot
_N_MEANING = 64
_MAX_KEPT = 1024  # pictures, about 10 kB each
_N_REFERENCES = 8


class AdaptableModel(Protocol):
    """An image model whose backbone can wear LoRA weights, such as the transformers engine's."""

    def embed(self, images: Sequence[ImageArray], *, adapter: Adapter | None = None) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as the model sees it.

    Attributes:
        key: sha256 of its file.
        vector: float32, shape (n_dimensions,), of length 1.
        shares: the probabilities of the model's own classes, float32, shape (n_classes,).
    """

    key: str
    vector: FloatArray
    shares: FloatArray


@functools.cache
def meanings() -> FloatArray:
    """What the ImageNet classes mean: float32, shape (1000, 64)."""
    text = (resources.files(__package__) / "imagenet_meanings.txt").read_text(encoding="ascii")
    rows = b"".join(base64.b64decode(line) for line in text.splitlines() if not line.startswith("#"))
    table: FloatArray = np.frombuffer(rows, np.int8).reshape(-1, _N_MEANING).astype(np.float32)
    return table


@functools.cache
def _imagenet_names() -> tuple[str, ...]:
    return tuple(name for name, _ in imagenet_classes())


class Looker:
    """Looks at pictures and remembers the last ones: a picture is asked about, taught and judged in turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], Seen] = OrderedDict()
        self._references: dict[tuple[str, str], FloatArray] = {}

    def look(self, model: ImageModel, pictures: Sequence[Picture], *, adapter: Adapter | None = None) -> list[Seen]:
        """Sees each picture once.

        Args:
            adapter: LoRA weights for the embedding; the shares are the bare model's.
        """
        worn = (str(model.spec), adapter.id if adapter is not None else "")
        with self._lock:
            found = {
                picture.key: self._kept[*worn, picture.key]
                for picture in pictures
                if (*worn, picture.key) in self._kept
            }
        new = {picture.key: picture for picture in pictures if picture.key not in found}
        if new:
            found |= {each.key: each for each in self._see(model, list(new.values()), adapter)}
        with self._lock:
            for key in found:
                self._kept[*worn, key] = found[key]
                self._kept.move_to_end((*worn, key))
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return [found[picture.key] for picture in pictures]

    def forget(self, key: str) -> None:
        """Drops what is known of a picture."""
        with self._lock:
            for each in [each for each in self._kept if each[2] == key]:
                del self._kept[each]

    def views(self, model: ImageModel, pictures: Sequence[ImageArray], *, adapter: Adapter | None = None) -> FloatArray:
        """The vectors of pictures that nobody asks for again: float32, shape (n_pictures, n_dimensions)."""
        shares, embedded = _both(model, [squared(picture) for picture in pictures], adapter)
        return self._joined(model, shares, embedded, adapter)

    def _see(self, model: ImageModel, pictures: Sequence[Picture], adapter: Adapter | None) -> list[Seen]:
        whole = [picture.pixels for picture in pictures]
        if adapter is None:
            shares, embedded = _both(model, [*whole, *map(squared, whole)], None)
            n = len(whole)
            vectors = self._joined(model, shares[n:], embedded[n:], None)
        else:
            shares, vectors = model.classify(whole), self.views(model, whole, adapter=adapter)
        return [Seen(each.key, vectors[i], shares[i]) for i, each in enumerate(pictures)]

    def _joined(
        self, model: ImageModel, shares: FloatArray, embedded: FloatArray, adapter: Adapter | None
    ) -> FloatArray:
        if model.labels == _imagenet_names():
            meaning = _unit(shares**_MEANING_POWER @ meanings())
            return _unit(np.concatenate([_unit(embedded), _MEANING_WEIGHT * meaning], axis=1))
        return _unit(embedded - self._reference(model, adapter))

    def _reference(self, model: ImageModel, adapter: Adapter | None) -> FloatArray:
        """What the embeddings of all pictures share in models that are not known: the mean over pictures of noise."""
        worn = (str(model.spec), adapter.id if adapter is not None else "")
        if worn not in self._references:
            random = np.random.default_rng(0)
            noise = [
                np.asarray(
                    Image.fromarray(random.integers(0, 256, (2**i, 2**i, 3), np.uint8)).resize((224, 224)), np.uint8
                )
                for i in range(_N_REFERENCES)
            ]
            self._references[worn] = _embedded(model, noise, adapter).mean(0)
        return self._references[worn]


def squared(pixels: ImageArray) -> ImageArray:
    """The whole picture in the middle of a square of the usual colour of its border."""
    factor = max(pixels.shape[:2]) // _ENOUGH_PIXELS
    if factor > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
    height, width = pixels.shape[:2]
    side = round(_MARGIN * max(height, width))
    square = np.empty((side, side, 3), np.uint8)
    square[:] = border_color(pixels)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def border_color(pixels: ImageArray) -> ImageArray:
    """The usual colour along the four edges: uint8, shape (3,)."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color: ImageArray = np.median(border, axis=0).astype(np.uint8)
    return color


def _both(model: ImageModel, images: Sequence[ImageArray], adapter: Adapter | None) -> tuple[FloatArray, FloatArray]:
    """Probabilities and embeddings."""
    if isinstance(model, EfficientNetLite):
        return model.see(images)
    return model.classify(images), _embedded(model, images, adapter)


def _embedded(model: ImageModel, images: Sequence[ImageArray], adapter: Adapter | None) -> FloatArray:
    if adapter is None:
        return model.embed(images)
    return cast("AdaptableModel", model).embed(images, adapter=adapter)


def _unit(rows: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """The rows scaled to length 1."""
    scaled: FloatArray = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return scaled
