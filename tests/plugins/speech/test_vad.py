"""Voice activity: speech is found loud, quiet and in noise, and nothing else is taken for it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.speech import NO_SPEECH, NOISE, RATE, clip

from smallai_speech.silero import CHUNK, speech_probabilities
from smallai_speech.vad import Activity, Span, n_frames_of


@pytest.mark.parametrize("name", NO_SPEECH)
def test_other_sounds_hold_no_speech(name: str) -> None:
    assert Activity(NO_SPEECH[name].astype(np.float32)).spans == ()


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("index", range(5))
def test_speech_is_found_loud_and_quiet(index: int, gain: float) -> None:
    samples = clip(index) * np.float32(gain)
    covered = sum(span.n_samples for span in Activity(samples).spans)
    assert covered >= 0.95 * len(samples)


@pytest.mark.parametrize("snr_db", [10, 0])
@pytest.mark.parametrize("index", range(5))
def test_speech_is_found_in_noise(index: int, snr_db: int) -> None:
    samples = clip(index)
    noisy = samples + NOISE[: len(samples)] * samples.std() * 10 ** (-snr_db / 20)
    covered = sum(span.n_samples for span in Activity(noisy.astype(np.float32)).spans)
    assert covered >= 0.95 * len(samples)


def test_a_long_pause_holds_no_speech() -> None:
    samples = np.concatenate([clip(1), np.zeros(20 * RATE, np.float32), clip(4)])
    samples = samples + 5e-4 * np.resize(NOISE, len(samples))
    first, second = Activity(samples.astype(np.float32)).spans
    assert first.end <= len(clip(1)) + RATE
    assert len(clip(1)) + 19 * RATE <= second.start <= len(clip(1)) + 21 * RATE


@given(pauses=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_clips_hold_all_speech(pauses: list[float]) -> None:
    parts = [part for pause in pauses for part in (np.zeros(int(pause * RATE), np.float32), clip(0))]
    activity = Activity(np.concatenate(parts))
    clips = activity.clips()
    assert all(before.end <= after.start for before, after in pairwise(clips))
    for span in activity.spans:
        assert any(clip.start <= span.start and span.end <= clip.end for clip in clips)


def test_frames_of_another_detector_count() -> None:
    samples = clip(0)
    is_voiced = np.zeros(n_frames_of(len(samples)), np.bool_)
    assert Activity(samples, is_voiced=is_voiced).spans == ()


@pytest.mark.parametrize("n_samples", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_each_chunk_has_a_probability(n_samples: int) -> None:
    found = speech_probabilities(clip(0)[:n_samples])
    assert found.dtype == np.float32
    assert found.shape == (-(-n_samples // CHUNK),)
    assert ((found >= 0) & (found <= 1)).all()


def test_blocks_do_not_change_probabilities(monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    in_blocks = speech_probabilities(clip(0))
    monkeypatch.undo()
    assert in_blocks == pytest.approx(speech_probabilities(clip(0)), abs=1e-5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a third of a second: the real ones are longer than any recording here."""
    monkeypatch.setattr("smallai_speech.silero._BLOCK_CHUNKS", 10)


@pytest.mark.parametrize(("pause_s", "n_clips"), [(2.0, 1), (12.0, 2)])
def test_a_long_pause_begins_a_clip(pause_s: float, n_clips: int) -> None:
    samples = np.concatenate([clip(4), np.zeros(int(pause_s * RATE), np.float32), clip(4)])
    assert len(Activity(samples).clips()) == n_clips


@pytest.mark.parametrize(("pause_s", "is_kept"), [(5.0, True), (12.0, False)])
def test_a_short_pause_at_an_end_is_kept(pause_s: float, is_kept: bool) -> None:
    pause = np.zeros(int(pause_s * RATE), np.float32)
    samples = np.concatenate([pause, clip(4), pause])
    [whole] = Activity(samples).clips()
    assert (whole == Span(0, len(samples))) == is_kept
    assert whole.n_samples < len(clip(4)) + 2 * RATE or is_kept
