"""Who pushes an item counts for their own lists only."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recommending import ask, give, ids_of

from smallai_assistant import Assistant
from smallai_assistant.cli.demo_data import READER, readings
from smallai_recommend.push_attacks import SOURCES, PushDetector


def test_push_attackers_are_told_from_fans() -> None:
    detector = PushDetector()
    for n in range(SOURCES):
        assert not detector.is_pushed("x")
        changed = [detector.count(f"fake{n}", "x", was_shown=True) for _ in range(3)]
        assert any(changed) == (n == SOURCES - 1)
    assert detector.pushed() == {"x": [f"fake{n}" for n in range(SOURCES)]}
    assert all(detector.is_set_aside(f"fake{n}") for n in range(SOURCES))
    for n in range(40):  # many who like other items, too, like it
        detector.count(f"real{n}", "x", was_shown=True)
        detector.count(f"real{n}", "y", was_shown=True)
    assert not detector.is_pushed("x")
    assert not detector.is_set_aside("fake0")

    first_clicks = PushDetector()  # of newcomers who were shown the item
    for n in range(100):
        assert not first_clicks.count(f"newcomer{n}", "best", was_shown=True)
    assert first_clicks.pushed() == {}


@given(log=st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("ab"), st.booleans()), max_size=80))
def test_counting_does_not_depend_on_order(log: list[tuple[str, str, bool]]) -> None:
    detector = PushDetector()
    for voter, item, was_shown in log:
        detector.count(voter, item, was_shown=was_shown)
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
    assert {item: set(voters) for item, voters in detector.pushed().items()} == expected


def test_a_push_attack_is_logged_and_set_aside(own_shop: Assistant, caplog: pytest.LogCaptureFixture) -> None:
    before = [ids_of(ask(own_shop, user=user, k=30)) for user in (None, READER)]
    pushed = before[0][-1]
    when = datetime.fromtimestamp(max(reading.at for reading in readings()), UTC)  # nothing else ages meanwhile
    with caplog.at_level(logging.WARNING, logger="smallai_recommend"):
        for n in range(SOURCES + 3):
            for _ in range(2):
                effect = give(own_shop, f"fake{n}", signal="click", item=pushed, created_at=when)
        _ = ask(own_shop).text
    assert "your own list alone" in effect
    assert [ids_of(ask(own_shop, user=user, k=30)) for user in (None, READER)] == before
    (line,) = {record.getMessage() for record in caplog.records if "do little but push" in record.getMessage()}
    assert repr(pushed) in line
    assert "stood at place" in line
    assert pushed not in ids_of(ask(own_shop, user="fake0", k=30))  # its choice counts for itself
