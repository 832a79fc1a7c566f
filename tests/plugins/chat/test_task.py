"""The task of dialogue on the real SmolLM2: history, limits, options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smallai_assistant import Assistant, AssistantConfig, Message, TextPart
from smallai_assistant.config import ModelsConfig
from smallai_assistant.errors import InputTooLarge, InvalidInput

SMALL = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")


@pytest.fixture(scope="module")
def assistant(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    folder = tmp_path_factory.mktemp("chat")
    with Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu", models=SMALL)) as opened:
        yield opened


def test_answer_carries_model_and_token_counts(assistant: Assistant) -> None:
    response = assistant.ask("What is the capital of France?", task="text-generation", options={"max_tokens": 24})
    assert len(list(response)) > 1
    assert "Paris" in response.text
    assert response.details["model"] == "smollm2-135m-instruct"
    assert response.details["n_prompt_tokens"] > 10
    assert response.details["n_completion_tokens"] > 2
    assert response.turn.model == "smollm2-135m-instruct"


@pytest.mark.slow
def test_history_is_used(config: AssistantConfig) -> None:
    """Uses the default, Qwen 0.5B in nf4: the 135M model invents names."""
    with Assistant(config) as assistant:
        session = assistant.session()
        options = {"max_tokens": 24}
        _ = session.send("My name is Ottokar.", task="text-generation", options=options).text
        response = session.send("What is my name?", task="text-generation", options=options)
        assert "Ottokar" in response.text
        assert response.details["model"] == "qwen2.5-coder-0.5b-instruct (nf4)"


def test_same_question_gets_same_answer(assistant: Assistant) -> None:
    def ask(**options: Any) -> str:
        return assistant.ask("Tell me a story.", task="text-generation", options={"max_tokens": 20, **options}).text

    assert ask() == ask()
    assert ask(temperature=0.9, seed=3) == ask(temperature=0.9, seed=3)


def test_truncated_answer_has_a_notice(assistant: Assistant) -> None:
    response = assistant.ask("Count to one hundred.", task="text-generation", options={"max_tokens": 3})
    # On a machine without CUDA every answer has that notice, too.
    assert [notice.code for notice in response.notices if notice.code != "cpu_fallback"] == ["answer_truncated"]


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 0}, {"max_tokens": 10**18}, {"temperature": float("nan")}, {"temperature": -1}, {"stop": 3}],
)
def test_invalid_options_are_refused(assistant: Assistant, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        _ = assistant.ask("hi", task="text-generation", options=options).text


def test_markdown_image_link_fetches_nothing(assistant: Assistant, no_network: None) -> None:
    text = "![x](https://example.org/x.png) What is this?"
    assert assistant.ask(text, task="text-generation", options={"max_tokens": 8}).text


class FixedContext:
    """A model with one token for each character, so that a test knows what fits."""

    context_tokens = 1000

    def count_tokens(self, messages: list[dict[str, str]]) -> int:
        return sum(len(message["content"]) for message in messages)


def fitted(history: list[str], question: str, **options: Any) -> tuple[list[str], Any]:
    """Returns the contents of the prompt's messages, and the notice. Every answer in the history has 100 tokens."""
    from smallai_assistant.types import Request, Turn, new_id, now
    from smallai_chat.task import ChatOptions, fit_messages

    turns = tuple(
        Turn(new_id(), "s", None, "text-generation", Message((TextPart(text),)), (TextPart("a" * 100),), now())
        for text in history
    )
    request = Request(Message((TextPart(question),)), turns, None, "s")
    messages, notice = fit_messages(request, ChatOptions(**{"max_tokens": 100} | options), FixedContext())  # type: ignore[arg-type]
    return [message["content"] for message in messages], notice


def test_oldest_history_is_dropped_with_a_notice() -> None:
    history = [str(n) * 150 for n in range(5)]
    contents, notice = fitted(history, "q" * 50, system_prompt="s" * 100)
    # Of 1000 tokens 100 are reserved for the answer: three turns of 250 fit beside the 150 that must stay.
    assert contents[0] == "s" * 100
    assert contents[1:] == ["2" * 150, "a" * 100, "3" * 150, "a" * 100, "4" * 150, "a" * 100, "q" * 50]
    assert notice.code == "history_truncated"
    assert "oldest 2 of 5" in notice.text


def test_history_that_fits_is_kept() -> None:
    contents, notice = fitted(["one", "two"], "three")
    assert contents[1:] == ["one", "a" * 100, "two", "a" * 100, "three"]
    assert notice is None
    assert fitted(["one", "two"], "three", max_history_turns=1)[0][1:] == ["two", "a" * 100, "three"]
    assert fitted(["one"], "three", max_history_turns=0, system_prompt="")[0] == ["three"]


def test_message_that_cannot_fit_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InputTooLarge, match="900 fit"):
        fitted([], "q" * 950)
    with pytest.raises(InputTooLarge, match="tokens"):
        _ = assistant.ask("word " * 20_000, task="text-generation").text
