"""Feature vectors of pictures, and the table of what the ImageNet classes mean."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from support.drawings import face, rings
from support.pictures import SPEC

from smallai_assistant import Assistant, EmbeddingModel, ImageModel, ModelSpec
from smallai_image.features import FeatureExtractor, class_meanings, pad_to_square
from smallai_image.feedback import Picture
from smallai_image.training import N_VIEWS, augment


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_class_meanings_agree_with_the_sentence_model(assistant: Assistant) -> None:
    from smallai_image.engine import imagenet_classes
    from smallai_image.zero_shot import class_texts

    rows = list(range(0, 1000, 23))
    names = [name for name, _ in imagenet_classes()]
    with assistant.models.lease(ModelSpec("all-minilm-l6-v2", task="feature-extraction"), EmbeddingModel) as words:
        vectors = words.embed([class_texts(names)[i] for i in rows])
    vectors -= vectors.mean(0)
    table = class_meanings()
    assert table.shape == (1000, 64)
    short = table[rows] - table[rows].mean(0)
    by_table, by_model = (matrix @ matrix.T for matrix in (short, vectors))
    pairs = np.triu_indices(len(rows), 1)
    assert np.corrcoef(by_table[pairs], by_model[pairs])[0, 1] > 0.9


def test_features_are_computed_once_until_forgotten(assistant: Assistant) -> None:
    extractor = FeatureExtractor()
    with assistant.models.lease(SPEC, ImageModel) as model:
        pictures = [Picture(str(seed), pixels_of(rings(seed))) for seed in range(3)]
        found = extractor.extract(model, pictures)
        assert [float(np.linalg.norm(features.vector)) for features in found] == pytest.approx([1, 1, 1], abs=1e-5)
        np.testing.assert_allclose(found[0].probabilities, model.classify([pictures[0].pixels])[0], atol=1e-4)
        np.testing.assert_allclose(extractor.vectors(model, [pictures[1].pixels])[0], found[1].vector, atol=1e-4)
        assert extractor.extract(model, [pictures[2], pictures[0]])[1] is found[0]
        extractor.forget("0")
        assert extractor.extract(model, [pictures[0]])[0] is not found[0]


def test_padding_keeps_the_whole_picture() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[4:6, 10:30] = 200
    assert pad_to_square(wide).shape == (46, 46, 3)
    assert int((pad_to_square(wide) == 200).sum()) == int((wide == 200).sum())
    assert max(pad_to_square(np.zeros((3000, 20, 3), np.uint8)).shape) < 1100


def test_augmented_pictures_are_reproducible_and_different() -> None:
    pixels = pixels_of(face(0))
    first, again = list(augment(pixels, N_VIEWS)), list(augment(pixels, N_VIEWS))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.tobytes() for image in first}) == N_VIEWS
    assert all(image.shape == (1, 1, 3) for image in augment(np.zeros((1, 1, 3), np.uint8), 3))
