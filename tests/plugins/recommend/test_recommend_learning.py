"""What the recommender learns at once from clicks, skips, stars and thumbs, and who cannot make it learn."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recommend_feedback import judged_turn_of
from support.recommending import ANYTHING, TASK, ask, codes, ids_of, items_of

from smallai_assistant import (
    Assistant,
    AssistantConfig,
    Feedback,
    Interaction,
    Item,
)
from smallai_assistant.cli.demo_data import READER, books, readings
from smallai_recommend.index import Index
from smallai_recommend.interactions import InteractionStats, choice_of
from smallai_recommend.memory import MAX_LEANINGS, FeedbackMemory
from smallai_recommend.push_attacks import SOURCES, Pushers
from smallai_recommend.ranking import rank
from smallai_recommend.signals import STARS, Found, signals_of


@pytest.fixture
def shop(config: AssistantConfig) -> Iterator[Assistant]:
    """An assistant of the test's own with thirty books and their readers."""
    with Assistant(config) as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        yield opened


def give(assistant: Assistant, user: str | None, **said: Any) -> str:
    """One feedback on a new answer; what it changed."""
    turn = ask(assistant, user=user, k=5).turn
    receipt = assistant.give_feedback(Feedback(turn.id, **{"source": user or "local", **said}))
    assert receipt.notices == ()
    return receipt.effect


def place(assistant: Assistant, user: str | None, item: str) -> int:
    return ids_of(ask(assistant, user=user, k=100)).index(item)


# -- what a feedback says --


def find(name: str) -> Found | None:
    return Found(name, f"Title {name}") if name in "abcdefgh" else None


@pytest.mark.parametrize(
    ("said", "amount", "is_choice"),
    [
        ({"signal": "click"}, 1.0, True),
        ({"signal": "skip"}, -0.5, False),
        ({"signal": "dwell", "value": 1.0}, -0.25, False),
        ({"signal": "dwell", "value": 30.0}, 1.0, True),
        ({"signal": "dwell", "value": 86_400.0}, 1.5, True),
        ({"signal": "stars", "value": 5.0}, 1.5, True),
        ({"signal": "stars", "value": 3.4}, STARS[3], True),
        ({"signal": "stars", "value": 1.0}, -1.5, False),
        ({"is_good": True}, 1.5, True),
        ({"is_good": False}, -1.0, False),
        ({"is_good": False, "signal": "click"}, 1.0, True),
    ],
)
def test_each_signal_says_so_much(said: dict[str, Any], amount: float, is_choice: bool) -> None:
    (found,) = signals_of(judged_turn_of(item="a", **said), find)
    assert (found.user, found.item, found.is_choice) == ("ada", "a", is_choice)
    assert found.amount == pytest.approx(amount)


def test_a_thumb_on_the_answer_is_a_little_for_each_of_its_items() -> None:
    liked = signals_of(judged_turn_of(shown="abc", is_good=True), find)
    assert [each.item for each in liked] == ["a", "b", "c"]
    assert {(each.amount, each.is_choice) for each in liked} == {(0.1, False)}
    assert signals_of(judged_turn_of(is_good=True), find) == []


@pytest.mark.parametrize("text", ["a", "Title b", "title B", " Title b  "])
def test_a_correction_names_an_item_by_id_or_title(text: str) -> None:
    (found,) = signals_of(judged_turn_of(shown="b", correction=text), find)
    assert found.item == ("a" if text == "a" else "b")
    assert found.is_choice


@pytest.mark.parametrize("said", [{"correction": "x" * 20_000}, {"comment": "hm"}, {"signal": "click"}, {"item": "a",
                         "comment": "?"}, {"item": "  ", "signal": "click"}])  # fmt: skip
def test_what_names_no_item_teaches_nothing(said: dict[str, Any]) -> None:
    assert signals_of(judged_turn_of(shown="b", **said), find) == []


# -- the fast memory --


FILMS = [Item(each, f"Title {each}") for each in "abcdefgh"]
STORED = [choice_of(Interaction(f"u{n % 7}", "abcdefgh"[(n * n) % 8], at=float(n))) for n in range(60)]


