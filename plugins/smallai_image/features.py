"""Computes feature vectors of pictures, by which pictures are compared.

A vector has two parts. The first is the model's embedding, which says what the picture looks like. The second says
what it means: the sentence vectors of the definitions of the classes that the model sees, weighted by their
probabilities, as in ConSE (Norouzi et al. 2014, arXiv:1312.5650). A hen and an owl have different shapes in the first
part; in the second both are birds.

Accuracy with five kinds of cut-outs and five taught pictures each: 87.9 % for the nearest class mean by the first part
alone, 91.0 % for the fast memory by both parts. With one taught picture each: 68.9 and 82.1 %. On twenty other kinds:
78.7 and 80.0 % with five pictures, 62.6 and 65.0 % with one. The weight of the second part was chosen on all of these
(`python -m bench.teach_image`); `python -m bench.unseen_kinds` reports on kinds that nothing was chosen on.
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

# The model crops a margin of 32 in 256 pixels, and of a long picture everything but the middle. A taught picture must
# be compared as a whole, so it is padded to a square with a margin of that size.
_MARGIN = 256 / 224
# Larger pictures are reduced first. The model sees 224 pixels, so nothing visible is lost.
_MAX_PADDED_PIXELS = 512
_MEANING_WEIGHT = 0.6  # relative to the embedding's 1; between 0.4 and 1 the accuracy differs by one point
_MEANING_POWER = 0.7  # flattens the probabilities, as in `zero_shot`
_N_MEANING = 64
# From these similarities on, two pictures count as the same one. The vector alone does not tell: many different digits
# reach 0.9. Of 8,295 such pairs of different pictures (cut-outs, digits), one in 150 has thumbnails that reach 0.96; of
# 80 pictures saved again as JPEG of quality 85 at 90 % of their size, all but one do.
MIN_SAME_VECTOR, MIN_SAME_THUMBNAIL = 0.9, 0.96
_THUMBNAIL_SIDE = 16
# Features in the cache, about 13 kB each: 13 MB.
_MAX_CACHED = 1024
# Pictures of noise, from 1 to 128 pixels wide.
_N_REFERENCES = 8

_CacheKey = tuple[str, str, str]  # model, adapter, sha256 of the picture


class AdaptableModel(Protocol):
    """An image model whose embedding can be computed with LoRA weights, such as the transformers engine's."""

    def embed(self, images: Sequence[ImageArray], *, adapter: Adapter | None = None) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Features:
    """What a model computes from a picture.

    Attributes:
        key: sha256 of the picture's file.
        vector: float32, shape (n_dimensions,), unit length.
        probabilities: of the model's own classes, float32, shape (n_classes,).
        thumbnail: the picture in 16 x 16 pixels, float32, shape (768,), with mean 0 and unit length.
    """

    key: str
    vector: FloatArray
    probabilities: FloatArray
    thumbnail: FloatArray

    def is_same_picture(self, other: Features) -> bool:
        """Whether both are of one picture: the same file, or a copy that was saved again or made smaller."""
        return self.key == other.key or (
            float(self.vector @ other.vector) >= MIN_SAME_VECTOR
            and float(self.thumbnail @ other.thumbnail) >= MIN_SAME_THUMBNAIL
        )


@functools.cache
def class_meanings() -> FloatArray:
    """Returns the meanings of the ImageNet classes: float32, shape (1000, 64)."""
    text = (resources.files(__package__) / "imagenet_meanings.txt").read_text(encoding="ascii")
    rows = b"".join(base64.b64decode(line) for line in text.splitlines() if not line.startswith("#"))
    table: FloatArray = np.frombuffer(rows, np.int8).reshape(-1, _N_MEANING).astype(np.float32)
    return table


@functools.cache
def _imagenet_names() -> tuple[str, ...]:
    return tuple(name for name, _ in imagenet_classes())


