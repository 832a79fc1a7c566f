"""Item-item weights: EASE and nearest neighbours. No model is loaded."""

from __future__ import annotations

import numpy as np
import pytest
from support.interactions import log_of, random_log

from smallai_assistant import Interaction
from smallai_recommend.ease import NEAR_FLOOR, NEAR_SCALE, NEIGHBOURS, RIDGE, EaseModel
from smallai_recommend.interactions import InteractionStats


def test_ease_equals_its_closed_form() -> None:
    found = InteractionStats.of(random_log(200, n_users=8, n_items=15, seed=1))
    gram = RIDGE * np.eye(found.n_items)
    for history in found.users.values():
        items, amounts, _ = history.first()
        for i, a in enumerate(items):
            for j, b in enumerate(items):
                near = NEAR_FLOOR + (1 - NEAR_FLOOR) * np.exp(-abs(i - j) / NEAR_SCALE)
                gram[a, b] += near * amounts[i] * amounts[j]
    inverse = np.linalg.inv(gram)
    expected = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(expected, 0.0)

    model = EaseModel(found)
    every = np.arange(found.n_items)
    assert model.is_ease
    np.testing.assert_allclose(model.block(every, every), expected, atol=1e-6)
    np.testing.assert_allclose(model.score(np.array([3, 5]), np.array([1, 2], np.float32)),
                               expected[3] + 2 * expected[5], atol=1e-6)  # fmt: skip


def test_many_items_keep_their_nearest_neighbours() -> None:
    log = random_log(6_000, n_users=40, n_items=NEIGHBOURS + 80, seed=2)
    found = InteractionStats.of(log)
    n = found.n_items
    users = np.zeros((len(found.users), n))
    for row, history in enumerate(found.users.values()):
        users[row, history.items] = 1.0
    length = np.sqrt((users**2).sum(0) + 1)
    cosine = (users.T @ users) / np.outer(length, length)
    np.fill_diagonal(cosine, 0.0)

    model = EaseModel(found, max_dense_items=n - 1)
    every = np.arange(n)
    kept = model.block(every, every)
    assert not model.is_ease
    assert ((kept > 0).sum(1) <= NEIGHBOURS).all()
    np.testing.assert_allclose(kept[kept > 0], cosine[kept > 0], rtol=1e-4)
    smallest_kept = np.array([row[row > 0].min() for row in kept])
    assert (np.where(kept > 0, 0.0, cosine).max(1) <= smallest_kept + 1e-6).all()
    assert (kept > 0).sum() == n * NEIGHBOURS
    np.testing.assert_allclose(model.score(every[:2], np.array([1, 3], np.float32)), kept[0] + 3 * kept[1], rtol=1e-5)
    assert EaseModel(found, max_dense_items=n).is_ease


@pytest.mark.parametrize("max_dense_items", [2, 100])
def test_later_items_have_no_weights_yet(max_dense_items: int) -> None:
    found = InteractionStats.of(log_of(("ada", "a"), ("ada", "b"), ("bob", "a"), ("bob", "c")))
    model = EaseModel(found, max_dense_items=max_dense_items)
    assert found.append(Interaction("ada", "later", at=9.0))
    later, a, b = (found.index_of(item) for item in ("later", "a", "b"))
    assert len(model.score(np.array([later, a]), np.ones(2, np.float32))) == 3
    block = model.block(np.array([later, a]), np.array([b, later]))
    assert block[0].tolist() == [0, 0]
    assert block[1, 0] > 0
    assert block[1, 1] == 0


@pytest.mark.parametrize("max_dense_items", [2, 100])
def test_without_interactions_all_weights_are_zero(max_dense_items: int) -> None:
    found = InteractionStats.of([])
    for item in "abcd":
        found.index_of(item)
    assert EaseModel(found, max_dense_items=max_dense_items).score(np.arange(4), np.ones(4, np.float32)).max() == 0