def index_of(memory: FeedbackMemory) -> Index:
    index = Index(memory)
    index.load(FILMS, InteractionStats.of(STORED), max_dense_items=100)
    return index


said = st.one_of(
    st.just({"signal": "click"}),
    st.just({"signal": "skip"}),
    st.builds(lambda seconds: {"signal": "dwell", "value": seconds}, st.sampled_from([1.0, 30.0, 500.0])),
    st.builds(lambda stars: {"signal": "stars", "value": float(stars)}, st.integers(1, 5)),
    st.builds(lambda is_good: {"is_good": is_good}, st.booleans()),
)
rows = st.tuples(
    st.sampled_from(["u1", "u2", "new", "other"]), st.sampled_from("abcdx"), st.sampled_from(["t1", "t2", "t3"]), said
)


@settings(deadline=None)
@given(log=st.lists(rows, max_size=40))
def test_one_by_one_it_knows_the_same_as_when_it_recalls_all(log: list[tuple[str, str, str, dict[str, Any]]]) -> None:
    judged_turns = [
        judged_turn_of(user, at=1_000.0 + second, turn_id=turn, item=item, **what)
        for second, (user, item, turn, what) in enumerate(log)
    ]
    memory = FeedbackMemory(find)
    index = index_of(memory)
    for judged_turn in judged_turns:
        memory.add(judged_turn)
        if not index.take_feedback():
            index.begin_anew(STORED)
    other = FeedbackMemory(find)
    other.replace(judged_turns)
    whole = Index(other)
    whole.load(FILMS, InteractionStats.of(STORED), max_dense_items=100)
    whole.begin_anew(STORED)

    assert memory.given() == other.given()
    assert memory.against() == other.against()
    known, fresh = index.stats, whole.stats
    assert known.n_interactions == fresh.n_interactions
    for item in "abcdefgh":
        a, b = known.index_of(item), fresh.index_of(item)
        assert known.popularity[a] == pytest.approx(fresh.popularity[b])
        assert known.trend(2_000.0)[a] == pytest.approx(fresh.trend(2_000.0)[b])
    for user in ("u1", "u2", "new", "other"):
        assert memory.leanings_of(user) == other.leanings_of(user)
        histories = [each.stats.users.get(user) for each in (index, whole)]
        named = [
            [(each.stats.item_ids[item], strength) for item, strength in zip(mine.items, mine.strengths, strict=True)]
            for each, mine in zip((index, whole), histories, strict=True)
            if mine is not None
        ]
        assert len(named) in (0, 2)
        assert len(named) == 0 or named[0] == named[1]
    order = ["abcdefgh".index(known.item_ids[item]) for item in range(8)]
    other_order = ["abcdefgh".index(fresh.item_ids[item]) for item in range(8)]
    table, other_table = np.zeros((8, 8)), np.zeros((8, 8))
    table[np.ix_(order, order)] = known.transitions_from(range(8))[:, :8]
    other_table[np.ix_(other_order, other_order)] = fresh.transitions_from(range(8))[:, :8]
    np.testing.assert_allclose(table, other_table, rtol=1e-3, atol=1e-6)


def test_signals_of_one_user_on_one_item_of_one_answer_are_one_choice() -> None:
    memory = FeedbackMemory(find)
    for what in ({"signal": "click"}, {"signal": "dwell", "value": 300.0}, {"signal": "stars", "value": 5.0}):
        memory.add(judged_turn_of(turn_id="t", item="a", **what))
    memory.add(judged_turn_of(turn_id="t", item="a", signal="click"))
    (one,) = memory.given()
    assert one.amount == 1.5
    assert len(one.feedback_ids) == 4
    index = index_of(memory)
    assert index.take_feedback()
    assert index.stats.n_interactions == len(STORED) + 1
    assert index.stats.users["ada"].counts == [1.0]


def test_the_last_word_on_an_item_counts() -> None:
    memory = FeedbackMemory(find)
    memory.add(judged_turn_of(item="a", is_good=False))
    assert memory.against() == {"a": 1.0}
    memory.add(judged_turn_of(item="a", is_good=True, at=1_001.0))
    assert memory.against() == {}
    assert memory.leanings_of("ada") == []
    memory.add(judged_turn_of(item="a", is_good=False, at=1_002.0))
    assert memory.leanings_of("ada") == [("a", -1.0)]


