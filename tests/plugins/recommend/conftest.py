"""Fixtures of the recommender's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.loaded_models import models_stay  # noqa: F401  (a fixture)
from support.recommend_pairs import FILMS, imported, never
from support.recommending import TASK, ObservedLock

from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.cli.demo_data import books, readings
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore
from smallai_recommend.evaluation import Evaluator
from smallai_recommend.index import Index
from smallai_recommend.text_index import TextIndex


@pytest.fixture(autouse=True)
def _models_stay(models_stay: None) -> None:  # noqa: F811
    pass


@pytest.fixture
def own_shop(config: AssistantConfig) -> Iterator[Assistant]:
    """An assistant with thirty books and their readers, for tests that change it."""
    with Assistant(config) as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        yield opened


@pytest.fixture
def own_index(own_shop: Assistant) -> Callable[[], Index]:
    """Looks up the index of the running task: no answer shows the order and the strengths of a history."""

    def look_up() -> Index:
        task: Any = own_shop.tasks[TASK]
        index: Index = task._index
        return index

    return look_up


@pytest.fixture
def lock_of_index(own_shop: Assistant) -> ObservedLock:
    """The lock that an answer holds: no request takes as long as a test wants, and nothing tells that one waits."""
    task: Any = own_shop.tasks[TASK]
    task._lock = lock = ObservedLock()
    return lock


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Any]:
    """The part of a task's context that the recommender reads, over a store with pairs of films."""
    database = Database(tmp_path / "data")
    store = ItemStore(database)
    store.add_items(FILMS)
    store.add_interactions(imported())
    yield SimpleNamespace(items=store)
    database.close()


@pytest.fixture
def evaluator(context: Any, tmp_path: Path) -> Evaluator:
    """An evaluator without a text model."""
    return Evaluator(context, TextIndex(tmp_path), never, max_dense_items=1_000)
