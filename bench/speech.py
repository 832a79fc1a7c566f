"""Speech: errors and speed on five LibriVox sentences, beside bare whisper in the same run: `python -m bench.speech`.

It prints the word error rate of the plugin and of `whisper.transcribe` with the same model, beam and threads, the
real-time factor (seconds of work for a second of sound), the speed relative to bare whisper, and the text of white
noise. The two take turns, and on a CPU the seconds are those of the processor: other programs on the machine then
disturb less. The clips are also joined, with pauses of up to six seconds, to a recording longer than one window.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
from whisper.normalizers import EnglishTextNormalizer

from bench.data import librivox
from smallai_assistant import Assistant, AudioPart, ModelSpec, SegmentPart
from smallai_assistant.config import load_config
from smallai_speech import SpeechModel

MAX_WER = 0.043  # what bare whisper has on these clips, rounded up
TASK = "automatic-speech-recognition"
N_JOINED = 15  # clips: some two minutes, so five windows
_normalize = EnglishTextNormalizer()


def word_error_rate(references: Sequence[str], texts: Sequence[str]) -> float:
    """Errors over reference words, after whisper's own normalization of spelling and punctuation."""
    return float(jiwer.wer([_normalize(reference) for reference in references], [_normalize(text) for text in texts]))


def joined(clips: Sequence[tuple[np.ndarray, str]]) -> tuple[np.ndarray, str]:
    """Joins clips in a seeded order, with pauses between and a faint noise, and their texts in the same order."""
    chosen, noise = random.Random(0), np.random.default_rng(0)
    sound: list[np.ndarray] = []
    words: list[str] = []
    for _ in range(N_JOINED):
        samples, text = chosen.choice(clips)
        sound += [np.zeros(round(16_000 * chosen.uniform(0.3, 6)), np.float32), samples]
        words.append(text)
    whole = np.concatenate(sound)
    return (whole + noise.normal(0, 5e-4, len(whole))).astype(np.float32), " ".join(words)


def wav(samples: np.ndarray) -> bytes:
    """A 16-bit WAV file of 16 kHz samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV")
    return file.getvalue()


def clock(device: str) -> Callable[[], float]:
    """A clock that counts the processor's seconds if it does the work, else the seconds that pass."""
    return time.process_time if device == "cpu" else time.perf_counter


def in_turn(
    functions: Sequence[Callable[[np.ndarray], str]], recordings: Sequence[np.ndarray], now: Callable[[], float]
) -> list[tuple[list[str], float]]:
    """Runs the functions in turn over the recordings.

    Returns:
        For each function its texts, and the seconds of work for a second of sound, the better of two rounds.
    """
    texts: list[list[str]] = [[] for _ in functions]
    seconds = np.full((len(functions), len(recordings)), np.inf)
    for _ in range(2):
        for text in texts:
            text.clear()
        for j, recording in enumerate(recordings):
            for i, function in enumerate(functions):
                begun = now()
                texts[i].append(function(recording))
                seconds[i, j] = min(seconds[i, j], now() - begun)
    n_samples = sum(len(recording) for recording in recordings)
    return [
        (of_function, float(spent.sum()) * 16_000 / n_samples)
        for of_function, spent in zip(texts, seconds, strict=True)
    ]


def measure(assistant: Assistant) -> dict[str, Any]:
    """The figures, on the configured speech model."""
    clips = [(soundfile.read(path, dtype="float32")[0], text) for path, text in librivox()]
    sounds, references = [samples for samples, _ in clips], [text for _, text in clips]
    long_sound, long_reference = joined(clips)
    noise = np.random.default_rng(1).normal(0, 0.1, 160_000).astype(np.float32)

    def ours(samples: np.ndarray) -> str:
        return assistant.ask(AudioPart(data=wav(samples)), task=TASK).text

    with assistant.models.lease(ModelSpec(assistant.config.models.speech, task=TASK), SpeechModel) as model:

        def bare(samples: np.ndarray) -> str:
            return str(model.network.transcribe(samples, beam_size=5, language="en", fp16=False)["text"])

        ours(sounds[0])  # the first run also loads what later ones find loaded
        now = clock(model.device)
        (texts, factor), (bare_texts, bare_factor) = in_turn([ours, bare], sounds, now)
        ((long_text,), long_factor), ((bare_long_text,), bare_long_factor) = in_turn([ours, bare], [long_sound], now)
    answer = assistant.ask(AudioPart(data=wav(noise)), task=TASK)
    return {
        "wer": round(word_error_rate(references, texts), 4),
        "bare_wer": round(word_error_rate(references, bare_texts), 4),
        "real_time_factor": round(factor, 3),
        "speed_of_bare": round(bare_factor / factor, 2),
        "long_s": round(len(long_sound) / 16_000, 1),
        "long_wer": round(word_error_rate([long_reference], [long_text]), 4),
        "bare_long_wer": round(word_error_rate([long_reference], [bare_long_text]), 4),
        "long_real_time_factor": round(long_factor, 3),
        "long_speed_of_bare": round(bare_long_factor / long_factor, 2),
        "noise_text": answer.text,
        "noise_segments": sum(isinstance(part, SegmentPart) for part in answer.parts),
    }


def main() -> None:
    """Prints the table and the JSON line. Exits with 1 if a figure is missed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant(load_config(data_dir=Path(folder) / "data")) as assistant,
    ):
        figures = measure(assistant)
    print(f"{'':34} plugin   bare whisper")
    print(f"{'five sentences, WER':34} {figures['wer']:6.2%}   {figures['bare_wer']:6.2%}   (at most {MAX_WER:.1%})")
    print(f"{'  seconds of work a second':34} {figures['real_time_factor']:6.3f}   speed {figures['speed_of_bare']} x")
    print(f"{'joined with pauses, WER':34} {figures['long_wer']:6.2%}   {figures['bare_long_wer']:6.2%}")
    print(
        f"{'  seconds of work a second':34} {figures['long_real_time_factor']:6.3f}"
        f"   speed {figures['long_speed_of_bare']} x"
    )
    print(f"{'white noise':34} {figures['noise_text']!r}")
    print(json.dumps({"bench": "speech", **figures}))
    if figures["wer"] > MAX_WER or figures["noise_text"] or figures["noise_segments"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
