"""The text is that of whisper's own `transcribe`, as long as there is speech and no long pause."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from support.speech import NOISE, RATE, ask, clip, lease, resampled, wav

from bench.data import cards, spoken
from smallai_assistant import Assistant


def commands() -> dict[str, np.ndarray]:
    texts = ("open the door", "volume up", "call my brother")
    said = {text: resampled(spoken(text, "en-gb")) for text in texts}
    return said | {path.stem: soundfile.read(path)[0] for path, _ in cards()}


def a_minute() -> np.ndarray:
    """Sentences with pauses of half a second to two, over a faint noise."""
    order = (0, 4, 2, 1, 3, 0, 2, 3, 4, 1)
    parts = [part for i in order for part in (clip(i), np.zeros((1 + i % 4) * RATE // 2, np.float32))]
    sound = np.concatenate(parts)
    return sound + 5e-4 * np.resize(NOISE, len(sound))


def by_whisper(assistant: Assistant, samples: np.ndarray) -> str:
    with lease(assistant) as model:
        found = model.call(
            lambda: model.network.transcribe(
                samples.astype(np.float32), beam_size=5, temperature=0.0, language="en", fp16=False
            )
        )
    return " ".join(str(found["text"]).split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["open the door", "volume up", "call my brother", "001", "002", "003", "004", "005"])
def test_a_command_is_heard_as_by_whisper(assistant: Assistant, name: str) -> None:
    samples = commands()[name].astype(np.float32)
    assert ask(assistant, wav(samples), temperatures=(0.0,)).text == by_whisper(assistant, samples)


@pytest.mark.slow
def test_a_minute_is_heard_as_by_whisper(assistant: Assistant) -> None:
    samples = a_minute().astype(np.float32)
    assert ask(assistant, wav(samples), temperatures=(0.0,)).text == by_whisper(assistant, samples)