def test_skips_without_end_do_not_fill_the_memory() -> None:
    memory = FeedbackMemory(find)
    for n in range(3 * MAX_LEANINGS):
        memory.add(judged_turn_of(item=f"i{n}", signal="skip", at=1_000.0 + n))
    assert len(memory.leanings_of("ada")) == MAX_LEANINGS
    assert memory.leanings_of("ada")[-1] == (f"i{3 * MAX_LEANINGS - 1}", -0.5)


def test_what_was_chosen_and_then_disliked_speaks_against_its_like() -> None:
    log = [Interaction(f"u{n}", item, at=float(n)) for n in range(40) for item in ("ab" if n % 2 else "cd")]
    memory = FeedbackMemory(find)
    index = Index(memory)
    index.load(FILMS, InteractionStats.of(log), max_dense_items=100)
    memory.add(judged_turn_of(item="a", signal="click"))
    assert index.take_feedback()
    b = index.stats.index_of("b")
    liked = rank(index, "ada").scores[b]
    memory.add(judged_turn_of(item="a", is_good=False, at=1_001.0))
    assert index.take_feedback()
    assert rank(index, "ada").scores[b] < liked - 1.0


# -- through the assistant --


def test_a_click_moves_the_next_list_and_says_so(shop: Assistant) -> None:
    before = ids_of(ask(shop, user="newcomer", k=30))
    effect = give(shop, "newcomer", signal="click", item="study")
    assert effect == "You clicked “A Study in Scarlet”: it and what goes with it count for more from now on."
    response = ask(shop, user="newcomer", k=30)
    after = ids_of(response)
    assert response.details["cold_start"] is False
    assert "study" in before
    assert "study" not in after  # had
    assert after.index("hound") < before.index("hound")
    assert after.index("hound") < 5
    assert any("because you liked A Study in Scarlet" in item.why for item in items_of(response)[:5])
    assert len(shop.items.interactions()) == len(readings())  # feedback has one place only


def test_a_skip_counts_against_for_this_user_and_a_little_for_others(shop: Assistant) -> None:
    first = ids_of(ask(shop, user=READER, k=1))[0]
    stranger = place(shop, "stranger", first)
    score = {item.id: item.score for item in items_of(ask(shop, user="stranger", k=30))}[first]
    assert "count for less" in give(shop, READER, signal="skip", item=first)
    after = ids_of(ask(shop, user=READER, k=30))
    assert after.index(first) > 0
    others = {item.id: item.score for item in items_of(ask(shop, user="stranger", k=30))}[first]
    assert score - 1.0 < others < score
    assert abs(place(shop, "stranger", first) - stranger) < 8


def test_what_is_disliked_does_not_come_again_unless_asked_for(shop: Assistant) -> None:
    first = ids_of(ask(shop, user=READER, k=1))[0]
    assert "you will not see it again" in give(shop, READER, is_good=False, item=first)
    assert first not in ids_of(ask(shop, user=READER, k=100))
    assert first in ids_of(ask(shop, user=READER, k=100, include_consumed=True))
    assert first in ids_of(ask(shop, user="stranger", k=100))


def test_a_thumb_down_on_the_answer_gives_another_one(shop: Assistant) -> None:
    response = ask(shop, user=READER, k=3)
    assert response.rate(good=False).effect.startswith("You did not like this answer")
    assert ids_of(ask(shop, user=READER, k=3)) != ids_of(response)


def test_a_correction_is_a_choice(shop: Assistant) -> None:
    response = ask(shop, user="newcomer", k=3)
    assert "“A Study in Scarlet”" in response.rate(correction="a study in scarlet").effect
    assert "hound" in ids_of(ask(shop, user="newcomer", k=5))
    assert "is not in the catalogue" in response.rate(correction="The Phone Book").effect
    shop.teach(TASK, "a tale of the sea", "Moby-Dick")


def test_a_session_without_a_user_has_a_taste_of_its_own(shop: Assistant) -> None:
    session = shop.session()
    turn = session.send(ANYTHING, task=TASK).turn
    assert turn.details["cold_start"] is True
    shop.give_feedback(Feedback(turn.id, signal="click", item="study"))
    again = session.send(ANYTHING, task=TASK)
    assert again.details["cold_start"] is False
    assert "study" not in ids_of(again)
    assert ask(shop).details["cold_start"] is True


