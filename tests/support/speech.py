"""Recordings for the tests of speech, and short ways to ask about them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench.data import librivox
from smallai_assistant import Assistant, AudioPart, Example, ModelSpec, Response, Training
from smallai_speech import SpeechModel, SpeechRecognition
from smallai_speech.engine import TASK
from smallai_speech.examples import SpeechPayload
from smallai_speech.memory import TranscriptPair
from smallai_speech.vocabulary import Entry, Vocabulary

RATE = 16_000
T = np.arange(10 * RATE) / RATE  # ten seconds
NOISE = np.random.default_rng(0).normal(0, 1, len(T))


def clip(index: int) -> np.ndarray:
    """One of five read sentences, float32, mono, 16 kHz."""
    return soundfile.read(librivox()[index][0], dtype="float32")[0]


def wav(samples: np.ndarray) -> AudioPart:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return AudioPart(data=file.getvalue())


def resampled(data: bytes) -> np.ndarray:
    """A recording at 16 kHz, by straight lines between its samples."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return np.interp(np.arange(len(samples) * RATE // rate) * rate / RATE, np.arange(len(samples)), samples)


def normalized_words(text: str) -> list[str]:
    """Words without differences of case and punctuation."""
    from whisper.normalizers import EnglishTextNormalizer

    return EnglishTextNormalizer()(text).split()


def colored(exponent: float) -> np.ndarray:
    """Noise whose power falls with the frequency to `exponent`."""
    hz = np.maximum(np.fft.rfftfreq(len(T), 1 / RATE), 1.0)
    noise = np.fft.irfft(np.fft.rfft(NOISE) * hz ** (-exponent / 2))
    return 0.5 * noise / np.abs(noise).max()


def melody() -> np.ndarray:
    """Four plucked notes a second, with harmonics."""
    out = np.zeros(len(T) + RATE)
    for i, step in enumerate(np.random.default_rng(2).choice([0, 2, 4, 7, 9, 12], 40)):
        hz = 330 * 2 ** (step / 12)
        note = sum(np.sin(2 * np.pi * hz * k * T[:RATE]) / k**1.5 for k in (1, 2, 3, 4))
        out[i * RATE // 4 : i * RATE // 4 + RATE] += note * np.exp(-3 * T[:RATE])
    return 0.2 * out[: len(T)]


HUM = sum(0.1 / k * np.sin(2 * np.pi * 50 * k * T) for k in (1, 2, 3, 5))
# Ten seconds each, float64, level in [-1, 1] as in a recording.
NO_SPEECH = {
    "silence": 0 * T,
    "direct current": 0 * T + 0.3,
    "white noise": 0.1 * NOISE,
    "loud white noise": 0.5 * NOISE,
    "faint white noise": 1e-4 * NOISE,
    "rounding noise": np.round(0.6 * NOISE) / 32_768,  # of a 16-bit recorder in a silent room
    "pink noise": colored(1),
    "brown noise": colored(2),
    "noise bursts": 0.1 * NOISE * (T % 1 < 0.2),
    "pulsing noise": 0.1 * NOISE * (1 + np.sin(2 * np.pi * 4 * T)),
    "hum": HUM,
    "hum over noise": HUM + 1e-3 * NOISE,
    "hum that begins": HUM * (T > 5),
    "a tone": 0.3 * np.sin(2 * np.pi * 1_000 * T),
    "beeps": 0.3 * np.sin(2 * np.pi * 800 * T) * (T % 1 < 0.2),
    "a dial tone": 0.2 * (np.sin(2 * np.pi * 350 * T) + np.sin(2 * np.pi * 440 * T)),
    "clicks": 0.8 * (np.abs(NOISE) > 3.8),
    "a melody": melody(),
}

# Invented words and what each was misheard as by the starter model.
JARGON = Vocabulary(
    tuple(
        Entry(word, heard)
        for word, heard in {
            "Zorvex": ("more next",), "Kelmatrin": ("kelma tren",), "Quandrel": ("one rule",), "Merovane": ("my main",),
            "Brixolume": ("rick saloon",), "Cobrant": ("carbon",), "Nexaphor": ("next effort",), "Trastoken": (),
            "Wistrel": ("this tool", "wisdom"), "Drumpfel": ("trump for",), "Osquith": ("us with",), "Hexalite": (),
            "PyFormat": ("by format",), "Objekt": ("object",), "Klaas": ("class",), "Methodiq": ("method",),
        }.items()
    )
)  # fmt: skip


def ask(assistant: Assistant, *content: Any, **options: Any) -> Response:
    """The finished answer to one message."""
    response = assistant.ask(list(content), task=TASK, options=options)
    _ = response.text
    return response


def codes(response: Response) -> list[str]:
    """Codes of the task's notices; the host adds others, about the device and plugins."""
    ours = {"no_speech", "speech_unclear", "prompt_truncated", "audio_truncated", "audio_damaged"}
    return [notice.code for notice in response.notices if notice.code in ours]


def speech_task(assistant: Assistant) -> SpeechRecognition:
    task = assistant.tasks[TASK]
    assert isinstance(task, SpeechRecognition)
    return task


def speech_spec(assistant: Assistant) -> ModelSpec:
    return ModelSpec(assistant.config.models.speech, task=TASK)


def lease(assistant: Assistant) -> Any:
    """The configured speech model, leased."""
    return assistant.models.lease(speech_spec(assistant), SpeechModel)


def speech_example(data: bytes, heard: str, right: str, *, is_praised: bool = False) -> Example:
    """One recording to train on or to judge by."""
    payload = SpeechPayload(AudioPart(data=data), TranscriptPair(heard, right), is_praised)
    return Example(right, right, right, right, ("f",), payload)


def speech_training(assistant: Assistant, examples: Sequence[Example], folder: Path, **changes: Any) -> Training:
    """A training of the examples that writes into `folder`."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    made = Training(
        examples=examples,
        replay=(),
        folder=folder / "out",
        work_folder=folder / "work",
        parent=None,
        models=assistant.models,
    )
    return replace(made, **changes)
