"""The plugin in a real assistant. The task needs no model, so the tests need none either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import smallai_wordcount

from smallai_assistant import Assistant, AssistantConfig, InvalidInput
from smallai_assistant.testing import assert_conforms


@pytest.fixture
def assistant(tmp_path: Path) -> Iterator[Assistant]:
    # The entry point is disabled, so that the plugin is loaded once, by `plugins`, whether it is installed or not.
    config = AssistantConfig(data_dir=tmp_path / "data", disabled_plugins=("wordcount",))
    with Assistant(config, plugins=[smallai_wordcount]) as assistant:
        yield assistant


def test_counts_and_streams(assistant: Assistant) -> None:
    response = assistant.ask("The fox and the dog.", task="word-count", options={"top": 2})
    pieces = [part.text for part in response]
    assert pieces == ["5 words", ", most often the (2)", ", fox (1)"]
    assert response.details["n_words"] == 5


def test_turn_is_stored(assistant: Assistant) -> None:
    turn = assistant.ask("one two", task="word-count").turn
    assert assistant.store.turn(turn.id).text == turn.text
    assert turn.task == "word-count"


def test_bad_option_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput, match="top is 101"):
        _ = assistant.ask("one two", task="word-count", options={"top": 101}).text


def test_conforms() -> None:
    assert_conforms(smallai_wordcount, examples={"word-count": "The fox and the dog."})
