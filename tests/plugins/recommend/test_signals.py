"""What a feedback says about items."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from support.recommend_feedback import find, judged_turn_of

from smallai_recommend.signals import STARS, signals_of


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
def test_each_signal_has_its_amount(said: dict[str, Any], amount: float, is_choice: bool) -> None:
    (found,) = signals_of(judged_turn_of(item="a", **said), find)
    assert (found.user, found.item, found.is_choice) == ("ada", "a", is_choice)
    assert found.amount == pytest.approx(amount)


def test_a_rated_answer_rates_its_items_a_little() -> None:
    liked = signals_of(judged_turn_of(shown="abc", is_good=True), find)
    assert [signal.item for signal in liked] == ["a", "b", "c"]
    assert {(signal.amount, signal.is_choice) for signal in liked} == {(0.1, False)}
    assert signals_of(judged_turn_of(is_good=True), find) == []


@pytest.mark.parametrize("text", ["a", "Title b", "title B", " Title b  "])
def test_corrections_name_items_by_id_or_title(text: str) -> None:
    (found,) = signals_of(judged_turn_of(shown="b", correction=text), find)
    assert found.item == ("a" if text == "a" else "b")
    assert found.is_choice


@pytest.mark.parametrize(
    "said", [{"correction": "x" * 20_000}, {"comment": "hm"}, {"signal": "click"}, {"item": "a", "comment": "?"}]
)
def test_feedback_without_an_item_says_nothing(said: dict[str, Any]) -> None:
    assert signals_of(judged_turn_of(shown="b", **said), find) == []


def test_a_blank_item_says_nothing() -> None:
    judged_turn = judged_turn_of(shown="b", item="a", signal="click")
    object.__setattr__(judged_turn.feedback, "item", "  ")  # as a store may hold it that another version wrote
    assert signals_of(judged_turn, find) == []


def test_a_time_in_the_future_becomes_the_turns() -> None:
    judged_turn = judged_turn_of(at=1_000.0, item="a", signal="click")
    later = replace(judged_turn.feedback, created_at=datetime.fromtimestamp(5e9, UTC))
    (signal,) = signals_of(replace(judged_turn, feedback=later), find)
    assert signal.order.at == 1_000.0


def test_a_turn_in_the_future_comes_now() -> None:
    (signal,) = signals_of(judged_turn_of(at=5e9, item="a", signal="click"), find)
    assert signal.order.at < 5e9
