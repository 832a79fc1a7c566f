"""Channels become one, and opposite channels do not cancel each other."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from smallai_speech.decode import decode_audio
from smallai_speech.mixing import Mixer

RATE = 16_000
random = np.random.default_rng(0)
# Noise whose level swells and falls like syllables.
VOICE = (random.normal(0, 0.1, 3 * RATE) * np.abs(np.sin(np.arange(3 * RATE) / RATE * 8))).astype(np.float32)
OTHER = np.roll(VOICE, RATE)


def mixed(*channels: np.ndarray, step: int = 1_000) -> tuple[np.ndarray, Mixer]:
    block = np.stack(channels, axis=1).astype(np.float32)
    mixer = Mixer(RATE)
    return np.concatenate([mixer.push(block[i : i + step]) for i in range(0, len(block), step)]), mixer


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) / float(np.sqrt(np.mean(np.square(VOICE))))


@pytest.mark.parametrize("step", [100, 1_000, 8_192])
def test_an_opposite_channel_is_turned_round(step: int) -> None:
    samples, mixer = mixed(VOICE, -VOICE, step=step)
    assert np.abs(samples - VOICE).max() < 1e-6
    assert mixer.is_turned


@pytest.mark.parametrize(
    "channels",
    [
        (VOICE, -0.5 * VOICE),
        (VOICE, -VOICE + random.normal(0, 0.01, len(VOICE))),
        (VOICE, np.where(np.arange(len(VOICE)) < 24_000, VOICE, -VOICE)),
        (VOICE, VOICE, -VOICE),
        (VOICE, -np.roll(VOICE, 0), 0 * VOICE, 0 * VOICE, 0 * VOICE, 0 * VOICE),
    ],
    ids=["quieter", "noise", "from the middle", "one of three", "two of six"],
)
def test_little_is_lost_of_opposite_channels(channels: tuple[np.ndarray, ...]) -> None:
    samples, mixer = mixed(*channels)
    assert level(samples) > 0.6 * sum(map(level, channels)) / len(channels)
    assert mixer.is_turned


@pytest.mark.parametrize(
    "channels",
    [(VOICE,), (VOICE, VOICE), (VOICE, 0 * VOICE), (VOICE, OTHER), (VOICE, np.roll(VOICE, 8)), (0 * VOICE, 0 * VOICE)],
    ids=["mono", "same", "left only", "two speakers", "late by half a millisecond", "silence"],
)
def test_other_channels_are_averaged(channels: tuple[np.ndarray, ...]) -> None:
    samples, mixer = mixed(*channels)
    assert (samples == np.stack(channels, axis=1).astype(np.float32).mean(axis=1, dtype=np.float32)).all()
    assert not mixer.is_turned


def test_samples_that_are_not_finite_stay_so() -> None:
    samples, _ = mixed(np.full(100, np.inf), np.full(100, np.nan))
    assert not np.isfinite(samples).any()


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS")])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_file_with_opposite_channels_is_heard(format: str, subtype: str | None, rate: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.stack([VOICE, -VOICE], axis=1), rate, format=format, subtype=subtype)
    recording = decode_audio(file.getvalue(), max_duration_s=60.0)
    assert level(recording.samples) > 0.5
    assert [notice.code for notice in recording.notices] == ["audio_channels_opposite"]
