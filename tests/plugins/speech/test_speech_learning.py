"""Speech learns the user's words on the real model: at once, and into an adapter."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.speech import JARGON, ask, speech_example, speech_task, speech_training

from bench.data import librivox, spoken
from smallai_assistant import Adapter, Assistant, AssistantConfig, AudioPart, Example, Response, Score
from smallai_assistant.errors import AdapterMismatch, NotEnoughData
from smallai_assistant.validation import EVERYONE
from smallai_speech import adapter_selection
from smallai_speech.adapter_selection import CHOICE_FILE
from smallai_speech.engine import TASK
from smallai_speech.evaluation import n_word_errors, word_accuracy
from smallai_speech.vocabulary import VOCABULARY_FILE, vocabulary_in, write_vocabulary

TAUGHT = "He has been working on {} for many years."
ASKED = "I would like to know more about {} before we make a decision."


def ask_about(assistant: Assistant, data: bytes, **options: Any) -> Response:
    return ask(assistant, AudioPart(data=data), **options)


def teach_zorvex(assistant: Assistant) -> Any:
    right = TAUGHT.format("Zorvex")
    return ask_about(assistant, spoken(right, "en-us")).rate(correction=right)


@pytest.fixture
def own(config: AssistantConfig) -> Iterator[Assistant]:
    with Assistant(config) as opened:
        yield opened


# -- at once --


@pytest.mark.slow
def test_the_next_recording_has_the_word(own: Assistant, config: AssistantConfig) -> None:
    data = spoken(ASKED.format("Zorvex"), "en-gb")
    before = ask_about(own, data)
    assert "Zorvex" not in before.text
    receipt = teach_zorvex(own)
    assert receipt.effect.startswith("From now on “Zorvex” (heard as “")
    after = ask_about(own, data, word_timestamps=True)
    assert after.text == ASKED.format("Zorvex")
    (repair,) = after.details["repairs"]
    assert repair["word"] == "Zorvex"
    assert repair["heard"] in before.text
    assert " ".join(detail["word"] for detail in after.details["words"]) == after.text
    assert ask_about(own, data, use_memory=False).text == before.text

    own.close()
    with Assistant(config) as restarted:
        assert ask_about(restarted, data).text == after.text
        assert restarted.undo_feedback(receipt.feedback.id).effect.startswith("taken back")
        assert ask_about(restarted, data).text == before.text
        again = teach_zorvex(restarted)
        assert ask_about(restarted, data).text == after.text
        restarted.erase_feedback([again.feedback.id])
        assert ask_about(restarted, data).text == before.text


@pytest.mark.slow
def test_other_recordings_stay_as_they_were(own: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = [path.read_bytes() for path, _ in librivox()[1:]]
    before = [ask_about(own, data).text for data in recordings]
    monkeypatch.setattr("smallai_speech.memory.WordMemory.vocabulary", lambda _memory: JARGON)
    assert [ask_about(own, data).text for data in recordings] == before


def test_a_taught_recording_teaches_its_uncommon_words(own: Assistant) -> None:
    recording = AudioPart(data=spoken(TAUGHT.format("Zorvex")))
    receipt = own.teach(TASK, recording, TAUGHT.format("Zorvex"))
    # What the receipt promises is what the next answer does.
    is_promised = receipt.effect == "From now on “Zorvex” will be recognized in this recording."
    assert is_promised or "needs training" in receipt.effect
    assert ("Zorvex" in ask(own, recording).text) == is_promised
    (entry,) = speech_task(own).memories.of(frozenset({EVERYONE})).vocabulary().entries
    assert (entry.word, entry.heard) == ("Zorvex", ())


# -- into an adapter --


def test_word_errors() -> None:
    assert n_word_errors(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert word_accuracy("He isn't here, Mr. Brown.", "he is not here mister brown") == 1.0
    assert word_accuracy("Zorvex runs", "Zorvex") == 0.5
    assert word_accuracy("one", "nine other words are here") == 0.0


@pytest.mark.slow
def test_examples_and_protected(own: Assistant, caplog: pytest.LogCaptureFixture) -> None:
    for i, (path, text) in enumerate(librivox()):
        response = ask_about(own, path.read_bytes(), beam_size=1, temperatures=(0.0,))
        response.rate(correction=text) if i < 2 else response.rate(good=True)
    judged_turns = own.feedback.judged_turns(TASK)
    task = speech_task(own)
    found, kept = task.examples(judged_turns), task.protected(judged_turns)["praised transcripts"]
    assert [example.expected for example in found[:2]] == [text for _, text in librivox()[:2]]
    assert len(found) + len(kept) == 5
    assert len({example.split_key for example in [*found, *kept]}) == 5
    assert {example.prompt for example in found}.isdisjoint(example.prompt for example in kept)
    assert all(example.payload.is_praised for example in [*found[2:], *kept])

    for path in (own.config.data_dir / "media").rglob("*"):
        if path.is_file():
            path.unlink()
    with caplog.at_level(logging.WARNING):
        assert task.examples(own.feedback.judged_turns(TASK)) == []
    assert "left out" in caplog.text


def test_nothing_corrected_is_not_enough(own: Assistant, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData):
        speech_task(own).train(speech_training(own, [speech_example(b"", "x", "x", is_praised=True)], tmp_path))


@pytest.fixture
def without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that trains weights is not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name))


def test_without_peft_the_vocabulary_is_learned(
    own: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_peft: None
) -> None:
    def evaluate(examples: list[Example], adapter: Adapter | None, *_: Any) -> list[Score]:
        return [Score(0.0 if adapter is None else 1.0, "") for _ in examples]

    monkeypatch.setattr(adapter_selection, "evaluate", evaluate)
    words = ("Zorvex", "Talvorin", "Quandrel", "Kelmatrin")
    run = speech_training(own, [speech_example(b"", "", f"Tell {word} about it.") for word in words], tmp_path)
    assert speech_task(own).train(run) == "vocabulary"
    assert [path.name for path in sorted(run.folder.iterdir())] == [CHOICE_FILE, VOCABULARY_FILE]
    assert json.loads((run.folder / CHOICE_FILE).read_text())["words_right"] == {"base": 0.0, "vocabulary": 1.0}


@pytest.mark.parametrize("content", ["", "[]", '{"words": 3}', "[" * 100_000])
def test_an_unreadable_vocabulary_is_a_mismatch(adapter: Adapter, content: str) -> None:
    assert vocabulary_in(adapter) == JARGON
    (adapter.folder / VOCABULARY_FILE).write_text(content)
    with pytest.raises(AdapterMismatch):
        vocabulary_in(adapter)


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    write_vocabulary(tmp_path, JARGON)
    return Adapter("a", TASK, "vocabulary", tmp_path, {}, {}, datetime.now(UTC))


@pytest.mark.slow
def test_corrections_become_an_adapter_that_serves(
    own: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each word is said in two recordings, so that the one kept aside holds a word that the others teach."""
    monkeypatch.setattr("smallai_speech.training.EPOCHS", 5)  # three fewer, to save time
    task = speech_task(own)
    for text, voice in ((TAUGHT, "en-us"), (ASKED, "en-gb+f2")):
        for word in ("Zorvex", "Talvorin"):
            right = text.format(word)
            ask_about(own, spoken(right, voice)).rate(correction=right)
    run = speech_training(own, task.examples(own.feedback.judged_turns(TASK)), tmp_path)
    kind = task.train(run)
    assert kind in ("vocabulary", "lora", "lora+vocabulary")
    assert run.losses[-1] < run.losses[0]
    choice = json.loads((run.folder / CHOICE_FILE).read_text())
    assert choice["kind"] == kind
    assert set(choice["words_right"]) == {"base", "vocabulary", "lora", "lora+vocabulary"}
    assert choice["words_right"][kind] == max(choice["words_right"].values())
    assert (run.folder / VOCABULARY_FILE).is_file() == ("vocabulary" in kind)

    # Each word in each sentence, in the voice that said the other sentence.
    asked = [
        (word, text.format(word), spoken(text.format(word), voice))
        for word in ("Zorvex", "Talvorin")
        for text, voice in ((ASKED, "en-us"), (TAUGHT, "en-gb+f2"))
    ]
    unseen = [speech_example(data, "", right) for _, right, data in asked]
    with own.adapters.work_folder() as folder:
        shutil.copytree(run.folder, folder, dirs_exist_ok=True)
        adapter = own.adapters.add(folder, task=TASK, kind=kind, base=task.base(), feedback_ids=())
    task.rebuild([])  # forget the words: only the adapter may know them
    before, after = (task.evaluate(unseen, candidate, own.models) for candidate in (None, adapter))
    assert sum(score.value for score in after) > sum(score.value for score in before)
    own.adapters.promote(adapter.id, force=True)
    served = [ask_about(own, data) for _, _, data in asked]
    assert [response.text for response in served] == [score.answer for score in after]
    assert {response.turn.adapter for response in served} == {adapter.id}
    assert any(word in response.text for (word, _, _), response in zip(asked, served, strict=True))
