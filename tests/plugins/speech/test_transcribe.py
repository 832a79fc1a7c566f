"""What is said again and again is kept, and which of several decodings of a window counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.speech import RATE, ask, clip, normalized_words, resampled, wav

from bench.data import spoken
from smallai_assistant import Assistant
from smallai_speech.transcribe import Segment, transcribe
from smallai_speech.vad import Span
from smallai_speech.window import Decoded, DecodeOptions, Piece


class Scripted:
    """A model with one decoding for each temperature."""

    def __init__(self, by_temperature: dict[float, Decoded]) -> None:
        self._by_temperature = by_temperature

    def loudest(self, _samples: Any) -> float:
        return 0.0

    def decode(self, _window: Any, options: DecodeOptions, *, cancel: Any) -> Decoded:
        assert cancel is None
        return self._by_temperature[options.temperature]


def decoded(
    text: str, *, logprob: float = -0.3, ratio: float = 1.0, no_speech: float = 0.1, has_ended: bool = True
) -> Decoded:
    return Decoded((Piece(text, 0.0, 1.0),), 0.0, logprob, no_speech, ratio, has_ended=has_ended)


SURE, UNSURE = decoded("sure"), decoded("unsure", logprob=-1.5)
REPETITION = decoded("no no no", ratio=3.0)
LOOP = decoded("loop", ratio=3.0, has_ended=False)
TOO_LONG = replace(REPETITION, text="no " * 20)  # for the one second of sound
UNSURE_LOOP = decoded("unsure loop", logprob=-1.5, ratio=3.0, has_ended=False)


@pytest.mark.parametrize(
    ("at_each", "text"),
    [
        ([SURE], "sure"),
        ([REPETITION, SURE], "no no no"),  # the model ended it, so the speaker says it again and again
        ([LOOP, SURE], "sure"),
        ([LOOP, REPETITION, SURE], "no no no"),
        ([TOO_LONG, SURE], "sure"),
        ([replace(SURE, text="a " * 20)], "sure"),  # only a repetitive text can be too long
        ([decoded("long", has_ended=False), SURE], "long"),
        ([UNSURE, SURE], "sure"),
        ([LOOP, UNSURE, UNSURE_LOOP], "unsure"),
        ([UNSURE, decoded("less sure", logprob=-1.8)], "less sure"),  # the last, as by whisper
        ([UNSURE_LOOP, LOOP], "loop"),  # the speaker may really say it again: never an empty text
        ([LOOP, decoded("hush", logprob=-1.5, no_speech=0.9)], ""),
        ([decoded("...", logprob=-1.5)], ""),
    ],
)
def test_which_decoding_counts(at_each: list[Decoded], text: str) -> None:
    by_temperature = {i / 10: decoded for i, decoded in enumerate(at_each)}
    found = transcribe(
        Scripted(by_temperature),  # type: ignore[arg-type]
        np.full(RATE, 0.5, np.float32),
        [Span(0, RATE)],
        DecodeOptions("en"),
        temperatures=tuple(by_temperature),
    )
    assert [item.delta for item in found if isinstance(item, Segment)] == [text] * bool(text)


@pytest.mark.slow
@pytest.mark.parametrize("n_times", [3, 5])
def test_a_sentence_said_several_times(assistant: Assistant, n_times: int) -> None:
    said = np.concatenate([clip(1), np.zeros(RATE // 2, np.float32)] * n_times)
    words = normalized_words(ask(assistant, wav(said)).text)
    assert words.count("young") == words.count("man") == n_times


@pytest.mark.slow
@pytest.mark.parametrize("command", ["no", "open the gate"])
def test_a_command_said_eight_times(assistant: Assistant, command: str) -> None:
    once = np.concatenate([resampled(spoken(command, "en-us")), np.zeros(4 * RATE // 10)])
    assert normalized_words(ask(assistant, wav(np.tile(once, 8))).text)


@pytest.mark.slow
def test_a_command_said_five_times_is_counted(assistant: Assistant) -> None:
    once = np.concatenate([resampled(spoken("I want to go home", "en-us")), np.zeros(RATE)])
    assert normalized_words(ask(assistant, wav(np.tile(once, 5))).text) == ["i", "want", "to", "go", "home"] * 5
