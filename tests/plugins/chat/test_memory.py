"""The fast memory of dialogue, alone and on the real small model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dialogue import ANSWER, PARAPHRASE, QUESTION, TASK, ask, judged_turn

from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.config import ModelsConfig
from smallai_chat.evaluation import contains_answer
from smallai_chat.memory import ChatMemory, entry_of
from smallai_chat.words import normalized


@pytest.fixture(scope="module")
def assistant(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    folder = tmp_path_factory.mktemp("learn-chat")
    with Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu", models=models)) as opened:
        yield opened


def test_correction_is_known_next_turn_and_undone(assistant: Assistant) -> None:
    response = ask(assistant, QUESTION)
    assert not contains_answer(response.text, ANSWER)
    receipt = response.rate(correction=ANSWER)
    assert ANSWER in receipt.effect
    after = ask(assistant, PARAPHRASE)
    assert contains_answer(after.text, ANSWER)
    assert after.details["recalled"] == [receipt.feedback.id]
    assert not contains_answer(ask(assistant, PARAPHRASE, use_memory=False).text, ANSWER)
    other = ask(assistant, "What is the capital of France?")
    assert other.details["recalled"] == []
    assert "Paris" in other.text
    assistant.undo_feedback(receipt.feedback.id)
    assert not contains_answer(ask(assistant, PARAPHRASE).text, ANSWER)


def test_memory_survives_restart_but_not_erasure(models_dir: Path, tmp_path: Path) -> None:
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    config = AssistantConfig(data_dir=tmp_path, models_dir=models_dir, device="cpu", models=models)
    with Assistant(config) as first:
        receipt = first.teach(TASK, QUESTION, ANSWER)
    with Assistant(config) as second:
        assert contains_answer(ask(second, PARAPHRASE).text, ANSWER)
        second.erase_feedback([receipt.feedback.id])
        assert not contains_answer(ask(second, PARAPHRASE).text, ANSWER)


def test_rejected_answer_is_not_given_again(assistant: Assistant) -> None:
    question = "What do you think of Mondays?"
    first = ask(assistant, question)
    receipt = first.rate(good=False)
    assert receipt.effect == (
        "When the same is asked again, the model looks for another answer, and says so if it finds none."
    )
    other = ask(assistant, question)
    assert other.text != first.text
    assert "no_other_answer" not in {notice.code for notice in other.notices}
    assistant.undo_feedback(receipt.feedback.id)
    assert ask(assistant, question).text == first.text


def test_rejected_truth_is_never_damaged(assistant: Assistant) -> None:
    """A model that is sure of an answer gives it again and says so; it does not misspell it."""
    given = []
    for question in ("What is the capital of Italy?", "Who wrote Hamlet?"):
        first = ask(assistant, question)
        given.append(first.rate(good=False).feedback.id)
        again = ask(assistant, question)
        is_same = normalized(again.text) == normalized(first.text)
        assert is_same == ("no_other_answer" in {notice.code for notice in again.notices})
        assert not re.search(r"[a-z][A-Z]", again.text)  # "ofFrance"
    for feedback_id in given:
        assistant.undo_feedback(feedback_id)


def test_receipts_of_answers_hold(assistant: Assistant) -> None:
    praised = ask(assistant, "Which animal says moo?").rate(good=True)
    assert praised.effect == "When something like it is asked, the model is shown this answer as an example."
    corrected = ask(assistant, QUESTION).rate(correction=ANSWER)
    assert corrected.effect == (
        f"When something like “{QUESTION}” is asked, the model is shown “{ANSWER}” as the answer."
    )
    for question, receipt in (("Which animal says moo?", praised), (QUESTION, corrected), (PARAPHRASE, corrected)):
        assert ask(assistant, question).details["recalled"][0] == receipt.feedback.id
    silent = ask(assistant, "Say hello.").rate(correction="x" * 2_000)
    assert silent.effect == ""
    for receipt in (praised, corrected, silent):
        assistant.undo_feedback(receipt.feedback.id)


def test_history_shows_the_corrected_answer(assistant: Assistant) -> None:
    session = assistant.session()
    options = {"max_tokens": 24}
    response = session.send("What is my boat called?", task=TASK, options=options)
    receipt = response.rate(correction="Albatross")
    again = session.send("Say the name of my boat again.", task=TASK, options=options)
    assert contains_answer(again.text, "Albatross")
    assistant.undo_feedback(receipt.feedback.id)


def test_newest_answer_replaces_earlier_ones() -> None:
    memory = ChatMemory(lambda: pytest.fail("a question was embedded before anything was asked"))
    memory.replace(
        [judged_turn("a?", correction="one"), judged_turn("A?", correction="two"), judged_turn("b?", is_good=True)]
    )
    assert [(entry.question, entry.answer) for entry in memory.entries] == [("A?", "two"), ("b?", "no idea")]


def test_spellings_of_a_question_are_one() -> None:
    memory = ChatMemory(lambda: pytest.fail("a question was embedded before anything was asked"))
    accent = "Wo ist das Café?"
    for question, right in ((accent, "hier"), (unicodedata.normalize("NFD", accent), "dort"), (f" {accent} ", "da")):
        memory.add(judged_turn(question, correction=right))
    assert [entry.answer for entry in memory.entries] == ["da"]
    for question in ("What is C?", "What is C++?"):
        memory.add(judged_turn(question, correction="a language"))
    assert len(memory.entries) == 3


def test_useless_judged_turns_leave_no_entry() -> None:
    assert entry_of(judged_turn("c?", correction="x" * 2_000)) is None
    assert entry_of(judged_turn("c?", comment="hm")) is None
    assert entry_of(judged_turn("q" * 900, correction="x")) is None
