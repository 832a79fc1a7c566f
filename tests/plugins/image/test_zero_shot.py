"""Zero-shot classification: alternatives in a question, class vectors and ConSE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smallai_assistant import Assistant, EmbeddingModel, ModelSpec
from smallai_image.engine import imagenet_classes
from smallai_image.zero_shot import alternatives, class_vectors, conse


def test_class_vectors_are_cached_and_replaced_if_damaged(assistant: Assistant, tmp_path: Path) -> None:
    labels = [name for name, _ in imagenet_classes()[::50]]
    spec = ModelSpec("all-minilm-l6-v2", task="feature-extraction")
    with assistant.models.lease(spec, EmbeddingModel) as words:
        first = class_vectors(labels, words, tmp_path)
        (file,) = tmp_path.iterdir()
        kept = file.read_bytes()
        changed = file.stat().st_mtime_ns
        np.testing.assert_array_equal(class_vectors(labels, words, tmp_path), first)
        assert file.stat().st_mtime_ns == changed
        file.write_bytes(kept[:1000])
        np.testing.assert_allclose(class_vectors(labels, words, tmp_path), first, atol=1e-5)
        np.save(file, first[::-1])  # as if another model had made them
        np.testing.assert_allclose(class_vectors(labels, words, tmp_path), first, atol=1e-5)
        assert np.load(file).shape == first.shape == (20, words.n_dimensions)
        class_vectors(labels[:3], words, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2  # one file for each set of classes, and no temporary ones
        unwritable = tmp_path / "missing"
        np.testing.assert_allclose(class_vectors(labels, words, unwritable), first, atol=1e-5)


def test_label_similar_to_everything_does_not_win() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=8)
    classes = rng.normal(size=(50, 8)) + 2 * common
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    labels = np.stack([common / np.linalg.norm(common), classes[7]])
    seen = np.full((1, 50), 0.2 / 49)
    seen[0, 7] = 0.8
    shares = conse(seen.astype(np.float32), classes.astype(np.float32), labels.astype(np.float32))
    assert shares[0, 1] > 0.6
    assert abs(shares.sum() - 1) < 1e-6


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ("Is it a cat or a dog?", ("cat", "dog")),
        ("is this a cat, a dog or a bird?", ("cat", "dog", "bird")),
        ("cat or dog?", ("cat", "dog")),
        ("Which is it: cat, dog, or bird?", ("cat", "dog", "bird")),
        ("Does this show a fire truck or an ambulance", ("fire truck", "ambulance")),
        ("Tell me whether this is a tulip or a rose.", ("tulip", "rose")),
        ("What is this?", ()),
        ("Is it safe to eat or drink?", ()),
        ("Is it a cat or not?", ()),
        ("Write a poem or a story about it", ()),
        ("or", ()),
        ("a or a", ()),
        ("", ()),
        ("x or y " * 100, ()),
    ],
)
def test_alternatives_are_found_in_a_question(question: str, labels: tuple[str, ...]) -> None:
    assert alternatives(question) == labels