def test_it_survives_a_restart_an_undo_and_an_erasure(config: AssistantConfig) -> None:
    def lists(assistant: Assistant) -> list[list[str]]:
        return [ids_of(ask(assistant, user=user, k=30)) for user in ("newcomer", READER, None)]

    with Assistant(config) as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        before = lists(opened)
        turn = ask(opened, user="newcomer").turn
        clicked = opened.give_feedback(Feedback(turn.id, signal="click", item="study", source="newcomer", key="1"))
        assert not opened.give_feedback(Feedback(turn.id, signal="click", item="study", key="1")).is_new
        skipped = opened.give_feedback(Feedback(turn.id, signal="skip", item="pride", source="newcomer"))
        learned = lists(opened)
        assert learned != before
    with Assistant(config) as opened:
        assert lists(opened) == learned
        opened.undo_feedback(clicked.feedback.id)
        opened.erase_feedback([skipped.feedback.id])
        assert lists(opened) == before


def test_an_unknown_item_waits_until_it_is_imported(shop: Assistant) -> None:
    assert "is not in the catalogue" in give(shop, "newcomer", signal="click", item="later")
    response = ask(shop, user="newcomer", k=40)
    assert response.details["cold_start"] is True
    shop.items.add_items([Item("later", "Later")])
    response = ask(shop, user="newcomer", k=40)
    assert response.details["cold_start"] is False
    assert "later" not in ids_of(response)


def test_an_item_that_an_import_names_meanwhile_is_taken_in(shop: Assistant) -> None:
    turn = ask(shop, user="newcomer").turn
    task = shop.tasks[TASK]
    shop.give_feedback(Feedback(turn.id, signal="click", item="later", source="newcomer"))
    shop.items.add_interactions([Interaction("ada", "later")])
    _ = ask(shop).text
    shop.give_feedback(Feedback(turn.id, signal="stars", value=5.0, item="later", source="newcomer"))
    assert ask(shop, user="newcomer").details["cold_start"] is False
    assert task._index.stats.users["newcomer"].strengths == [1.5]  # type: ignore[attr-defined]


def test_what_claims_to_come_from_the_future_comes_now() -> None:
    (far,) = signals_of(judged_turn_of(at=5e9, item="a", signal="click"), find)
    assert far.at < 5e9


def test_feedback_and_imports_go_together(shop: Assistant) -> None:
    give(shop, "newcomer", signal="click", item="study")
    now = datetime.now(UTC).timestamp()
    shop.items.add_interactions([Interaction("newcomer", "moby", at=5.0), Interaction("newcomer", "hound", at=now + 9)])
    left = ids_of(ask(shop, user="newcomer", k=40))
    assert not {"study", "moby", "hound"} & set(left)
    index = shop.tasks[TASK]._index  # type: ignore[attr-defined]
    history = [index.stats.item_ids[item] for item in index.stats.users["newcomer"].items]
    assert history == ["moby", "study", "hound"]
    assert index.stats.n_interactions == len(readings()) + 3


def test_lessons_that_are_nonsense_cost_nothing(shop: Assistant) -> None:
    turn = ask(shop, user=READER).turn
    for said_ in (
        {"correction": "%_!\\" * 5_000},
        {"item": "no such \U0001f3ac", "signal": "click"},
        {"item": "time", "signal": "dwell", "value": 0.0},
        {"comment": "x"},
        {"signal": "stars", "value": 1.0},
    ):
        assert shop.give_feedback(Feedback(turn.id, **said_)).notices == ()
    assert items_of(ask(shop, user=READER))


def test_it_learns_while_answers_are_made(shop: Assistant) -> None:
    turn = ask(shop, user=READER).turn
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(15):
                if number % 2:
                    shop.give_feedback(
                        Feedback(turn.id, signal="click" if n % 3 else "skip", item=books()[n].id, source=f"s{number}")
                    )
                else:
                    assert codes(ask(shop, user=READER, k=3)) <= {"nothing_left"}
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert not {book.id for book in books()[:15] if book.id in ids_of(ask(shop, user=READER, k=40))} - {
        books()[n].id for n in range(0, 15, 3)
    }


