"""The receipt of a correction promises what the next transcript of the recording shows, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from smallai_assistant import AudioPart, errors
from smallai_speech.receipt import Changes, receipt

LEARNED = Changes(learned=(("Kelmatrin", "kelma tren"), ("Quandrel", "")))


def corrected(*parts: AudioPart) -> Any:
    """What the receipt needs of a judged turn."""
    return SimpleNamespace(turn=SimpleNamespace(request=SimpleNamespace(parts=parts)), feedback=SimpleNamespace(id="f"))


RECORDING = corrected(AudioPart(data=b"x"))


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (
            "Ask Kelmatrin or Quandrel.",
            "From now on “Kelmatrin” (heard as “kelma tren”) and “Quandrel” will be recognized in this recording.",
        ),
        (
            "Ask Kelmatrin or one rule.",
            "From now on “Kelmatrin” (heard as “kelma tren”) will be recognized in this recording. "
            "“Quandrel” is stored, but not recognized in this recording yet: that needs training.",
        ),
        (
            "",
            "“Kelmatrin” (heard as “kelma tren”) and “Quandrel” are stored, but not recognized in this recording yet: "
            "that needs training.",
        ),
    ],
)
def test_only_what_came_out_is_promised(heard: str, said: str) -> None:
    assert receipt(LEARNED, RECORDING, lambda _recording: heard) == said


@pytest.mark.parametrize("error", [errors.InputTooLarge("too long"), errors.OutOfMemory("none left")])
def test_what_cannot_be_tried_is_not_promised(error: Exception) -> None:
    def fails(_recording: AudioPart) -> str:
        raise error

    assert receipt(LEARNED, RECORDING, fails).endswith("are stored; whether it is recognized was not tried.")


def test_without_a_recording_nothing_is_promised() -> None:
    said = receipt(LEARNED, corrected(), lambda _recording: pytest.fail("nothing to transcribe"))
    assert "From now on" not in said


def test_a_freed_word_is_said_unless_it_came_back() -> None:
    freed = Changes(freed=(("carbon", "Cobrant"),))
    assert receipt(freed, RECORDING, lambda _recording: "carbon") == "“carbon” is no longer taken for “Cobrant”."
    assert receipt(freed, RECORDING, lambda _recording: "Cobrant") == ""


def test_nothing_learned_tries_nothing() -> None:
    assert receipt(Changes(), RECORDING, lambda _recording: pytest.fail("nothing to try")) == ""
