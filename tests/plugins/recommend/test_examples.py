"""How feedback becomes examples, and which choices are kept from training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from support.recommend_feedback import judged_turn_of
from support.recommend_pairs import FILMS, FIND, clicks, imported, never

from smallai_assistant.learning.evaluation import check_contamination, split
from smallai_recommend.evaluation import Evaluator
from smallai_recommend.examples import NextChoice, control_choices, control_examples, examples_of
from smallai_recommend.text_index import TextIndex


def test_first_choices_of_items_become_examples(context: Any) -> None:
    judged_turns = [
        *clicks(8),
        judged_turn_of("u0", at=2e6, item="a1", signal="skip"),
        judged_turn_of("u0", at=2e6 + 1, item="unknown", signal="click"),
        judged_turn_of("old1", at=2e6 + 2, item=imported()[6].item, signal="click", turn_id="had"),
        judged_turn_of("old1", at=2e6 + 3, item=_not_had("old1"), signal="click", turn_id="new"),
        judged_turn_of("old1", at=2e6 + 4, item=_not_had("old1"), signal="stars", value=5.0, turn_id="new"),
        judged_turn_of("u0", at=2e6 + 5, correction="nonsense " * 2_000),
    ]
    examples = examples_of(judged_turns, context, FIND)
    assert len(examples) == 8 * 4 + 1
    assert len({example.id for example in examples}) == len({example.prompt for example in examples}) == len(examples)
    last = examples[-1]
    assert len(last.feedback_ids) == 2
    assert [choice.item for choice in last.payload.before()][:6] == [
        row.item for row in imported() if row.user == "old1"
    ]
    for example in examples:
        asked: NextChoice = example.payload
        assert asked.choice.item not in {choice.item for choice in asked.before()}
        assert all(choice.at <= asked.choice.at and choice.user == asked.choice.user for choice in asked.before())
        assert 0 < example.weight <= 1
        assert "u0" not in example.prompt
    assert [again.id for again in examples_of(judged_turns, context, FIND)] == [example.id for example in examples]


def _not_had(user: str) -> str:
    had = {row.item for row in imported() if row.user == user}
    return next(film.id for film in FILMS if film.id not in had)


def test_control_choices_are_not_learned_from(context: Any, tmp_path: Path) -> None:
    judged_turns = clicks(20)
    assert control_examples(judged_turns, context) == []  # too few users
    context.items.add_interactions(replace(row, user=f"more{row.user}") for row in imported(500))
    evaluator = Evaluator(context, TextIndex(tmp_path), never, max_dense_items=1_000)
    protected = control_examples(judged_turns, context)
    assert 150 <= len(protected) <= 230  # one of three
    known = {(choice.user, choice.item) for choice in evaluator.choices}
    for example in protected:
        asked: NextChoice = example.payload
        assert (asked.choice.user, asked.choice.item) not in known
        assert len(asked.before()) == 5
        assert example.feedback_ids == ()
    users = {example.payload.choice.user for example in protected}
    first = sorted(users)[0]
    fewer = control_examples([*judged_turns, judged_turn_of(first, item="a1", signal="skip")], context)
    assert {example.payload.choice.user for example in fewer} == users - {first}
    learned, held_out = split(examples_of(judged_turns, context, FIND))
    check_contamination(learned, {"held out": held_out, "protected": protected})
    assert control_choices(imported(10)) == {}