# -- who pushes --


def test_those_who_do_little_but_push_one_item_are_told_from_those_who_like_it() -> None:
    pushers = Pushers()
    for n in range(SOURCES):
        assert not pushers.is_pushed("x")
        changed = [pushers.count(f"fake{n}", "x", was_shown=True) for _ in range(3)]
        assert any(changed) == (n == SOURCES - 1)
    assert pushers.pushed() == {"x": [f"fake{n}" for n in range(SOURCES)]}
    assert all(pushers.is_set_aside(f"fake{n}") for n in range(SOURCES))
    for n in range(40):  # many who have other tastes, too, like it
        pushers.count(f"real{n}", "x", was_shown=True)
        pushers.count(f"real{n}", "y", was_shown=True)
    assert not pushers.is_pushed("x")
    assert not pushers.is_set_aside("fake0")

    first_clicks = Pushers()  # of newcomers who were shown it
    for n in range(100):
        assert not first_clicks.count(f"newcomer{n}", "best", was_shown=True)
    assert first_clicks.pushed() == {}


@given(log=st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("ab"), st.booleans()), max_size=80))
def test_counting_one_by_one_is_counting_all(log: list[tuple[str, str, bool]]) -> None:
    pushers = Pushers()
    for voter, item, was_shown in log:
        pushers.count(voter, item, was_shown=was_shown)
    expected: dict[str, set[str]] = {}
    for item in "ab":
        devoted = set()
        n_devoted = 0
        for voter in "uvwxyz":
            mine = [row for row in log if row[0] == voter]
            on_it = [row for row in mine if row[1] == item]
            is_odd = len(on_it) >= 2 or any(not row[2] for row in on_it)
            if on_it and is_odd and len(on_it) >= 0.8 * len(mine):
                devoted.add(voter)
                n_devoted += len(on_it)
        if len(devoted) >= SOURCES and n_devoted >= 0.6 * sum(row[1] == item for row in log):
            expected[item] = devoted
    assert {item: set(voters) for item, voters in pushers.pushed().items()} == expected


def test_a_pushed_item_is_logged_and_its_pushers_are_set_aside(
    shop: Assistant, caplog: pytest.LogCaptureFixture
) -> None:
    before = [ids_of(ask(shop, user=user, k=30)) for user in (None, READER)]
    pushed = before[0][-1]
    when = datetime.fromtimestamp(max(reading.at for reading in readings()), UTC)  # so that nothing else has aged
    with caplog.at_level(logging.WARNING, logger="smallai_recommend"):
        for n in range(SOURCES + 3):
            for _ in range(2):
                effect = give(shop, f"fake{n}", signal="click", item=pushed, created_at=when)
        _ = ask(shop).text
    assert "your own list alone" in effect
    assert [ids_of(ask(shop, user=user, k=30)) for user in (None, READER)] == before
    (line,) = {record.getMessage() for record in caplog.records if "do little but push" in record.getMessage()}
    assert repr(pushed) in line
    assert "stood at place" in line
    assert pushed not in ids_of(ask(shop, user="fake0", k=30))  # for itself its choice counts


def test_one_voter_counts_once_however_often_it_clicks() -> None:
    memory = FeedbackMemory(find)
    index = index_of(memory)
    before = index.stats.popularity[index.stats.index_of("a")]
    for n in range(200):  # one source, for many users
        memory.add(
            judged_turn_of(
                f"v{n}", item="a" if n % 2 else "bcdefgh"[n % 7], signal="click", source="robot", at=2_000.0 + n
            )
        )
        assert index.take_feedback()
    gained = index.stats.popularity[index.stats.index_of("a")] - before
    assert 1.0 <= gained < 1.65  # the sum of 1 / n² is pi² / 6


def test_evidence_takes_the_smaller_of_the_two_bounds() -> None:
    stats = InteractionStats.of([])
    for n in range(3):
        assert stats.append(choice_of(Interaction("ada", "a", at=float(n)))._replace(share=0.5))
    assert stats.users["ada"].counts == [0.5, 0.25, pytest.approx(1 / 9)]
