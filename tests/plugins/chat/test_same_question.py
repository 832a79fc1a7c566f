"""Whether two questions have the same answer: by words, by the embedding model, and where that knows no meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dialogue import judged_turn

from smallai_assistant import Assistant, AssistantConfig, EmbeddingModel, ModelSpec
from smallai_chat.calibration import Calibration
from smallai_chat.memory import ChatMemory
from smallai_chat.question_words import language_of, read
from smallai_chat.same_question import align, cannot_be_same, likelihoods, same_words

MINILM = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def shown(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], bool]]:
    """Whether a memory that knows the first question shows its answer to the second, with the real small model."""
    folder = tmp_path_factory.mktemp("same-question")
    with Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu")) as assistant:
        spec = ModelSpec(MINILM, task="feature-extraction")
        memory = ChatMemory(lambda: assistant.models.lease(spec, EmbeddingModel))

        def is_shown(taught: str, asked: str) -> bool:
            memory.replace([judged_turn(taught, correction="so it is")])
            return bool(memory.retrieve(asked).shown)

        yield is_shown


@pytest.mark.parametrize(
    ("taught", "asked"),
    [
        ("what is the gate code of the oslo depot", "What is the gate code of the Oslo depot?"),
        ("what is the gate code of the oslo depot", "which gate code does the oslo depot have"),
        ("what is the locker number of shelf seven", "which locker number does shelf 7 have"),
        ("What is the number of cabin 6?", "Tell me the number of cabin 6."),
        ("How many people work in the Malmo branch?", "How large is the Malmo branch?"),
        ("Who signs the loan forms of the archive?", "By whom are the loan forms of the archive signed?"),
    ],
)
def test_other_words_find_the_answer(shown: Callable[[str, str], bool], taught: str, asked: str) -> None:
    assert shown(taught, asked)


@pytest.mark.parametrize(
    ("taught", "asked"),
    [
        ("what is the gate code of the oslo depot", "what is the gate code of the bergen depot"),
        ("what is the gate code of the oslo depot", "What is the gate code of the Bergen depot?"),
        ("what is the gate code of the oslo depot", "what is the tax number of the oslo depot"),
        ("what is the locker number of shelf seven", "what is the locker number of shelf eight"),
        ("What is the name of our shop parrot?", "What is a young parrot called?"),
        ("Which tailor mends our uniforms?", "What does a tailor do?"),
        ("Wo steht unser Drucker?", "Wo findet man einen Drucker?"),
        ("Wie viele Beine hat ein Krebs?", "Wie lange lebt ein Krebs?"),
        ("Is our pool open on Sunday?", "Is our pool closed on Sunday?"),
        ("Is our pool open on Sunday?", "is our pool open on monday?"),
        ("Who signs the loan forms of the archive?", "Who does not sign the loan forms of the archive?"),
        ("사무실 강아지 이름이 뭐예요?", "한 달은 며칠이에요?"),
        ("कार्यालय के कुत्ते का नाम क्या है?", "एक महीने में कितने दिन होते हैं?"),
        ("ما اسم كلب المكتب؟", "كم يوما في الشهر؟"),
    ],
)
def test_near_misses_get_another_answer(shown: Callable[[str, str], bool], taught: str, asked: str) -> None:
    assert not shown(taught, asked)


@pytest.mark.parametrize(
    ("language", "question", "reach"),
    [
        ("en", "What does a cat eat?", "any"),
        ("en", "What does our cat eat?", "one"),
        ("en", "cat food?", ""),
        ("en", "Where is a picture of the cat?", "one"),
        ("de", "Was frisst eine Katze?", "any"),
        ("fr", "Que mange notre chat ?", "one"),
        ("es", "¿Qué come un gato?", "any"),
        ("ru", "Что ест кошка?", ""),
    ],
)
def test_a_question_is_about_any_thing_or_a_certain_one(language: str, question: str, reach: str) -> None:
    assert read(question, language).reach == reach


def test_same_words_count_in_unknown_scripts(models_dir: Path, tmp_path: Path) -> None:
    with Assistant(AssistantConfig(data_dir=tmp_path, models_dir=models_dir, device="cpu")) as assistant:
        spec = ModelSpec(MINILM, task="feature-extraction")
        memory = ChatMemory(lambda: assistant.models.lease(spec, EmbeddingModel))
        memory.replace([judged_turn("사무실 강아지 이름이 뭐예요?", correction="보리")])
        found = memory.retrieve("사무실 강아지의 이름은 무엇인가요?")
        assert [entry.answer for entry in found.shown] == ["보리"]
        assert found.unknown_language
        assert not memory.retrieve("What is the dog called?").unknown_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is it?", "en"),
        ("Wie heißt der Hund?", "de"),
        ("Où est la clé ?", "fr"),
        ("¿Dónde está la llave?", "es"),
        ("钥匙在哪里？", "zh"),
        ("鍵はどこですか？", "ja"),
        ("열쇠가 어디 있어요?", "ko"),
        ("चाबी कहाँ है?", "hi"),
        ("أين المفتاح؟", "ar"),
        ("Где ключ?", "ru"),
        ("Πού είναι το κλειδί;", ""),
    ],
)
def test_language_of_a_question(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("when is choir in room four", "when is choir in room 5", True),
        ("when is choir in room four", "when is choir in room 4", False),
        ("when is choir on monday", "when is choir on tuesday", True),
        ("Is it open?", "Is it closed?", True),
        ("who may not enter", "who may enter", True),
        ("三号楼有几层？", "四号楼有几层？", True),
        ("삼층에 누가 있어요?", "4층에 누가 있어요?", True),
        ("तीसरी मंज़िल पर कौन है?", "चौथी मंज़िल पर कौन है?", True),
        ("من في الطابق الثالث؟", "من في الطابق الرابع؟", True),
        ("Darf man hier rauchen?", "Darf man hier nicht rauchen?", True),
    ],
)
def test_alternatives_exclude_each_other(first: str, second: str, expected: bool) -> None:
    language = language_of(first)
    assert cannot_be_same(read(first, language), read(second, language)) is expected


def test_alignment_leaves_what_differs() -> None:
    first, second = read("Who feeds the goats at the farm?", "en"), read("Who feeds the pigs on the farm?", "en")
    aligned = align(first, second)
    assert (aligned.left_first, aligned.left_second) == (("goats",), ("pigs",))
    assert not same_words(first, second)
    assert same_words(first, read("at the farm, who feeds the goat", "en"))


class OneVector:
    """An embedding model that finds all texts the same."""

    def embed(self, texts: Sequence[str]) -> Any:
        return np.ones((len(texts), 4), dtype=np.float32) / 2


def test_model_that_knows_no_meaning_is_not_asked() -> None:
    model = OneVector()
    calibration = Calibration()
    assert not calibration.of("en", model.embed).is_reliable
    stored = ["Where is the red boat?", "where is the red boat", "Where is the blue boat?"]
    found = likelihoods("Where is the red boat?", stored, [1.0] * 3, calibration, model.embed)
    assert found == [1.0, 1.0, 0.0]
    assert Calibration.from_json(calibration.as_json()).of("en", model.embed) == calibration.of("en", model.embed)
