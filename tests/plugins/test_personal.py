"""What one person teaches our tasks answers that person and nobody else, on the real small models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.drawings import rings

from bench.data import spoken
from smallai_assistant import Assistant, AssistantConfig, AudioPart, Feedback, ImagePart, Item, ItemPart, LabelPart
from smallai_assistant.config import ModelsConfig

SENTENCE = "He has been working on Zorvex for many years."


@pytest.fixture(scope="module")
def own(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    folder = tmp_path_factory.mktemp("personal")
    with Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu", models=models)) as opened:
        yield opened


def say(assistant: Assistant, user: str | None, text: str) -> str:
    return assistant.ask(text, task="text-generation", user_id=user, options={"max_tokens": 16}).text


def test_an_answer(own: Assistant) -> None:
    question = "What is the name of my boat?"
    own.ask(question, task="text-generation", user_id="ann", options={"max_tokens": 4}).rate(correction="Marzipan.")
    own.ask(question, task="text-generation", user_id="bob", options={"max_tokens": 4}).rate(correction="Gerda.")
    assert "Marzipan" in say(own, "ann", "How is my boat called?")
    assert "Gerda" in say(own, "bob", "How is my boat called?")
    for user in ("cem", None):
        assert not {"Marzipan", "Gerda"} & set(say(own, user, question).replace(".", " ").split())


def test_a_label(own: Assistant) -> None:
    for seed in range(3):
        own.teach("image-classification", ImagePart(data=rings(seed)), "ann's target", source="ann", audience="user")

    def labels(user: str | None) -> list[str]:
        response = own.ask(ImagePart(data=rings(100)), user_id=user, options={"top": 1000})
        return [part.label for part in response.parts if isinstance(part, LabelPart)]

    assert labels("ann")[0] == "ann's target"
    assert "ann's target" not in {*labels("bob"), *labels(None)}


@pytest.mark.slow
def test_a_word(own: Assistant) -> None:
    recording = AudioPart(data=spoken(SENTENCE))
    before = own.ask(recording, user_id="bob").text
    assert "Zorvex" not in before
    own.ask(recording, user_id="ann").rate(correction=SENTENCE)
    assert "Zorvex" in own.ask(recording, user_id="ann").text
    assert own.ask(recording, user_id="bob").text == own.ask(recording).text == before


def test_a_choice_counts_for_others_once_three_people_made_it(own: Assistant) -> None:
    own.items.add_items(Item(f"film {n}", f"Film {n}") for n in range(30))

    def best(user: str) -> list[str]:
        response = own.ask("anything", task="recommendation", user_id=user, options={"k": 30})
        return [part.id for part in response.parts if isinstance(part, ItemPart)]

    before = best("stranger")
    for user in ("ann", "bob", "cem"):
        assert best("stranger") == before
        turn = own.ask("anything", task="recommendation", user_id=user).turn
        own.give_feedback(Feedback(turn.id, signal="click", item="film 29", source=user))
        assert "film 29" not in best(user)  # it is known to the person as seen
    assert best("stranger")[0] == "film 29"


def test_a_restart_keeps_it_so(config: AssistantConfig) -> None:
    with Assistant(config) as first:
        first.teach("image-classification", ImagePart(data=rings(1)), "ann's target", source="ann", audience="user")
    with Assistant(config) as second:
        asked = ImagePart(data=rings(1))
        assert "ann's target" in second.ask(asked, user_id="ann").text
        assert "ann's target" not in second.ask(asked, user_id="bob").text
