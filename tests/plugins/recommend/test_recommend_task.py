"""Recommendations through the assistant, on thirty books, eleven readers and the real MiniLM."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.recommending import ANYTHING, ObservedLock, ask, codes, ids_of, items_of

from smallai_assistant import (
    Assistant,
    AssistantConfig,
    Interaction,
    InvalidInput,
    Item,
)
from smallai_assistant.cli.demo_data import READER, books, readings

TITLES = {book.id: book.title for book in books()}
READ = {
    user: {reading.item for reading in readings() if reading.user == user}
    for user in {reading.user for reading in readings()}
}


@pytest.fixture(scope="module")
def shop(assistant: Assistant) -> Assistant:
    """The module's assistant with the books and their readers; tests do not change them."""
    assistant.items.add_items(books())
    assistant.items.add_interactions(readings())
    return assistant


@pytest.fixture
def empty(config: AssistantConfig) -> Iterator[Assistant]:
    """An assistant without items, for tests that add some."""
    with Assistant(config) as opened:
        yield opened


# -- nothing or little to choose from --


@pytest.mark.parametrize("text", [ANYTHING, "a western like Alien, but no romance"])
@pytest.mark.parametrize("user", [None, "ada"])
def test_no_items(empty: Assistant, text: str, user: str | None) -> None:
    for _ in range(2):
        response = ask(empty, text, user)
        assert items_of(response) == []
        assert response.text == "I have nothing to recommend."
        assert "no_items" in codes(response)
        assert response.details["cold_start"] is True
        empty.items.add_interactions([Interaction("ada", "gone")])  # of an item that is not in the catalogue


@pytest.mark.parametrize("max_dense_items", [2, 10_000])
def test_one_item(empty: Assistant, max_dense_items: int) -> None:
    empty.items.add_items([Item("a", "Alien")])
    response = ask(empty, max_dense_items=max_dense_items)
    assert ids_of(response) == ["a"]
    assert response.text == "Popular now: Alien."
    empty.items.add_interactions([Interaction("ada", "a")])
    assert ids_of(ask(empty, user="bob")) == ["a"]
    had = ask(empty, user="ada")
    assert ids_of(had) == []
    assert "nothing_left" in codes(had)
    assert ids_of(ask(empty, user="ada", include_consumed=True)) == ["a"]


@pytest.mark.parametrize("max_dense_items", [2, 10_000])
@pytest.mark.parametrize("text", [ANYTHING, "something like Dracula", "a sea story, no romance"])
def test_items_without_any_interaction(empty: Assistant, max_dense_items: int, text: str) -> None:
    empty.items.add_items(books())
    response = ask(empty, text, "ada", k=40, max_dense_items=max_dense_items)
    assert set(ids_of(response)) == set(TITLES) - ({"dracula"} if "Dracula" in text else set())
    assert all(item.why for item in items_of(response))


@pytest.mark.parametrize("user", [None, "stranger"])
def test_unknown_users_get_what_is_popular(shop: Assistant, user: str | None) -> None:
    response = ask(shop, user=user, k=1_000)
    assert response.details["cold_start"] is True
    assert "cold_start" in codes(response)
    assert response.text.startswith("Popular now: ")
    n_readers = [sum(item in read for read in READ.values()) for item in ids_of(response)]
    assert set(ids_of(response)) == set(TITLES)
    assert min(n_readers[:5]) == 3
    assert max(n_readers[-5:]) == 1
    assert {item.why for item in items_of(response)[:3]} == {"popular now"}


# -- what is asked for --


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": -1},
        {"k": 1_001},
        {"k": 10**9},
        {"k": 1e9},
        {"k": "many"},
        {"k": float("nan")},
        {"max_dense_items": 1},
        {"max_dense_items": 10**6},
        {"include_consumed": "x"},
        {"kk": 3},
    ],
)
def test_wrong_options_are_refused(shop: Assistant, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        _ = ask(shop, **options).parts
    assert caught.value.message


@pytest.mark.parametrize("k", [1, 5, 1_000])
def test_k_is_the_length_or_all_there_is(shop: Assistant, k: int) -> None:
    items = items_of(ask(shop, user=READER, k=k))
    assert len(items) == min(k, len(TITLES) - len(READ[READER]))
    assert [item.score for item in items] == sorted((item.score for item in items), reverse=True)
    assert all(item.title == TITLES[item.id] and np.isfinite(item.score) for item in items)
    assert len({item.id for item in items}) == len(items)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1e300, 0.0, 1e300])
