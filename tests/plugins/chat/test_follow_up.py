"""Follow-up questions are made whole from the conversation before them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.dialogue import judged_turn

from smallai_chat.follow_up import WHOLE_QUESTION, question_of, whole_question
from smallai_chat.memory import entry_of


@pytest.mark.parametrize(
    ("before", "question", "expected"),
    [
        ("How many wings has a bee?", "And a fly?", "How many wings has a fly?"),
        ("How long does a whale live?", "And a fly?", "How long does a fly live?"),
        ("Where is the Riga office?", "Who runs it?", "Who runs the Riga office?"),
        ("when does the kiosk open on monday", "and on friday", "when does the kiosk open on friday"),
        ("Wie viele Flügel hat eine Biene?", "Und eine Fliege?", "Wie viele Flügel hat eine Fliege?"),
        ("Combien d'ailes a une abeille ?", "Et une mouche ?", "Combien d'ailes a une mouche ?"),
        ("¿Cuántas alas tiene una abeja?", "¿Y una mosca?", "¿Cuántas alas tiene una mosca?"),
        ("Who is our vet?", "What is her address?", "What is our vet's address?"),
        ("Who is our vet?", "And what is their address?", "what is our vet's address"),
        ("Wer ist unser Tierarzt?", "Was ist seine Adresse?", "Was ist Adresse von unser Tierarzt?"),
        ("Wer ist unser Tierarzt?", "Kann es ein Notfall sein?", "Kann unser Tierarzt ein Notfall sein?"),
        ("Où est la boulangerie ?", "Quelles sont ses heures ?", "Quelles sont heures de la boulangerie ?"),
        ("¿Quién es nuestro veterinario?", "¿Cuál es su teléfono?", "Cuál es teléfono de nuestro veterinario?"),
        ("Кто наш ветеринар?", "Какой его адрес?", "Какой адрес ветеринар?"),
        ("Where is it?", "What is its name?", "What is its name?"),
        ("How many wings has a bee?", "What is the capital of Peru?", "What is the capital of Peru?"),
    ],
)
def test_follow_up_is_made_whole(before: str, question: str, expected: str) -> None:
    assert whole_question(question, [before]) == expected


def test_chain_of_follow_ups_goes_back_to_the_whole_one() -> None:
    assert whole_question("And a gnat?", ["How many wings has a bee?", "And a fly?"]) == "How many wings has a gnat?"
    assert whole_question("And a gnat?", []) == "And a gnat?"


def test_correction_is_kept_with_the_whole_question() -> None:
    judged = judged_turn("And a fly?", correction="Two")
    assert question_of(judged.turn) == "And a fly?"
    turn = replace(judged.turn, details={WHOLE_QUESTION: "How many wings has a fly?"})
    entry = entry_of(replace(judged, turn=turn))
    assert entry is not None
    assert entry.question == "How many wings has a fly?"
    assert turn.request.text == "And a fly?"  # as it was asked
