"""The parts of the recommender: evidence, weights, index, wishes. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.recommend import MIN_HR, MIN_NDCG, leave_out, quality, read_films, read_log
from smallai_assistant import Interaction, Item
from smallai_assistant.cli.demo_data import READER, books, readings
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore
from smallai_recommend import interactions as interactions_module
from smallai_recommend.ease import NEAR_FLOOR, NEAR_SCALE, NEIGHBOURS, RIDGE, TogetherModel
from smallai_recommend.index import Index
from smallai_recommend.interactions import LAGS, TREND_S, InteractionStats, strength
from smallai_recommend.query import Titles, Wish, read_wish
from smallai_recommend.ranking import rank


def log_of(*rows: tuple[str, str], weight: float = 1.0) -> list[Interaction]:
    """One second apart."""
    return [Interaction(user, item, weight, at=float(second)) for second, (user, item) in enumerate(rows, 1)]


def random_log(n: int, *, n_users: int, n_items: int, seed: int = 0) -> list[Interaction]:
    rng = np.random.default_rng(seed)
    return log_of(*((f"u{rng.integers(n_users)}", f"i{rng.integers(n_items)}") for _ in range(n)))


# -- evidence --


interactions = st.builds(
    Interaction,
    user=st.sampled_from(["ada", "bob", "cleo"]),
    item=st.sampled_from("abcdef"),
    weight=st.sampled_from([1e-6, 0.5, 1.0, 5.0, 1000.0]),
    at=st.integers(0, 5).map(lambda day: 86_400.0 * day),
)


@settings(deadline=None)  # the first call imports scipy
@given(log=st.lists(interactions, max_size=60), share=st.floats(0, 1))
def test_appending_gives_the_same_as_taking_in_all(log: list[Interaction], share: float) -> None:
    log.sort(key=lambda each: each.at)
    whole = InteractionStats.of(log)
    n_first = round(share * len(log))
    grown = InteractionStats.of(log[:n_first])
    assert all(grown.append(each) for each in log[n_first:])

    assert grown.item_ids == whole.item_ids
    assert grown.users == whole.users
    assert grown.n_interactions == whole.n_interactions == len(log)
    assert grown.newest_at == whole.newest_at
    np.testing.assert_allclose(grown.popularity, whole.popularity, rtol=1e-12)
    np.testing.assert_allclose(grown.trend(6 * 86_400.0), whole.trend(6 * 86_400.0), rtol=1e-9)
    every = range(whole.n_items)
    np.testing.assert_allclose(grown.transitions_from(every), whole.transitions_from(every), rtol=1e-4, atol=1e-9)


def test_transitions_are_what_they_are_defined_to_be() -> None:
    log = random_log(300, n_users=4, n_items=12)
    whole = InteractionStats.of(log)
    counts = np.zeros((whole.n_items, whole.n_items))
    for history in whole.users.values():
        for later, end in enumerate(history.items):
            for earlier in range(max(0, later - LAGS), later):
                start = history.items[earlier]
                if start != end:
                    fade = np.exp(-(later - earlier - 1) / interactions_module.LAG_SCALE)
                    count = fade * history.counts[earlier] * history.counts[later]
                    counts[start, end] += count
                    counts[end, start] += interactions_module.BACKWARD * count
    shrunk = counts / (counts.sum(1, keepdims=True) + interactions_module.SHRINKAGE)
    shrunk /= (counts.sum(0) + interactions_module.SHRINKAGE) ** interactions_module.COMMONNESS
    np.testing.assert_allclose(whole.transitions_from(range(whole.n_items)), shrunk, rtol=1e-4)
    assert counts.max() > 0


def test_what_lies_before_the_last_of_its_user_is_refused_and_changes_nothing() -> None:
    log = log_of(("ada", "a"), ("bob", "b"), ("ada", "c"))
    one = InteractionStats.of(log)
    assert not one.append(Interaction("ada", "new", at=1.5))
    other = InteractionStats.of(log)
    assert (one.item_ids, one.users, one.n_interactions) == (other.item_ids, other.users, 3)
    assert one.append(Interaction("bob", "new", at=2.5))  # earlier than the log's last, not than bob's


def test_no_weight_and_no_repeating_drowns_the_others() -> None:
    assert strength(1.0) == 1.0
    assert 0 < strength(1e-6) < 1e-5
    assert strength(1000.0) < 2
    spam = [Interaction("robot", item, 1000.0, at=float(second)) for second in range(500) for item in "xy"]
    crowd = [Interaction(f"u{n}", item, at=600.0) for n in range(4) for item in "ab"]
    found = InteractionStats.of([*spam, *crowd])
    popularity = dict(zip(found.item_ids, found.popularity, strict=True))
    assert popularity["a"] == 4.0
    assert popularity["x"] < popularity["a"]
    assert found.users["robot"].strengths[-1] == strength(1000.0)  # for itself every choice counts whole


def test_the_trend_fades_with_age() -> None:
    found = InteractionStats.of([Interaction("ada", "old", at=0.0), Interaction("bob", "new", at=TREND_S)])
    old, new = found.trend(TREND_S)
    assert new == pytest.approx(1.0)
    assert old == pytest.approx(np.exp(-1))
    assert found.trend(0.0)[1] == pytest.approx(1.0)  # a clock that is behind makes nothing grow


# -- what goes together --


def test_ease_is_its_closed_form_over_near_choices() -> None:
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

    model = TogetherModel(found)
    every = np.arange(found.n_items)
    assert model.is_ease
    np.testing.assert_allclose(model.block(every, every), expected, atol=1e-6)
    np.testing.assert_allclose(model.score(np.array([3, 5]), np.array([1, 2], np.float32)),
                               expected[3] + 2 * expected[5], atol=1e-6)  # fmt: skip


def test_with_too_many_items_the_nearest_neighbours_are_kept() -> None:
    log = random_log(6_000, n_users=40, n_items=NEIGHBOURS + 80, seed=2)
    found = InteractionStats.of(log)
    n = found.n_items
    users = np.zeros((len(found.users), n))
    for row, history in enumerate(found.users.values()):
        users[row, history.items] = 1.0
    length = np.sqrt((users**2).sum(0) + 1)
    cosine = (users.T @ users) / np.outer(length, length)
    np.fill_diagonal(cosine, 0.0)

    model = TogetherModel(found, max_dense_items=n - 1)
    every = np.arange(n)
    kept = model.block(every, every)
    assert not model.is_ease
    assert ((kept > 0).sum(1) <= NEIGHBOURS).all()
    np.testing.assert_allclose(kept[kept > 0], cosine[kept > 0], rtol=1e-4)
    smallest_kept = np.array([row[row > 0].min() for row in kept])
    assert (np.where(kept > 0, 0.0, cosine).max(1) <= smallest_kept + 1e-6).all()
    assert (kept > 0).sum() == n * NEIGHBOURS
    np.testing.assert_allclose(model.score(every[:2], np.array([1, 3], np.float32)), kept[0] + 3 * kept[1], rtol=1e-5)
    assert TogetherModel(found, max_dense_items=n).is_ease


@pytest.mark.parametrize("max_dense_items", [2, 100])
def test_items_that_came_later_have_no_weights_yet(max_dense_items: int) -> None:
    found = InteractionStats.of(log_of(("ada", "a"), ("ada", "b"), ("bob", "a"), ("bob", "c")))
    model = TogetherModel(found, max_dense_items=max_dense_items)
    assert found.append(Interaction("ada", "later", at=9.0))
    later, a, b = (found.index_of(item) for item in ("later", "a", "b"))
    assert len(model.score(np.array([later, a]), np.ones(2, np.float32))) == 3
    block = model.block(np.array([later, a]), np.array([b, later]))
    assert block[0].tolist() == [0, 0]
    assert block[1, 0] > 0
    assert block[1, 1] == 0


@pytest.mark.parametrize("max_dense_items", [2, 100])
def test_without_interactions_nothing_goes_together(max_dense_items: int) -> None:
    found = InteractionStats.of([])
    for item in "abcd":
        found.index_of(item)
    assert TogetherModel(found, max_dense_items=max_dense_items).score(np.arange(4), np.ones(4, np.float32)).max() == 0


# -- the index --


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ItemStore]:
    database = Database(tmp_path / "data")
    yield ItemStore(database)
    database.close()


def refreshed(index: Index, store: ItemStore, **options: Any) -> Index:
    index.refresh(SimpleNamespace(items=store), **options)  # type: ignore[arg-type]
    return index


def titles(index: Index, user: str | None, n: int) -> list[str]:
    return [index.titles[item] for item in rank(index, user).order[:n].tolist()]


def test_the_index_follows_the_store(store: ItemStore) -> None:
    index = Index()
    assert refreshed(index, store).n_items == 0
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
    assert set(index.titles.values()) == set(fresh.titles.values()) == {item.title for item in books()} - {"Dracula"}
    for stats in (index.stats, fresh.stats):
        assert {user: [stats.item_ids[item] for item in history.items] for user, history in stats.users.items()} == {
            user: [each.item for each in log if each.user == user] for user in {each.user for each in log}
        }
    index._model = None
    assert titles(index, READER, 10) == titles(fresh, READER, 10)
    assert "Dracula" not in titles(index, READER, 100)


def test_what_comes_late_is_put_in_its_place(store: ItemStore) -> None:
    store.add_items([Item(item, item.upper()) for item in "abcd"])
    store.add_interactions([Interaction("ada", "a", at=10.0), Interaction("ada", "c", at=30.0)])
    index = refreshed(Index(), store)
    store.add_interactions([Interaction("bob", "d", at=5.0), Interaction("ada", "b", at=20.0)])
    refreshed(index, store)
    history = index.stats.users["ada"]
    assert [index.stats.item_ids[item] for item in history.items] == ["a", "b", "c"]
    assert index.stats.n_interactions == 4


def test_weights_are_made_anew_after_many_interactions(store: ItemStore) -> None:
    store.add_interactions(log_of(("ada", "a"), ("ada", "b")))
    index = refreshed(Index(), store)
    first = index.model
    store.add_interactions([Interaction("bob", "a", at=10.0)])
    assert refreshed(index, store).model is first
    store.add_interactions([Interaction(f"u{n}", "c", at=20.0) for n in range(300)])
    assert refreshed(index, store).model is not first
    assert refreshed(index, store, max_dense_items=2).model.is_ease is False


@pytest.mark.slow
def test_the_last_choice_of_movielens_users_is_found_often_enough(store: ItemStore) -> None:
    held, known = leave_out(read_log())
    store.add_items(read_films())
    store.add_interactions(known)
    index = refreshed(Index(), store)
    ids = index.stats.item_ids
    lists = {user: [ids[item] for item in rank(index, user).order[:10].tolist()] for user in held}
    ndcg, hr = quality(lists, held)
    assert ndcg >= MIN_NDCG
    assert hr >= MIN_HR


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pushed item only", "pushed item among popular ones", "pushed item many times"])
def test_five_percent_fake_users_bring_an_item_into_few_lists(store: ItemStore, kind: str) -> None:
    log, pushed = sorted(read_log(), key=lambda each: each.at), "1138"
    rng = np.random.default_rng(0)
    names, counts = np.unique([each.item for each in log], return_counts=True)
    popular = names[np.argsort(-counts)][:100]
    end = log[-1].at
    for n in range(47):
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
    assert np.mean([item in rank(index, user).order[:10] for user in real]) < 0.01
    assert item not in rank(index, None).order[:10]


# -- the wish --


NAMES = [
    "Alien (1979)",
    "Aliens",
    "Matrix, The (1999)",
    "Big",
    "Heat",
    "Toy Story",
    "The Thing",
    "What to Watch",
    "Emma",
]


@pytest.fixture(scope="module")
def finder() -> Titles:
    return Titles(dict(enumerate(NAMES)), [1.0] * len(NAMES))


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("recommend something", Wish()),
        ("What should I watch tonight?", Wish()),
        ("a western for tonight", Wish(text="western")),
        ("I'm in the mood for something scary, please", Wish(text="scary")),
        ("recommend a film like Alien", Wish(like=(0,))),
        ("recommend a film like ALIEN 1979", Wish(like=(0,))),
        ("films similar to the matrix", Wish(like=(2,))),
        ("I liked Alien and The Thing, what now?", Wish(like=(0, 6))),
        ("I want to see a big heist", Wish(text="big heist")),
        ("after Big", Wish(like=(3,))),
        ("toy story", Wish(like=(5,))),
        ("a comedy but no romance", Wish(text="comedy", avoid="romance")),
        ("nothing too violent", Wish(avoid="violent")),
        ("a good love story for the weekend", Wish(text="love story")),
        ("a song I would love", Wish()),
        ("I really love westerns", Wish(text="westerns")),
        ("a comedy, no love stories", Wish(text="comedy", avoid="love stories")),
        ("I do not love it", Wish()),
        ("more of the same", Wish(like_last=True)),
        ("something like the last one", Wish(like_last=True)),
        ("", Wish()),
        ("\0\ud800 ?!", Wish()),
    ],
)
def test_a_wish_is_read(finder: Titles, text: str, wish: Wish) -> None:
    assert read_wish(text, finder) == wish


@given(text=st.text(max_size=300))
def test_any_text_is_a_wish(text: str) -> None:
    wish = read_wish(text, Titles({0: "Alien", 1: "", 2: "?!"}, [1.0, 1.0, 1.0]))
    assert set(wish.like) <= {0}
    assert len(wish.text) <= 300


def test_of_equal_titles_the_year_and_then_the_more_chosen_decides() -> None:
    names = ["Emma (1996)", "Emma (2020)"]
    found: Sequence[tuple[str, tuple[int, ...]]] = [
        ("like Emma", (1,)),
        ("like Emma 1996", (0,)),
        ("like Emma (1996)", (0,)),
    ]
    for text, like in found:
        assert read_wish(text, Titles(dict(enumerate(names)), [1.0, 5.0])).like == like