def test_extreme_weights_do_no_harm(empty: Assistant, weight: float) -> None:
    with pytest.raises(InvalidInput):
        Interaction("ada", "time", weight)
    empty.items.add_items(books())
    extreme = [Interaction(row.user, row.item, (1e-6, 1000.0)[n % 2], n) for n, row in enumerate(readings())]
    empty.items.add_interactions(extreme)
    items = items_of(ask(empty, user=READER, k=30))
    assert len(items) == len(TITLES) - len(READ[READER])
    assert all(np.isfinite(item.score) for item in items)


@pytest.mark.parametrize("text", [ANYTHING, "a detective story", "something like Dracula", "more of the same"])
def test_consumed_items_come_only_if_asked_for(shop: Assistant, text: str) -> None:
    for user, read in READ.items():
        assert not read & set(ids_of(ask(shop, text, user, k=1_000)))
    again = ids_of(ask(shop, ANYTHING, READER, k=1_000, include_consumed=True))
    assert set(again) == set(TITLES)


def test_the_history_decides_and_items_say_why(shop: Assistant) -> None:
    response = ask(shop, "What should I read next?", READER, k=1_000)
    items = items_of(response)
    assert response.details["cold_start"] is False
    assert response.text.startswith("You might like: ")
    assert {item.id for item in items[:4]} <= {"moon", "earth", "lost", "invisible", "island"}
    assert all(item.why for item in items)
    read = {TITLES[item] for item in READ[READER]}
    for item in items[:4]:
        assert item.why.startswith("because you liked ")
        assert any(title in item.why for title in read)


def test_each_reader_gets_another_list(shop: Assistant) -> None:
    lists = {user: tuple(ids_of(ask(shop, user=user, k=5))) for user in READ}
    assert len(set(lists.values())) == len(READ)
    assert set(lists["ada"]) & {"invisible", "hound"}
    assert {"white", "brown"} & set(lists["dev"]) | {"styles"} & set(lists["cleo"])


@pytest.mark.parametrize(
    ("text", "first", "sentence"),
    [
        (
            "a detective solves a murder",
            {"study", "hound", "styles", "brown", "moonstone"},
            "For “detective solves a murder” ",
        ),
        ("a love story", {"pride", "persuasion", "wuthering", "eyre", "sense"}, "For “love story” try "),
        ("pirates", {"island"}, "For “pirates” try "),
        ("I'm in the mood for vampires", {"dracula", "carmilla"}, "For “vampires” try "),
        ("something like Dracula", {"carmilla", "frankenstein", "jekyll"}, "If you like Dracula, try "),
        ("I loved Emma and Persuasion", {"pride", "sense", "eyre"}, "If you like Emma and Persuasion, try "),
    ],
)
@pytest.mark.parametrize("user", [None, "ivo"])
def test_the_words_of_the_query_decide(
    shop: Assistant, text: str, first: set[str], sentence: str, user: str | None
) -> None:
    response = ask(shop, text, user, k=3)
    left = first - READ.get(user or "", set())
    found = set(ids_of(response)[: len(left)])
    assert len(found & left) >= min(2, len(left)), response.text
    assert response.text.startswith(sentence)
    said = "matches “" if sentence.startswith("For") else "similar to "
    assert said in items_of(response)[0].why


def test_unwanted_items_go_to_the_end(shop: Assistant) -> None:
    horror = {book.id for book in books() if "horror" in book.text}
    items = ids_of(ask(shop, "recommend a book but no horror", k=1_000))
    assert not horror & set(items[:10])


def test_more_of_the_same_is_like_the_last(shop: Assistant) -> None:
    response = ask(shop, "more of the same", READER, k=3)
    assert "similar to Twenty Thousand Leagues under the Sea" in items_of(response)[0].why
    assert {"moon", "earth"} & set(ids_of(response))


def test_ignored_words_are_reported(shop: Assistant) -> None:
    response = ask(shop, "quarterly spreadsheet reconciliation", READER)
    assert "wish_not_understood" in codes(response)
    assert ids_of(response) == ids_of(ask(shop, user=READER))


@pytest.mark.parametrize(
    "text", ["a film\0 like \ud800", "?!", "é" * 10_000, "like " * 5_000, "no no no not any", "(((("]
)
def test_odd_requests_are_answered(shop: Assistant, text: str) -> None:
    assert len(items_of(ask(shop, text, READER, k=3))) == 3


