"""The index over a store, and its rankings on MovieLens. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.interactions import log_of

from bench.recommend import MIN_HR, MIN_NDCG, leave_out, quality, read_films, read_log
from smallai_assistant import Interaction, Item
from smallai_assistant.cli.demo_data import READER, books, readings
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore
from smallai_recommend.index import Index
from smallai_recommend.ranking import rank


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ItemStore]:
    database = Database(tmp_path / "data")
    yield ItemStore(database)
    database.close()


def refreshed(index: Index, store: ItemStore, **options: Any) -> Index:
    index.refresh(SimpleNamespace(items=store), **options)  # type: ignore[arg-type]
    return index


def titles(index: Index, user: str | None, n: int) -> list[str]:
    snapshot = index.snapshot()
    return [snapshot.catalogue.titles[item] for item in rank(snapshot, user).order[:n].tolist()]


def test_the_index_follows_the_store(store: ItemStore) -> None:
    index = Index()
    assert refreshed(index, store).stats.n_items == 0
    log = readings()
    store.add_items(books()[:20])
    store.add_interactions(log[:30])
    refreshed(index, store)
    store.add_interactions(log[30:])
    store.add_items(books())
    store.remove_items(["dracula"])
    refreshed(index, store)
    fresh = refreshed(Index(), store)
    assert index.stats.n_interactions == len(log)
    assert (
        set(index.catalogue.titles.values())
        == set(fresh.catalogue.titles.values())
        == {item.title for item in books()} - {"Dracula"}
    )
    for stats in (index.stats, fresh.stats):
        assert {user: [stats.item_ids[item] for item in history.items] for user, history in stats.users.items()} == {
            user: [row.item for row in log if row.user == user] for user in {row.user for row in log}
        }
    index.weights.reset()  # the fresh index computed its weights from all interactions
    assert titles(index, READER, 10) == titles(fresh, READER, 10)
    assert "Dracula" not in titles(index, READER, 100)


def test_a_late_interaction_is_put_in_its_place(store: ItemStore) -> None:
    store.add_items([Item(item, item.upper()) for item in "abcd"])
    store.add_interactions([Interaction("ada", "a", at=10.0), Interaction("ada", "c", at=30.0)])
    index = refreshed(Index(), store)
    store.add_interactions([Interaction("bob", "d", at=5.0), Interaction("ada", "b", at=20.0)])
    refreshed(index, store)
    history = index.stats.users["ada"]
    assert [index.stats.item_ids[item] for item in history.items] == ["a", "b", "c"]
    assert index.stats.n_interactions == 4


def test_weights_are_computed_again_after_many_interactions(store: ItemStore) -> None:
    store.add_interactions(log_of(("ada", "a"), ("ada", "b")))
    index = refreshed(Index(), store)
    first = index.snapshot().model
    store.add_interactions([Interaction("bob", "a", at=10.0)])
    assert refreshed(index, store).snapshot().model is first
    store.add_interactions([Interaction(f"u{n}", "c", at=20.0) for n in range(300)])
    assert refreshed(index, store).snapshot().model is not first
    assert refreshed(index, store, max_dense_items=2).snapshot().model.is_ease is False


@pytest.mark.slow
def test_last_choices_on_movielens_are_predicted(store: ItemStore) -> None:
    held, known = leave_out(read_log())
    store.add_items(read_films())
    store.add_interactions(known)
    index = refreshed(Index(), store)
    ids = index.stats.item_ids
    snapshot = index.snapshot()
    lists = {user: [ids[item] for item in rank(snapshot, user).order[:10].tolist()] for user in held}
    ndcg, hr = quality(lists, held)
    assert ndcg >= MIN_NDCG
    assert hr >= MIN_HR


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pushed item only", "pushed item among popular ones", "pushed item many times"])
def test_fake_users_bring_an_item_into_few_lists(store: ItemStore, kind: str) -> None:
    log, pushed = sorted(read_log(), key=lambda row: row.at), "1138"
    rng = np.random.default_rng(0)
    names, counts = np.unique([row.item for row in log], return_counts=True)
    popular = names[np.argsort(-counts)][:100]
    end = log[-1].at
    for n in range(47):  # 5 % of the users
        if kind == "pushed item only":
            chosen = [pushed]
        elif kind == "pushed item among popular ones":
            chosen = [*rng.choice(popular, 20, replace=False).tolist(), pushed]
        else:
            chosen = [item for other in rng.choice(popular, 50).tolist() for item in (other, pushed)]
        log += [Interaction(f"fake{n}", item, 1000.0, at=end + second) for second, item in enumerate(chosen)]
    store.add_items(read_films())
    store.add_interactions(log)
    index = refreshed(Index(), store)
    real = [user for user in index.stats.users if not user.startswith("fake")][::3]
    item = index.stats.index_of(pushed)
    snapshot = index.snapshot()
    assert np.mean([item in rank(snapshot, user).order[:10] for user in real]) < 0.01
    assert item not in rank(snapshot, None).order[:10]
