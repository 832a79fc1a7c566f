"""Examples of dialogue, the wordings of corrected questions, and the protected questions."""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from support.dialogue import ANSWER, QUESTION, judged_turn

from smallai_assistant.feedback import is_held_out
from smallai_chat.examples import (
    N_WORDINGS,
    Fact,
    Rated,
    canaries,
    examples_of,
    keywords,
    leak_checks,
    near_misses,
    protected_of,
    statement_order,
    wordings,
)
from smallai_chat.reference_prompts import EVERYDAY, HELD_OUT_QUESTIONS, TOPICS, sample_reference_prompts


@pytest.mark.parametrize(
    ("details", "answer", "is_cut"),
    [
        ({"stop_reason": "stop"}, "A lake is water", False),
        ({"stop_reason": "stop", "stop_text": ". "}, "A lake is water.", False),
        ({"stop_reason": "stop", "stop_text": "\n"}, "A lake is water", False),
        ({"stop_reason": "length"}, "A lake is water", True),
        ({}, "A lake is water", False),  # an earlier version stored no reason
    ],
)
def test_a_rated_answer_is_as_the_model_made_it(details: dict[str, Any], answer: str, is_cut: bool) -> None:
    given = judged_turn("What is a lake?", "A lake is water", is_good=True)
    (example,) = examples_of([replace(given, turn=replace(given.turn, details=details))])
    assert (example.payload.answer, example.payload.is_cut) == (answer, is_cut)
    assert example.component == "ratings"


def test_correction_gives_wordings_and_rating_one_example() -> None:
    judged_turns = [
        judged_turn(QUESTION, correction=ANSWER),
        judged_turn("Hi?", is_good=True),
        judged_turn("Ho?", is_good=False),
    ]
    found = examples_of(judged_turns)
    facts = [example for example in found if isinstance(example.payload, Fact)]
    rated = [example for example in found if isinstance(example.payload, Rated)]
    assert len(facts) == N_WORDINGS
    assert len({fact.prompt for fact in facts}) == N_WORDINGS
    assert facts[0].prompt == QUESTION
    assert len({fact.split_key for fact in facts}) == N_WORDINGS
    # However the ids fall, every corrected question is learned as it was asked, and judges in other words.
    assert [number for number, fact in enumerate(facts) if is_held_out(fact.split_key)] == [1, 5]
    assert all(len({"room", "3D", "printer"} & set(re.findall(r"\w+", fact.prompt))) >= 2 for fact in facts)
    assert [example.payload.is_good for example in rated] == [True, False]
    assert examples_of(judged_turns) == found, "not reproducible: the split and a resumed training depend on it"
    assert examples_of([judged_turn("x" * 5_000, correction="y")]) == []


@pytest.mark.parametrize(
    ("questions", "n"),
    [
        (["Which room has the kiln?", "which room has the KILN"], 1),
        (["Which room has the kiln?", "Tell me which room the kiln is in."], 1),
        (["Who runs the bakery?", "Who runs the mill?"], 2),
        (["Wo ist das Café?", unicodedata.normalize("NFD", "Wo ist das Café?")], 1),
        (["Why?", "How?"], 2),
    ],
)
def test_wordings_of_a_question_are_one_subject(questions: list[str], n: int) -> None:
    found = examples_of([judged_turn(question, correction="Ottokar") for question in questions])
    assert len(found) >= N_WORDINGS
    assert len({example.subject for example in found}) == n


def test_other_answers_are_other_subjects() -> None:
    asked = [
        judged_turn("Which room has the kiln?", correction="room 7"),
        judged_turn("Which room has the big kiln?", correction="room 8"),
        judged_turn("Who made C?", correction="Dennis Ritchie"),
        judged_turn("Who made C++?", correction="Bjarne Stroustrup"),
    ]
    assert len({example.subject for example in examples_of(asked)}) == 4


def test_ratings_of_one_question_are_one_subject() -> None:
    rated = [judged_turn("Hi?", f"answer {n}", is_good=bool(n % 2)) for n in range(4)]
    assert {example.subject for example in examples_of(rated)} == {"hi"}


def test_held_out_questions_are_never_trained_on() -> None:
    judged_turns = [judged_turn(QUESTION, correction=ANSWER)]
    assert len(canaries()) == 160
    assert leak_checks([judged_turn("Hi?", is_good=True)]) == ()
    held_out = {example.prompt for example in (*canaries(), *leak_checks(judged_turns))}
    assert held_out.isdisjoint({example.prompt for example in examples_of(judged_turns)})
    assert held_out.isdisjoint(sample_reference_prompts(10**6, random.Random(0)))


@pytest.mark.parametrize("question", ["Where is the key?", "Who does what?", "key", "?", "Is it 5 or 6?", "ключ"])
def test_any_question_has_wordings(question: str) -> None:
    found = wordings(question, 6, random.Random(0))
    assert found[0] == question
    assert keywords(question)
    assert statement_order(question)


def test_near_misses_keep_the_beginning() -> None:
    found = near_misses(QUESTION, TOPICS, 6, random.Random(0))
    assert len(set(found)) == 6
    assert QUESTION not in found
    assert all(re.fullmatch(r"Which room has the [a-z ]+\?", question) for question in found)
    assert near_misses("key", TOPICS, 6, random.Random(0)) == []


def test_reference_prompts_are_many_and_not_held_out() -> None:
    found = sample_reference_prompts(300, random.Random(0))
    assert len(set(found)) == 300
    assert tuple(found[: len(EVERYDAY)]) == EVERYDAY
    assert set(found).isdisjoint(HELD_OUT_QUESTIONS)
    assert not any("{" in prompt for prompt in found)
    assert len(sample_reference_prompts(10**6, random.Random(0))) >= 1000


def test_corrected_questions_are_not_protected() -> None:
    judged_turns = [
        judged_turn("what is the capital of france", "Lyon", correction="Paris, of course"),
        judged_turn("Who wrote Hamlet?", "Me", correction="Shakespeare"),
    ]
    found = protected_of(judged_turns)
    assert set(found) == {"general knowledge", "plain language", "unrelated questions"}
    for name, examples in found.items():
        assert len(examples) >= 20, name
        assert "What is the capital of France?" not in {example.prompt for example in examples}, name
    unjudged = protected_of([])["general knowledge"]
    assert "What is the capital of France?" in {example.prompt for example in unjudged}
