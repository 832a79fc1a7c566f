"""The split by time: all that is asked happened after all that was learned, in every cycle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.screening_rows import judged_turn
from support.scripted_learner import NAME, Dictionary, open_assistant, served_by

from smallai_assistant import Assistant, Example, Feedback, JudgedTurn
from smallai_assistant.learning.time_split import TimeSplit, split_by_time

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def rows_at(seconds: list[int]) -> list[JudgedTurn]:
    """One row for each, in the order in which they are given; their ids are numbered."""
    return [judged_turn(at_s=second, is_good=True, id=f"f{number:03}") for number, second in enumerate(seconds)]


def examples_of(rows: list[JudgedTurn]) -> list[Example]:
    return [Example(f"e{row.feedback.id}", row.feedback.id, "", "", (row.feedback.id,)) for row in rows]


def ids_of(examples: list[Example]) -> set[str]:
    return {row_id for example in examples for row_id in example.feedback_ids}


def split_of(
    rows: list[JudgedTurn], *, learned: frozenset[str] = frozenset(), judged: frozenset[str] = frozenset()
) -> TimeSplit:
    return split_by_time(examples_of(rows), rows, learned=learned, judged=judged)


@given(st.lists(st.integers(0, 30), max_size=40))
def test_all_that_is_asked_happened_later(seconds: list[int]) -> None:
    rows = rows_at(seconds)
    when = {row.feedback.id: (row.feedback.created_at, row.feedback.id) for row in rows}
    learned: frozenset[str] = frozenset()
    judged: frozenset[str] = frozenset()
    for n_given in range(0, len(rows) + 1, 7):  # feedback comes in any order
        found = split_of(rows[:n_given], learned=learned, judged=judged)
        trained, asked = ids_of([*found.training, *found.replay]), ids_of([*found.target, *found.earlier])
        assert ids_of(found.replay) == learned
        assert not ids_of(found.target) & judged
        assert ids_of(found.earlier) <= judged
        assert not trained & asked
        latest = max((when[row_id] for row_id in trained | learned), default=None)
        assert latest is None or all(when[row_id] > latest for row_id in asked)
        if found.target:  # the candidate is promoted
            learned, judged = frozenset(trained), frozenset(asked)


def test_the_newest_quarter_judges_whatever_the_order() -> None:
    rows = rows_at([7, 6, 5, 4, 3, 2, 1, 0])
    found = split_of(rows)
    assert ids_of(found.target) == {"f000", "f001"}
    assert ids_of(found.training) == {f"f{number:03}" for number in range(2, 8)}


def test_what_judged_is_learned_by_the_next_version() -> None:
    rows = rows_at(list(range(16)))
    first = split_of(rows[:8])
    learned, judged = frozenset(ids_of(first.training)), frozenset(ids_of(first.target))
    assert split_of(rows[:8], learned=learned, judged=judged).target == []  # nothing has come since
    second = split_of(rows, learned=learned, judged=judged)
    assert judged <= ids_of(second.training)
    assert ids_of(second.target) == {"f014", "f015"}
    # What comes late but happened before may teach, and judges nobody.
    late = rows_at([*range(16), 1])
    assert "f016" in ids_of(split_of(late, learned=learned, judged=judged).training)


def test_an_example_happened_at_its_first_feedback() -> None:
    rows = rows_at([0, 1, 2, 3, 9])
    clicked_and_rated = replace(examples_of(rows)[0], feedback_ids=("f000", "f004"))
    found = split_by_time([clicked_and_rated, *examples_of(rows)[1:4]], rows, learned=frozenset(), judged=frozenset())
    assert clicked_and_rated in found.training
    assert ids_of(found.target) == {"f003"}


# -- cycles --


class Forecast(Dictionary):
    """Counts what followed each word, and forecasts it."""

    split_by: ClassVar[Literal["key", "time"]] = "time"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Assistant]:
    with open_assistant(tmp_path, Forecast()) as assistant:
        yield assistant


def observe(assistant: Assistant, begin: int, n: int, answer: str, word: str = "tea") -> list[str]:
    """Gives n events, one a minute. Returns their ids."""
    ids = []
    for minute in range(begin, begin + n):
        turn = assistant.ask(f"at minute {minute} what follows {word}", task=NAME).turn
        when = BEGIN + timedelta(minutes=minute)
        # Another answer now and then, because a dictionary does not train on one alone.
        said = "a pause" if minute % 8 == 0 else answer
        ids.append(assistant.give_feedback(Feedback(turn.id, correction=said, created_at=when)).feedback.id)
    return ids


def test_cycles_roll_forward(opened: Assistant) -> None:
    ids = observe(opened, 0, 40, "cake")
    first = opened.learn(NAME)
    assert first.is_promoted, first.reasons
    assert first.held_out_ids == tuple(ids[30:])
    assert first.cross_fitted_ids == ()
    assert set(opened.adapters.get(first.adapter_id).feedback_ids) == set(ids[:30])

    later = observe(opened, 40, 40, "cake")
    second = opened.learn(NAME)
    assert second.held_out_ids == tuple(later[30:])
    assert {found.name for found in second.slices} == {"new feedback", "numbers"}
    assert set(opened.adapters.get(second.adapter_id).feedback_ids) == {*ids, *later[:30]}
    # The events go on as before, so the champion forecasts as well.
    assert second.outcome == "nothing_new"
    assert served_by(opened) == first.adapter_id
    assert second.summary().startswith(f"{NAME}: nothing new to learn")

    observe(opened, 80, 400, "soup")
    third = opened.learn(NAME)
    assert third.is_promoted, third.reasons


def test_a_loss_elsewhere_is_refused(opened: Assistant) -> None:
    observe(opened, 0, 40, "cake")
    opened.learn(NAME)
    observe(opened, 40, 40, "cake")
    task = opened.tasks[NAME]
    assert isinstance(task, Forecast)
    task.knobs.n_forgotten = 3
    assert opened.learn(NAME).outcome == "refused"
