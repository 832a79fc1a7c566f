"""Speech on six kinds of recordings, beside bare whisper: `python -m bench speech_sets [--half tune] [--hour]`.

Words wrong of our plugin and of `whisper.transcribe` with the same model and beam, on single sentences, long recordings
with pauses, short commands, and words or sentences said three to ten times; and the words written on silence and noise,
a minute of each, or an hour with `--hour`.

There are two halves of other sentences, voices, counts and pauses. A change is chosen by the half `tune`; only the half
`report` (the default) gives figures. `whisper.transcribe` draws at random as soon as a text repeats itself, so it runs
with several seeds and its mean counts; our plugin gives the same text every time.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jiwer
import numpy as np
import numpy.typing as npt
from whisper.normalizers import EnglishTextNormalizer

from bench.data import cards, librivox, spoken
from bench.speech import TASK, wav
from smallai_assistant import Assistant, AudioPart, ModelSpec
from smallai_assistant.config import load_config
from smallai_speech import SpeechModel
from smallai_speech.decode import SAMPLE_RATE, decode_audio

FloatArray = npt.NDArray[np.float32]
Half = Literal["tune", "report"]
Clip = tuple[FloatArray, str]

# Said once in one set, and several times in another. "no", which a guard once lost, is in both halves, in other voices.
COMMANDS: dict[Half, tuple[str, ...]] = {
    "tune": (
        "close the valve", "no", "turn it off", "open the gate", "help", "I want to go home", "read it again please",
        "she is not here today", "yes", "wash the car",
    ),
    "report": (
        "shut the door", "no", "stop", "wait for me", "come back", "please call the doctor", "where is the dog",
        "never mind", "the bus is late again", "left", "bring me the blue book", "lock the garage",
    ),
}  # fmt: skip
VOICES: dict[Half, tuple[str, ...]] = {
    "tune": ("en-us", "en-gb", "en-us+f3"),
    "report": ("en-gb+f2", "en-us+m3", "en-gb-x-rp", "en-us+f1"),
}
# Indexes of LibriVox sentences and of spoken playing cards: few, so the halves share the reader, but no recording. The
# card "five five" is left out: the normalization makes one word of numbers in a row.
SENTENCES: dict[Half, tuple[int, ...]] = {"tune": (1, 4), "report": (0, 2, 3)}
CARDS: dict[Half, tuple[int, ...]] = {"tune": (0, 2), "report": (1, 4)}
SEEDS: dict[Half, tuple[int, ...]] = {"tune": (1, 2), "report": (11, 12)}
N_JOINED = 15  # sentences of a long recording: some two minutes
_normalize = EnglishTextNormalizer()


def _files(rows: Sequence[tuple[Path, str]], chosen: Sequence[int]) -> list[Clip]:
    return [(decode_audio(rows[i][0].read_bytes(), max_duration_s=60).samples, rows[i][1]) for i in chosen]


def _spoken(text: str, voice: str, speed: int = 150) -> FloatArray:
    return decode_audio(spoken(text, voice, words_a_minute=speed), max_duration_s=60).samples


def _pause(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def commands(half: Half) -> list[Clip]:
    """Each command of the half by one of its voices."""
    voices = VOICES[half]
    return [(_spoken(text, voices[i % len(voices)]), text) for i, text in enumerate(COMMANDS[half])]


def long_recordings(half: Half) -> list[Clip]:
    """The half's sentences and cards in a seeded order, with pauses of up to six seconds, over a faint noise."""
    pool = [*_files(librivox(), SENTENCES[half]), *_files(cards(), CARDS[half])]
    found = []
    for seed in SEEDS[half]:
        draw, noise = random.Random(seed), np.random.default_rng(seed)
        chosen = [draw.choice(pool) for _ in range(N_JOINED)]
        sound = np.concatenate([part for clip, _ in chosen for part in (_pause(draw.uniform(0.3, 6)), clip)])
        sound = (sound + noise.normal(0, 5e-4, len(sound))).astype(np.float32)
        found.append((sound, " ".join(text for _, text in chosen)))
    return found


def repeated(half: Half) -> list[Clip]:
    """Each command twice, each sentence and card once: said three to ten times, with pauses of 0.2 to 1.2 s."""
    draw = random.Random(SEEDS[half][0])
    voices = VOICES[half]
    found = []
    for i, text in enumerate(COMMANDS[half]):
        for n_times in (draw.randint(3, 5), draw.randint(6, 10)):
            voice, pause_s = voices[(i + n_times) % len(voices)], draw.uniform(0.2, 1.2)
            # A speaker does not say it twice in the same way.
            said = [_spoken(text, voice, draw.choice((135, 150, 165))) for _ in range(n_times)]
            found.append((_repetition(said, pause_s), " ".join([text] * n_times)))
    for samples, text in (*_files(librivox(), SENTENCES[half]), *_files(cards(), CARDS[half])):
        n_times = draw.randint(3, 6)
        found.append((_repetition([samples] * n_times, draw.uniform(0.2, 1.2)), " ".join([text] * n_times)))
    return found


