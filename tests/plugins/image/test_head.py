"""The head: ridge regression with leave-one-out, and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smallai_assistant.errors import AdapterMismatch
from smallai_image.features import Features
from smallai_image.head import Head, Ridge, fit


@pytest.mark.parametrize(("n", "n_dimensions"), [(8, 40), (40, 8)])
def test_leave_one_out_equals_fitting_without_it(n: int, n_dimensions: int) -> None:
    random = np.random.default_rng(0)
    rows, targets = random.normal(size=(n * 2, n_dimensions)), random.normal(size=(n * 2, 3))
    ridge = Ridge(rows, targets, 2)

    def solved(keep: np.ndarray) -> np.ndarray:
        gram = rows[keep].T @ rows[keep] + 0.3 * np.eye(n_dimensions)
        result: np.ndarray = np.linalg.solve(gram, rows[keep].T @ targets[keep])
        return result

    everything = np.arange(n * 2)
    np.testing.assert_allclose(ridge.weights(0.3), solved(everything).T, atol=1e-8)
    for left_out in (0, n - 1):
        expected = rows[2 * left_out] @ solved(everything[everything // 2 != left_out])
        np.testing.assert_allclose(ridge.leave_one_out(0.3)[left_out], expected, atol=1e-8)


def fitted_head() -> tuple[Head, Features, list[float]]:
    """Returns a head of two classes, the features of a picture of the first, and the losses of the settings tried."""
    random = np.random.default_rng(1)
    views = random.normal(size=(12, 2, 20)).astype(np.float32)
    views[:6] += 2
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    losses: list[float] = []
    head = fit(views, ["a"] * 6 + ["B"] * 5 + ["b"], [1.0] * 11 + [0.5], on_trial=lambda *told: losses.append(told[2]))
    return head, Features("", views[0, 0], np.zeros(1, np.float32), np.zeros(1, np.float32)), losses


def test_head_separates_its_classes() -> None:
    head, features, losses = fitted_head()
    assert head.labels == ("a", "B")
    assert head.counts == (6, 6)
    assert losses
    assert max(losses) < 0.7  # a coin has 0.693
    assert head.probabilities(features)["a"] > 0.6
    assert head.probabilities(features, among={"nothing"}) == head.similarities(features, among={"nothing"}) == {}


def test_saved_head_is_the_same(tmp_path: Path) -> None:
    head, features, _ = fitted_head()
    head.save(tmp_path)
    again = Head.load(tmp_path)
    assert again.probabilities(features) == head.probabilities(features)
    assert again.similarities(features) == head.similarities(features)


def test_damaged_head_is_refused(tmp_path: Path) -> None:
    head, _, _ = fitted_head()
    head.save(tmp_path)
    (tmp_path / "head.json").write_text('{"labels": ["a"], "counts": [6], "temperature": 0.1}')
    with pytest.raises(AdapterMismatch, match="fit together"):
        Head.load(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(AdapterMismatch):
        Head.load(tmp_path)