class FeatureExtractor:
    """Computes features and caches the last ones. Thread-safe.

    The same picture is often asked about, taught and corrected in a row: it goes through the model only once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[_CacheKey, Features] = OrderedDict()
        self._references: dict[tuple[str, str], FloatArray] = {}

    def extract(
        self, model: ImageModel, pictures: Sequence[Picture], *, adapter: Adapter | None = None
    ) -> list[Features]:
        """Returns the features of each picture.

        Args:
            adapter: LoRA weights for the embedding. The probabilities are those of the bare model.
        """
        weights = (str(model.spec), adapter.id if adapter is not None else "")
        with self._lock:
            found = {
                picture.key: self._cache[*weights, picture.key]
                for picture in pictures
                if (*weights, picture.key) in self._cache
            }
        # The model runs without the lock, so that other pictures do not wait. At worst one is computed twice.
        new = {picture.key: picture for picture in pictures if picture.key not in found}
        if new:
            found |= {features.key: features for features in self._compute(model, list(new.values()), adapter)}
        with self._lock:
            for key in found:
                self._cache[*weights, key] = found[key]
                self._cache.move_to_end((*weights, key))
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return [found[picture.key] for picture in pictures]

    def forget(self, picture_key: str) -> None:
        """Drops the cached features of a picture: after an erasure nothing derived from it may stay."""
        with self._lock:
            for key in [key for key in self._cache if key[2] == picture_key]:
                del self._cache[key]

    def vectors(
        self, model: ImageModel, pictures: Sequence[ImageArray], *, adapter: Adapter | None = None
    ) -> FloatArray:
        """Returns vectors without caching them: float32, shape (n_pictures, n_dimensions), unit length."""
        probabilities, embeddings = _classify_and_embed(
            model, [pad_to_square(picture) for picture in pictures], adapter
        )
        return self._combined(model, probabilities, embeddings, adapter)

    def _compute(self, model: ImageModel, pictures: Sequence[Picture], adapter: Adapter | None) -> list[Features]:
        # The probabilities are of the picture as the model crops it, so that an answer does not depend on the memory;
        # the vectors are of the whole, padded picture.
        whole = [picture.pixels for picture in pictures]
        squares = [pad_to_square(picture) for picture in whole]
        if adapter is None:
            probabilities, embeddings = _classify_and_embed(model, [*whole, *squares], None)
            n = len(whole)
            vectors = self._combined(model, probabilities[n:], embeddings[n:], None)
        else:
            probabilities, vectors = model.classify(whole), self.vectors(model, whole, adapter=adapter)
        return [
            Features(picture.key, vectors[i], probabilities[i], thumbnail_of(squares[i]))
            for i, picture in enumerate(pictures)
        ]

    def _combined(
        self, model: ImageModel, probabilities: FloatArray, embeddings: FloatArray, adapter: Adapter | None
    ) -> FloatArray:
        if model.labels == _imagenet_names():
            meaning = _normalized(probabilities**_MEANING_POWER @ class_meanings())
            return _normalized(np.concatenate([_normalized(embeddings), _MEANING_WEIGHT * meaning], axis=1))
        # The meanings of other classes are not known. Their embeddings alone may all point into one direction, which
        # would make every picture similar to every other.
        return _normalized(embeddings - self._reference(model, adapter))

    def _reference(self, model: ImageModel, adapter: Adapter | None) -> FloatArray:
        """Returns what all embeddings of a model have in common, estimated as the mean over pictures of noise."""
        weights = (str(model.spec), adapter.id if adapter is not None else "")
        if weights not in self._references:
            random = np.random.default_rng(0)
            # Noise of several scales: single pixels up to one color.
            noise = [
                np.asarray(
                    Image.fromarray(random.integers(0, 256, (2**i, 2**i, 3), np.uint8)).resize((224, 224)), np.uint8
                )
                for i in range(_N_REFERENCES)
            ]
            self._references[weights] = _embed(model, noise, adapter).mean(0)
        return self._references[weights]


def pad_to_square(pixels: ImageArray) -> ImageArray:
    """Returns the whole picture in the middle of a square of its border's color: uint8, shape (side, side, 3)."""
    factor = max(pixels.shape[:2]) // _MAX_PADDED_PIXELS
    if factor > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
    height, width = pixels.shape[:2]
    side = round(_MARGIN * max(height, width))
    square = np.empty((side, side, 3), np.uint8)
    square[:] = border_color(pixels)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def thumbnail_of(square: ImageArray) -> FloatArray:
    """Returns a square picture in 16 x 16 pixels: float32, shape (768,), with mean 0 and unit length."""
    small = Image.fromarray(square).resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
    values = np.asarray(small, np.float32).reshape(1, -1)
    thumbnail: FloatArray = _normalized(values - values.mean())[0]
    return thumbnail


def border_color(pixels: ImageArray) -> ImageArray:
    """Returns the median color along the four edges: uint8, shape (3,)."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color: ImageArray = np.median(border, axis=0).astype(np.uint8)
    return color


def _classify_and_embed(
    model: ImageModel, images: Sequence[ImageArray], adapter: Adapter | None
) -> tuple[FloatArray, FloatArray]:
    # This plugin's own engine computes both in one pass through the network.
    if isinstance(model, EfficientNetLite):
        return model.classify_and_embed(images)
    return model.classify(images), _embed(model, images, adapter)


def _embed(model: ImageModel, images: Sequence[ImageArray], adapter: Adapter | None) -> FloatArray:
    if adapter is None:
        return model.embed(images)
    return cast("AdaptableModel", model).embed(images, adapter=adapter)


def _normalized(rows: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Returns the rows scaled to unit length; a row of zeros stays zero."""
    scaled: FloatArray = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return scaled
