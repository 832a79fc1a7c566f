"""The checks for bursts, pushed targets and sources at odds find attacks, and let busy or careless people pass."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.screening_rows import NOON, SLOGAN, bots, honest, judged_turn, quarantined, votes

from smallai_assistant import Feedback, JudgedTurn, Message, TextPart, Turn
from smallai_assistant.learning.quarantine import MAX_IN_BURST, MIN_PUSHERS
from smallai_assistant.learning.screening import screen

# -- bursts --


def test_burst_is_set_aside_and_slow_rows_stay() -> None:
    slow = [judged_turn(f"s{n}", is_good=True, at_s=-9e6 + 3600 * n, source="bot") for n in range(10)]
    fast = [judged_turn(f"q{n}", is_good=True, at_s=n * 0.006, source="bot") for n in range(10_000)]
    ann = [judged_turn(f"a{n}", is_good=True, at_s=60.0 * n, source="ann") for n in range(20)]
    screened = screen([*slow, *fast, *ann])
    assert quarantined(screened) == {"bot": 10_000}
    assert screened.quarantined[0].reason == "more than 100 ratings within 60 seconds"
    assert screened.by_source() == {"bot": 10, "ann": 20}


@given(st.lists(st.floats(0, 600), min_size=0, max_size=350), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_bursts_are_minutes_with_too_many_rows(times: list[float], extra: int) -> None:
    times = [*times, *(300.0 + n / 100 for n in range(extra * 60))]
    rows = [judged_turn(f"q{n}", is_good=True, at_s=at) for n, at in enumerate(times)]
    aside = {row_id for entry in screen(rows).quarantined for row_id in entry.feedback_ids}
    at = {row.feedback.id: row.feedback.created_at for row in rows}
    for row in rows:
        begun = row.feedback.created_at
        window = [other for other in at if 0 <= (at[other] - begun).total_seconds() <= 60]
        if len(window) > MAX_IN_BURST:
            assert set(window) <= aside or len(window) > MAX_IN_BURST + 1
            assert row.feedback.id in aside
    if not aside:
        return
    assert len(aside) > MAX_IN_BURST


def test_busy_people_are_not_a_burst() -> None:
    taught = [
        judged_turn("", correction=f"thing {n % 5}", at_s=n / 25, source="ann", turn_id=f"p{n}", picture=f"{n}.png")
        for n in range(250)
    ]
    clicks = [judged_turn("r", signal="click", item=f"i{n}", at_s=2.0 * n, source="bob") for n in range(200)]
    screened = screen([*taught, *clicks])
    assert screened.quarantined == ()
    assert len(screened.judged_turns) == 450


# -- pushed targets --


@pytest.mark.parametrize(
    "given",
    [
        {"correction": SLOGAN},
        {"correction": SLOGAN.upper(), "is_good": False},
        {"signal": "click", "item": "zorbo"},
        {"signal": "stars", "value": 5.0, "item": "zorbo"},
        {"is_good": True, "item": "zorbo"},
    ],
)
def test_sources_that_push_one_target_are_set_aside(given: dict[str, Any]) -> None:
    screened = screen([*honest(), *bots(MIN_PUSHERS, **given)])
    assert quarantined(screened) == {f"bot{n}": 3 for n in range(MIN_PUSHERS)}
    reason = screened.quarantined[0].reason
    assert "do little but push" in reason
    assert ("zorbo" in reason) == ("item" in given), "words of an answer would outlive their erasure in a report"
    assert len(screened.judged_turns) == 100


@pytest.mark.parametrize(
    "given",
    [
        {"correction": "cat"},  # a label
        {"correction": "house cat"},
        {"signal": "skip", "item": "zorbo"},  # against it
        {"signal": "stars", "value": 1.0, "item": "zorbo"},
        {"is_good": False, "item": "zorbo"},
    ],
)
def test_labels_and_dislikes_push_nothing(given: dict[str, Any]) -> None:
    assert screen([*honest(), *bots(8, **given)]).quarantined == ()


def test_one_question_may_get_one_answer() -> None:
    rows = [
        judged_turn("where is the car park", correction="behind the main house", source=f"u{n}", turn_id=f"{n}-{k}")
        for n in range(12)
        for k in range(2)
    ]
    assert screen(rows).quarantined == ()


def test_single_source_may_have_a_stock_answer() -> None:
    rows = [
        judged_turn(f"private matter {n}", correction="please ask the staff office", source="boss") for n in range(20)
    ]
    assert screen([*honest(), *rows]).quarantined == ()


def test_popular_item_is_not_an_attack() -> None:
    fans = bots(40, 2, signal="click", item="hit")
    others = [
        judged_turn("r", signal="click", item=item, source=f"user{n}", turn_id=f"{n}{item}")
        for n in range(40)
        for item in ("hit", f"i{n}", f"j{n}", "hit2")
    ]
    more = [
        judged_turn("r", signal="click", item="hit", source=f"user{n}", turn_id=f"more {n} {k}")
        for n in range(40)
        for k in range(2)
    ]
    assert screen([*fans, *others, *more]).quarantined == ()


def test_movielens_raters_are_not_an_attack() -> None:
    from bench.recommend import read_log

    log = read_log()
    stars = [
        JudgedTurn(
            Feedback(f"{event.user}-{event.item}", signal="stars", value=5.0, item=event.item, source=event.user,
                     created_at=datetime.fromtimestamp(event.at, UTC)),
            turn,
        )
        for turn in [Turn("t", "s", None, "recommendation", Message((TextPart("r"),)), (), NOON)]
        for event in log
    ]  # fmt: skip
    screened = screen(stars)
    assert screened.quarantined == ()
    assert len(screened.judged_turns) == len(log) == 100_000


# -- at odds --


@pytest.mark.parametrize("rating", [False, True])
def test_source_that_contradicts_most_others_is_set_aside(rating: bool) -> None:
    screened = screen(votes(3, 6, rating=rating))
    assert quarantined(screened) == {"liar0": 6}
    assert screened.quarantined[0].reason == "contradicts most others in 6 of 6 cases"
    assert set(screened.by_source()) == {"user0", "user1", "user2"}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (votes(3, 6, lies=3), "it agrees as often as not"),
        (votes(3, 3), "three cases are too few"),
        (votes(1, 6), "one against one"),
        (votes(2, 6, liars=2), "two against two"),
    ],
)
def test_too_few_contradictions_are_let_pass(rows: list[JudgedTurn], why: str) -> None:
    assert screen(rows).quarantined == (), why


def test_synonymous_corrections_do_not_contradict() -> None:
    rows = [
        judged_turn(f"q{n}", correction=f"the form {n} is in the office of the staff", source=source)
        for n in range(6)
        for source in ("ann", "bob")
    ]
    rows += [judged_turn(f"q{n}", correction=f"form {n}, in the office of the staff", source="eve") for n in range(6)]
    assert screen(rows).quarantined == ()


def test_different_pictures_are_different_subjects() -> None:
    names = {"ann": "cat", "bob": "cat", "eve": "dog"}
    rows = [
        judged_turn("what is this", correction=name, source=source, turn_id=f"{source}{n}", picture=f"{source}{n}.png")
        for n in range(8)
        for source, name in names.items()
    ]
    screened = screen(rows)
    assert screened.quarantined == ()
    assert len(screened.judged_turns) == len(rows)  # nor are they repetitions
    same = [
        judged_turn("what is this", correction=name, source=source, turn_id=f"{source}{n}", picture=f"{n}.png")
        for n in range(8)
        for source, name in names.items()
    ]
    assert quarantined(screen(same)) == {"eve": 8}


def test_ratings_of_different_answers_do_not_contradict() -> None:
    rows = [
        judged_turn(f"q{n}", answer=f"{source} got this {n}", is_good=source != "eve", source=source)
        for n in range(6)
        for source in ("ann", "bob", "eve")
    ]
    assert screen(rows).quarantined == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(5, 30))
def test_random_mistakes_are_not_an_attack(seed: int, n_people: int, n_rows: int) -> None:
    """Honest sources are right in four cases of five, and wrong in their own way in the fifth."""
    draw = random.Random(seed)
    rows = [
        judged_turn(
            f"question {q}",
            correction=f"right answer {q}" if draw.random() < 0.8 else f"mistake {draw.random()} here",
            source=f"u{n}",
        )
        for n in range(n_people)
        for q in draw.sample(range(30), n_rows)
    ]
    n_right = Counter(row.feedback.source for row in rows if "right" in str(row.feedback.correction))
    mostly_right = {source for source, n in n_right.items() if 2 * n > n_rows}
    aside = {row_id for entry in screen(rows).quarantined for row_id in entry.feedback_ids}
    accused = [row for row in rows if row.feedback.id in aside and "right" in str(row.feedback.correction)]
    assert not {row.feedback.source for row in accused} & mostly_right
