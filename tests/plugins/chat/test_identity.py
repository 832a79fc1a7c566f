"""What the assistant says about itself: facts of the program, in eight languages, and nothing for other questions."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest
from support.dialogue import ask

from bench.data import mmlu_questions
from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.config import ModelsConfig
from smallai_assistant.errors import ConfigError
from smallai_chat.identity import Self, about_itself
from smallai_chat.reference_prompts import HELD_OUT_QUESTIONS

ADA = Self("Ada", "tiny (none)", {"text-generation": "talks", "fly": "flies"})


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who are you?", "I am Ada. I run on this machine."),
        ("  hello,   WHO ARE YOU ", "I am Ada. I run on this machine."),
        ("What’s your name?", "I am Ada. I run on this machine."),
        ("What can you do?", "talk with you, flies"),
        ("Which model are you?", "tiny (none)"),
        ("Hallo, wie heißt du?", "Ich bin Ada. Ich laufe auf diesem Rechner."),
        ("Qui t'a créé ?", "smallai_assistant"),
        ("¿Cómo te llamas?", "Soy Ada."),
        ("你好，你是谁？", "我是Ada"),
        ("이름이 뭐예요?", "저는 Ada입니다."),
        ("आपका नाम क्या है?", "मैं Ada हूँ।"),
        ("ما اسمك؟", "أنا Ada."),
    ],
)
def test_questions_about_itself(question: str, answer: str) -> None:
    assert answer in about_itself(question, ADA)


@pytest.mark.parametrize(
    "question",
    ["Who are they?", "Who is your father?", "What is your name day?", "hello", "please", "", "Who made the sandwich?"],
)
def test_other_questions(question: str) -> None:
    assert about_itself(question, ADA) == ""


def test_no_everyday_question_is_taken_for_one() -> None:
    asked = [*HELD_OUT_QUESTIONS, *(row.question for row in mmlu_questions())]
    assert [question for question in asked if about_itself(question, ADA)] == []


def test_every_language_has_every_text() -> None:
    texts = tomllib.loads((resources.files("smallai_chat") / "identity.toml").read_text(encoding="utf-8"))
    keys = {frozenset(entry) for entry in texts.values()}
    assert len(keys) == 1
    for name, entry in texts.items():
        for kind in ("who", "maker", "model", "place", "able"):
            for question in entry[kind]:
                assert about_itself(question, ADA), f"{name}: {question}"


def test_corrections_win_and_others_keep_the_answer(models_dir: Path, tmp_path: Path) -> None:
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    tasks = {"text-generation": {"persona": "Ada, the assistant of the library"}}
    config = AssistantConfig(data_dir=tmp_path, models_dir=models_dir, device="cpu", models=models, tasks=tasks)
    with Assistant(config) as assistant:
        first = assistant.ask("Who are you?", task="text-generation", user_id="ann")
        assert first.text == "I am Ada, the assistant of the library. I run on this machine."
        assert "smollm2-135m-instruct" in ask(assistant, "Who made you?").text
        assert "recommend things" in ask(assistant, "What can you do?").text
        first.rate(correction="I am Zelda.")
        assert "Zelda" in assistant.ask("Who are you?", task="text-generation", user_id="ann").text
        assert "Ada" in assistant.ask("Who are you?", task="text-generation", user_id="bob").text


def test_an_empty_persona_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="persona"):
        Assistant(data_dir=tmp_path, tasks={"text-generation": {"persona": " "}})