def test_a_new_item_is_reachable_by_its_text(empty: Assistant) -> None:
    empty.items.add_items(books())
    empty.items.add_interactions(readings())
    ask(empty, user=READER).close()
    empty.items.add_items(
        [
            Item("arno", "A Death in Venice Harbour", "a tired detective solves the murder of a glass blower"),
            Item("mars", "Letters from Mars", "an inventor builds a rocket and meets Martians; science fiction"),
        ]
    )
    queried = items_of(ask(empty, "a glass blower is murdered", k=3))
    assert queried[0].id == "arno"
    assert "matches “" in queried[0].why
    assert "new" in queried[0].why
    bare = items_of(ask(empty, user=READER, k=10))  # a request without its words: placed by similar texts
    (mars,) = [item for item in bare if item.id == "mars"]
    assert mars.why.startswith("new, and described much like ")
    places = ids_of(ask(empty, user=READER, k=1_000))
    assert places.index("mars") < places.index("arno")


# -- while things change --


def test_the_next_answer_knows_new_interactions(empty: Assistant) -> None:
    empty.items.add_items(books())
    empty.items.add_interactions(readings())
    before = ids_of(ask(empty, user="newcomer", k=5))
    empty.items.add_interactions([Interaction("newcomer", "study"), Interaction("newcomer", "hound")])
    response = ask(empty, user="newcomer", k=5)
    assert response.details["cold_start"] is False
    assert ids_of(response) != before
    assert {"moonstone", "styles"} <= set(ids_of(response)[:3])


def test_an_item_removed_meanwhile_is_not_given(config: AssistantConfig) -> None:
    removed: list[int] = []

    def remove(what: str, share: float) -> None:  # while the model loads, after the catalogue was read
        if not removed:
            removed.append(opened.items.remove_items(["dracula", "carmilla"]))

    with Assistant(config, on_progress=remove) as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        response = ask(opened, "a vampire story", k=1_000)
        assert set(ids_of(response)) == set(TITLES) - {"dracula", "carmilla"}
        assert removed == [2]
        assert "Dracula" not in response.text
        assert set(ids_of(ask(opened, "a vampire story", k=1_000))) == set(ids_of(response))


def test_removed_items_count_but_are_not_named(empty: Assistant) -> None:
    empty.items.add_items(books())
    empty.items.add_interactions(readings())
    empty.items.remove_items(["time", "moon"])
    items = items_of(ask(empty, user=READER, k=1_000))
    assert not {"time", "moon"} & {item.id for item in items}
    assert {item.id for item in items[:3]} <= {"earth", "lost", "invisible", "island"}
    assert not any("The Time Machine" in item.why for item in items)


def test_many_ask_while_the_catalogue_changes(empty: Assistant) -> None:
    empty.items.add_items(books())
    empty.items.add_interactions(readings())
    failed: list[BaseException] = []

    def work(user: str) -> None:
        try:
            for text in (ANYTHING, "a sea story", "something like Dracula"):
                assert items_of(ask(empty, text, user, k=5))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(user,)) for user in sorted(READ)[:6]]
    for thread in threads:
        thread.start()
    for n in range(20):
        empty.items.add_interactions([Interaction("ada", "moby", at=time.time())])
        empty.items.add_items([Item(f"new{n}", f"New {n}")])
        empty.items.remove_items([f"new{n - 1}"])
    for thread in threads:
        thread.join(60)
    assert failed == []


def test_a_waiting_request_can_be_cancelled(own_shop: Assistant, lock_of_index: ObservedLock) -> None:
    with lock_of_index:
        response = ask(own_shop, user=READER)
        reader = threading.Thread(target=lambda: response.parts)
        reader.start()
        assert lock_of_index.is_waited_for.wait(60)
        response.close()
        reader.join(60)
        assert not reader.is_alive()
    assert items_of(ask(own_shop, user=READER))


# -- many items --


def test_with_many_items_neighbours_decide(shop: Assistant) -> None:
    response = ask(shop, user=READER, k=8, max_dense_items=2)
    assert "many_items" in codes(response)
    assert "item neighbours" in response.details["model"]
    assert {"moon", "earth", "invisible"} & set(ids_of(response)[:3])
    assert any(item.why.startswith("because you liked ") for item in items_of(response)[:3])
    exact = ask(shop, user=READER, k=8)
    assert "many_items" not in codes(exact)
    assert exact.details["model"].startswith("ease")