def _repetition(said: Sequence[FloatArray], pause_s: float) -> FloatArray:
    return np.concatenate([part for once in said for part in (once, _pause(pause_s))])


def speech_sets(half: Half) -> dict[str, list[Clip]]:
    """The sets with speech, by name."""
    return {
        "sentences": [*_files(librivox(), SENTENCES[half]), *_files(cards(), CARDS[half])],
        "long": long_recordings(half),
        "commands": commands(half),
        "repeated": repeated(half),
    }


def sounds_without_speech(half: Half, seconds: int) -> Iterator[tuple[str, FloatArray]]:
    """Silence and noises, made one after the other: an hour of one takes 230 MB."""
    n = seconds * SAMPLE_RATE
    noise = np.random.default_rng(SEEDS[half][0])
    yield "silence", np.zeros(n, np.float32)
    yield "white noise", (0.1 * noise.standard_normal(n, np.float32)).clip(-1, 1)
    yield "faint white noise", 1e-4 * noise.standard_normal(n, np.float32)
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    hum = sum(0.1 / k * np.sin(2 * np.pi * 50 * k * t) for k in (1, 2, 3, 5))
    yield "hum", np.resize(np.asarray(hum, np.float32), n)


def n_wrong(text: str, heard: str) -> tuple[int, int]:
    """Words wrong, and words of the reference, after whisper's own normalization of spelling and punctuation."""
    reference, hypothesis = _normalize(text), _normalize(heard)
    if not reference:
        return len(hypothesis.split()), 0
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions, len(reference.split())


def measure(assistant: Assistant, half: Half, n_seeds: int) -> dict[str, Any]:
    """Words wrong on each set with speech: ours, and the mean, the least and the most of whisper's seeds."""
    figures: dict[str, Any] = {}
    with assistant.models.lease(ModelSpec(assistant.config.models.speech, task=TASK), SpeechModel) as model:
        for name, clips in speech_sets(half).items():
            ours = _wrong(clips, partial(_ours, assistant))
            bare = [_wrong(clips, partial(_bare, model, seed)) for seed in range(n_seeds)]
            n_words = sum(n_wrong(text, "")[1] for _, text in clips)
            mean = sum(map(sum, bare)) / n_seeds
            figures[name] = {
                "recordings": len(clips),
                "words": n_words,
                "wrong": sum(ours),
                "bare_wrong": round(mean, 1),
                "bare_least": min(map(sum, bare)),
                "bare_most": max(map(sum, bare)),
                "wer": round(sum(ours) / n_words, 4),
                "bare_wer": round(mean / n_words, 4),
            }
            print(
                f"{name:20} {sum(ours):4} of {n_words} words wrong ({sum(ours) / n_words:.2%}), whisper {mean:.1f} "
                f"({mean / n_words:.2%}; {min(map(sum, bare))} to {max(map(sum, bare))})",
                flush=True,
            )
    return figures


def _wrong(clips: Sequence[Clip], transcribed: Callable[[FloatArray], str]) -> list[int]:
    return [n_wrong(text, transcribed(samples))[0] for samples, text in clips]


def _ours(assistant: Assistant, samples: FloatArray) -> str:
    return assistant.ask(AudioPart(data=wav(samples)), task=TASK).text


def _bare(model: SpeechModel, seed: int, samples: FloatArray) -> str:
    import torch

    torch.manual_seed(seed)
    return str(model.network.transcribe(samples, beam_size=5, language="en", fp16=False)["text"])


def measure_noise(assistant: Assistant, half: Half, seconds: int) -> dict[str, int]:
    """Words that our plugin writes on sounds in which nobody speaks."""
    written = {}
    for name, samples in sounds_without_speech(half, seconds):
        written[name] = len(_ours(assistant, samples).split())
        print(f"{name:20} {written[name]:4} words in {seconds / 60:.0f} min", flush=True)
    return written


def main() -> None:
    """Prints the table and the JSON line. Exits with 1 if a set is worse than whisper's mean, or noise gives a word."""
    parser = argparse.ArgumentParser(description="Compares the words wrong with those of bare whisper.")
    parser.add_argument("--half", choices=("tune", "report"), default="report", help="default: report")
    parser.add_argument("--seeds", type=int, default=3, help="runs of bare whisper (default: 3)")
    parser.add_argument("--hour", action="store_true", help="an hour of silence and of each noise, not a minute")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant(load_config(data_dir=Path(folder) / "data")) as assistant,
    ):
        sets = measure(assistant, given.half, given.seeds)
        noise = measure_noise(assistant, given.half, 3600 if given.hour else 60)
    print(json.dumps({"bench": "speech_sets", "half": given.half, **sets, "noise_words": sum(noise.values())}))
    if any(of_set["wrong"] > of_set["bare_wrong"] for of_set in sets.values()) or any(noise.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
