"""The files of an adapter, and weights that depend on age. No model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.recommend_pairs import imported

from smallai_assistant import Interaction, errors
from smallai_recommend.ease import EaseModel, Settings
from smallai_recommend.interactions import InteractionStats, choice_of
from smallai_recommend.weights import LearnedWeights


@pytest.mark.parametrize("max_dense_items", [10, 1_000])
def test_saved_weights_are_loaded_unchanged(tmp_path: Path, max_dense_items: int) -> None:
    stats = InteractionStats.of([choice_of(row) for row in imported()])
    model = EaseModel(stats, max_dense_items=max_dense_items)
    LearnedWeights.of(stats, model, Settings(5.0, 60.0, 0.1), n_interactions=7).save(tmp_path)
    learned = LearnedWeights.load(tmp_path)
    assert (learned.settings, learned.n_interactions, learned.is_ease) == (
        Settings(5.0, 60.0, 0.1),
        7,
        max_dense_items > 10,
    )
    other = InteractionStats.of(reversed([choice_of(row) for row in imported()]))  # the items have other indices
    other.index_of("later")
    back = learned.model_for(other)
    names = [stats.item_ids[n] for n in range(stats.n_items)]
    places = np.array([other.index_of(name) for name in names])
    every = np.arange(stats.n_items)
    np.testing.assert_allclose(back.block(places, places), model.block(every, every), atol=2e-3)
    kept = learned.stats()
    np.testing.assert_allclose(kept.transitions_from(every), stats.transitions_from(every), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(kept.sums, stats.sums)
    assert learned.knows(other).sum() == stats.n_items
    assert back.block(np.array([other.n_items - 1]), places).max() == 0


def test_old_choices_count_by_the_half_life() -> None:
    log = [Interaction("ada", "a", at=0.0), Interaction("ada", "b", at=0.0), Interaction("bob", "c", at=100.0)]
    log.append(Interaction("bob", "d", at=100.0))
    stats = InteractionStats.of(log)
    a, b, c, d = (np.array([stats.index_of(item)]) for item in "abcd")
    plain = EaseModel(stats)
    assert plain.block(a, b)[0, 0] == pytest.approx(plain.block(c, d)[0, 0])
    aged = EaseModel(stats, settings=Settings(half_life_s=100.0))
    assert aged.block(c, d)[0, 0] == pytest.approx(plain.block(c, d)[0, 0])
    assert aged.block(a, b)[0, 0] == pytest.approx(plain.block(a, b)[0, 0] / 2, rel=0.02)


@pytest.mark.parametrize("damage", ["cut", "json", "shape", "columns", "format"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    stats = InteractionStats.of([choice_of(row) for row in imported(5)])
    whole = LearnedWeights.of(stats, EaseModel(stats), Settings(), n_interactions=7)
    if damage == "shape":
        whole = replace(whole, item_ids=whole.item_ids[1:])
    if damage == "columns":
        whole = replace(whole, columns=whole.columns + 5)
    whole.save(tmp_path)
    facts, tensors = tmp_path / "weights.json", tmp_path / "weights.safetensors"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    if damage == "json":
        facts.write_text("[]")
    if damage == "format":
        facts.write_text(facts.read_text().replace("item-weights 1", "item-weights 9"))
    with pytest.raises(errors.AdapterMismatch):
        LearnedWeights.load(tmp_path)
