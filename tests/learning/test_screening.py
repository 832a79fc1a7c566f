"""The stages of screening: consent, last words, duplicates, weight caps; and that no row gets lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.screening_rows import SLOGAN, bots, honest, ids, judged_turn, quarantined, votes

from smallai_assistant.learning import rows as rows_module
from smallai_assistant.learning.screening import MIN_CAP, screen
from smallai_assistant.learning.text import normalized


def test_without_consent_a_row_is_left_out() -> None:
    rows = [judged_turn("a", is_good=True), judged_turn("b", is_good=True, may_train=False)]
    assert ids(screen(rows).judged_turns) == ids(rows[:1])


def test_last_rating_of_each_source_counts() -> None:
    rows = [judged_turn(is_good=value) for value in (True, False, True, False)]
    assert ids(screen(rows).judged_turns) == ids(rows[3:])
    rows = [judged_turn(is_good=value, source=source) for source in ("ann", "bob") for value in (False, True)]
    assert ids(screen(rows).judged_turns) == ids([rows[1], rows[3]])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([{"correction": "a b"}, {"correction": "a c"}], [1]),
        ([{"is_good": True}, {"correction": "a"}], [1]),  # who corrects it no longer calls it good
        ([{"is_good": False}, {"correction": "a"}], [0, 1]),
        ([{"correction": "a"}, {"is_good": False}], [0, 1]),
        ([{"is_good": True}, {"comment": "nice"}], [0, 1]),
        ([{"signal": "click", "item": "x"}, {"signal": "dwell", "value": 9.0, "item": "x"}], [0, 1]),
        ([{"signal": "click", "item": "x"}, {"signal": "click", "item": "y"}], [0, 1]),
        ([{"signal": "stars", "value": 5.0, "item": "x"}, {"signal": "stars", "value": 1.0, "item": "x"}], [1]),
    ],
)
def test_last_words(given: list[dict[str, Any]], kept: list[int]) -> None:
    rows = [judged_turn(**fields) for fields in given]
    assert ids(screen(rows).judged_turns) == [rows[n].feedback.id for n in kept]


# -- repetitions and caps --


def test_repeated_corrections_of_one_question_count_once() -> None:
    same = [
        judged_turn("Where is the car park?", correction="Behind it", turn_id="1"),
        judged_turn("where is the car park", correction="behind it", turn_id="2"),
        judged_turn("where is the  CAR park!", correction="Behind it.", turn_id="3"),
    ]
    other = [
        judged_turn("where is the car park", correction="in front", turn_id="4"),
        judged_turn("where is the bike park", correction="behind it", turn_id="5"),
        judged_turn("where is the car park", correction="behind it", turn_id="6", source="bob"),
    ]
    screened = screen([*same, *other])
    assert ids(screened.judged_turns) == ids([same[2], *other])
    assert screened.n_collapsed == 2


def test_likes_of_different_answers_all_count() -> None:
    rows = [judged_turn("recommend something", answer=f"film {n}", is_good=True) for n in range(5)]
    assert len(screen(rows).judged_turns) == 5
    again = judged_turn("recommend something", answer="film 0", is_good=True, turn_id="x")
    assert len(screen([*rows, again]).judged_turns) == 5


def test_source_with_very_many_rows_is_capped() -> None:
    rows = honest(10, 10) + [
        judged_turn(f"loud {n}", correction=f"my answer number {n}", source="loud") for n in range(1_000)
    ]
    screened = screen(rows)
    weight = {
        judged_turn.feedback.source: screened.weights[judged_turn.feedback.id] for judged_turn in screened.judged_turns
    }
    assert weight == {f"user{n}": 1.0 for n in range(10)} | {"loud": MIN_CAP / 1_000}


def test_single_source_is_not_capped() -> None:
    screened = screen([judged_turn(f"q{n}", correction=f"answer to {n}") for n in range(500)])
    assert set(screened.weights.values()) == {1.0}
    assert len(screened.weights) == 500


def test_trusted_sources_are_not_set_aside() -> None:
    rows = [*votes(3, 6), *bots(6, correction=SLOGAN)]
    assert set(quarantined(screen(rows))) == {"liar0", *(f"bot{n}" for n in range(6))}
    assert quarantined(screen(rows, trusted=["liar0", *(f"bot{n}" for n in range(6))])) == {}


def test_each_text_is_normalized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(text: str) -> str:
        calls[text] += 1
        return normalized(text)

    monkeypatch.setattr(rows_module, "normalized", counted)
    screen([*votes(3, 6), *honest(), *bots(6, correction=SLOGAN)])
    assert set(calls.values()) == {1}


# -- anything at all --

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "question": st.sampled_from(["", "a", "a b", "tell me of tea", "🙂"]) | TEXTS,
            "answer": TEXTS,
            "source": st.sampled_from(["a", "b", "c", "d", "e", "f"]),
            "at_s": st.floats(0, 1e6),
            "may_train": st.booleans(),
        },
    ).flatmap(
        lambda fixed: st.one_of(
            st.builds(lambda: {**fixed, "is_good": True}),
            st.builds(lambda: {**fixed, "is_good": False}),
            st.builds(lambda text: {**fixed, "correction": text}, TEXTS.filter(str.strip)),
            st.builds(lambda item: {**fixed, "signal": "click", "item": item}, st.sampled_from(["x", "y"])),
            st.builds(lambda value: {**fixed, "signal": "stars", "value": value, "item": "x"}, st.floats(1, 5)),
        )
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_every_row_is_used_or_accounted_for(rows: list[dict[str, Any]]) -> None:
    judged_turns = [judged_turn(**row) for row in rows]
    screened = screen(judged_turns)
    used, order = ids(screened.judged_turns), ids(judged_turns)
    aside = [row_id for entry in screened.quarantined for row_id in entry.feedback_ids]
    assert len(set(used)) == len(used)
    assert used == [row_id for row_id in order if row_id in set(used)]  # oldest first
    assert not set(used) & set(aside)
    assert set(used) | set(aside) <= {
        judged_turn.feedback.id for judged_turn in judged_turns if judged_turn.feedback.may_train
    }
    assert set(screened.weights) == set(used)
    assert all(0 < weight <= 1 for weight in screened.weights.values())
    assert all(entry.feedback_ids and entry.reason for entry in screened.quarantined)
    assert sum(screened.by_source().values()) == len(used)
    everyone = screen(judged_turns, trusted=["a", "b", "c", "d", "e", "f"])
    assert everyone.quarantined == ()
    assert ids(screen(judged_turns).judged_turns) == used
