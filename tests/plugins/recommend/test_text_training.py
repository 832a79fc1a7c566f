"""Training of the map of text vectors. No model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from support.recommend_pairs import never, training_of

from smallai_assistant import Interaction, Item
from smallai_recommend.ease import Settings
from smallai_recommend.evaluation import Evaluator
from smallai_recommend.item_texts import ReadTexts, TextVectors
from smallai_recommend.text_index import TextIndex
from smallai_recommend.text_training import order_of_hidden, train_text_map
from smallai_recommend.weights import LearnedWeights, TextMap


def test_a_map_places_hidden_items_better(tmp_path: Path, context: Any) -> None:
    """The vectors tell two properties of each film, and the users care for the one with less weight."""
    random = np.random.default_rng(0)
    n, loud, quiet = 400, 8, 4
    kind = random.integers(quiet, size=n)
    vectors = np.concatenate([2.0 * np.eye(loud)[random.integers(loud, size=n)], np.eye(quiet)[kind]], axis=1)
    vectors = (vectors + 0.05 * random.standard_normal(vectors.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    log = []
    for user in range(60):
        mine = random.permutation(np.flatnonzero(kind == user % quiet))[:25]
        log += [Interaction(f"u{user}", f"x{item}", at=float(100 * user + place)) for place, item in enumerate(mine)]
    context.items.add_items([Item(f"x{item}", f"X{item}") for item in range(n)])
    context.items.add_interactions(log)
    evaluator = Evaluator(context, TextIndex(tmp_path), never, max_dense_items=1_000)
    index = evaluator.index
    places = [index.stats.index_of(f"x{item}") for item in range(n)]
    whole, has = np.zeros((index.stats.n_items, vectors.shape[1]), np.float32), np.zeros(index.stats.n_items, np.bool_)
    whole[places], has[places] = vectors, True
    index.read_texts = ReadTexts(TextVectors(whole, whole, has), "made up", is_complete=True)
    evaluator.has_texts = True
    found = train_text_map(training_of(tmp_path, []), evaluator, [])
    assert found is not None
    assert found.for_cold
    hidden = has & (random.random(index.stats.n_items) < 0.2)
    histories = [np.array(history.items) for history in index.stats.users.values()]
    plain, mapped = (order_of_hidden(rows, histories, hidden, has & ~hidden).mean() for rows in (whole, found(whole)))
    assert mapped > plain + 0.005
    assert np.allclose(np.linalg.norm(found(whole)[places], axis=1), 1.0, atol=1e-5)
    assert not found(whole)[~has].any()

    noise = random.standard_normal(whole.shape).astype(np.float32)
    index.read_texts = ReadTexts(TextVectors(noise, whole, has), "made up", is_complete=True)
    assert train_text_map(training_of(tmp_path, []), evaluator, []) is None  # such texts tell nothing


def test_a_map_of_another_model_is_ignored(context: Any, evaluator: Evaluator) -> None:
    stats = evaluator.index.stats
    learned = LearnedWeights.of(stats, evaluator.index.snapshot().model, Settings(), n_interactions=7)
    learned = replace(
        learned, text_map=TextMap(np.zeros((3, 3), np.float32), "another", for_cold=True, for_queries=True)
    )
    evaluator.index.use(learned)
    assert evaluator.index.snapshot().text_map is None
