"""Voice activity: Silero's detector, which the plugin uses, beside its former one: `python -m bench.vad [--quick]`.

Measured are the share of speech that lies outside the spans found, the share of other sound that lies inside them, the
processor's seconds for an hour of sound, and the word error rate of the whole pipeline with either detector, beside
`whisper.transcribe`, which has none. `--quick` leaves out the word error rates and the hours.

If onnxruntime is installed (it is not a dependency of the project), the original network, an ONNX file from the wheel
of faster-whisper, is run too, and the largest difference of its probabilities is printed.

Reference: a frame holds speech if its level in the undisturbed recording is at most 30 dB below the recording's loud
frames (95th percentile). Sound within 0.6 s of speech is not counted as other sound, since both detectors add half a
second of margin on purpose.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data import cards, librivox, silero_vad, spoken
from bench.pitch_vad import pitched_frames
from bench.speech import joined, word_error_rate
from smallai_assistant import Assistant, ModelSpec
from smallai_assistant.config import load_config
from smallai_speech import SpeechModel, SpeechOptions
from smallai_speech.decode import SAMPLE_RATE, decode_audio
from smallai_speech.silero import CHUNK, speech_probabilities
from smallai_speech.transcribe import Segment, transcribe
from smallai_speech.vad import FRAME, HOP, Activity, n_frames_of, voiced_frames
from smallai_speech.window import DecodeOptions

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Detector = Callable[[FloatArray], BoolArray]  # samples to one flag for each frame of `Activity`
Clip = tuple[FloatArray, str]

TASK = "automatic-speech-recognition"
PAUSE_S = 3.0
BELOW_LOUD_DB = 30.0
MARGIN_S = 0.6
SNRS_DB = (20, 10, 5, 0)
DETECTORS: dict[str, Detector] = {"silero": voiced_frames, "pitch": pitched_frames}
MINUTE, HOUR = 60 * SAMPLE_RATE, 3600 * SAMPLE_RATE
SPOKEN = (
    ("She asked me a question about the garden this morning.", "en-us"),
    ("We had a long meeting about the budget yesterday afternoon.", "en-gb+f2"),
    ("Put the red box on the table, please.", "en-us+m3"),
    ("Yes.", "en-gb"),
    ("My brother wrote a letter to the doctor last summer.", "en-us+f3"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A recording whose speech is known.

    Attributes:
        samples: float32, shape (n_samples,), mono, 16 kHz.
        is_speech: bool, shape (n_frames,).
    """

    name: str
    samples: FloatArray
    is_speech: BoolArray


# -- sounds --


def clips_of(rows: Sequence[tuple[Path, str]]) -> list[Clip]:
    """Files and their texts, decoded."""
    return [(decode_audio(path.read_bytes(), max_duration_s=60).samples, text) for path, text in rows]


def spoken_clips() -> list[Clip]:
    """Sentences in voices of espeak-ng."""
    return [(decode_audio(spoken(text, voice), max_duration_s=60).samples, text) for text, voice in SPOKEN]


def white(n_samples: int) -> FloatArray:
    """White noise of level 1."""
    return np.random.default_rng(1).standard_normal(n_samples, np.float32)


def pink(n_samples: int) -> FloatArray:
    """Pink noise of level 1: a minute of it over and over, for one Fourier transform of an hour takes gigabytes."""
    n = min(n_samples, MINUTE)
    hz = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20.0)
    noise = np.fft.irfft(np.fft.rfft(white(n)) / np.sqrt(hz), n)
    return np.resize((noise / noise.std()).astype(np.float32), n_samples)


def hum(n_samples: int) -> FloatArray:
    """Mains hum of level 1 with its harmonics, over a faint noise."""
    t = np.arange(min(n_samples, MINUTE)) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5))
    return np.resize((tones / np.std(tones)).astype(np.float32), n_samples) + 0.003 * white(n_samples)


def music(n_samples: int) -> FloatArray:
    """A seeded melody over chords, level 1: plucked notes with harmonics, four a second."""
    draw = np.random.default_rng(2)
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    out = np.zeros(min(n_samples, MINUTE) + SAMPLE_RATE)
    for i, start in enumerate(range(0, len(out) - SAMPLE_RATE, SAMPLE_RATE // 4)):
        chord = (0, 4, 7) if i % 8 == 0 else ()
        for step in (*(int(draw.choice([12, 14, 16, 19, 21, 24])),), *chord):
            hz = 220 * 2 ** (step / 12)
            note = sum(np.sin(2 * np.pi * hz * k * t) / k**1.5 for k in (1, 2, 3, 4))
            out[start : start + SAMPLE_RATE] += note * np.exp(-3 * t)
    out = out[: min(n_samples, MINUTE)]
    return np.resize((out / out.std()).astype(np.float32), n_samples)


def vibrato(n_samples: int) -> FloatArray:
    """One held note of a violin's or a singer's kind, level 1: harmonics, five swings a second."""
    t = np.arange(n_samples) / SAMPLE_RATE
    phase = 2 * np.pi * 330 * t - 2.0 * np.cos(2 * np.pi * 5 * t)
    tone = sum(np.sin(k * phase) / k for k in range(1, 8))
    return np.asarray(tone / np.std(tone), np.float32)


NOISES = {"white": white, "pink": pink, "hum": hum, "music": music}


def other_sounds(n_samples: int) -> dict[str, FloatArray]:
    """Sounds in which nobody speaks."""
    t = np.arange(n_samples) / SAMPLE_RATE
    return {
        "silence": np.zeros(n_samples, np.float32),
        "white noise": 0.1 * white(n_samples),
        "faint white noise": 1e-4 * white(n_samples),
        "pink noise": 0.1 * pink(n_samples),
        "hum": 0.1 * hum(n_samples),
        "noise bursts": (0.1 * white(n_samples) * (t % 1 < 0.2)).astype(np.float32),
        "pulsing noise": (0.05 * white(n_samples) * (1 + np.sin(2 * np.pi * 4 * t))).astype(np.float32),
        "clicks": (0.8 * (np.abs(white(n_samples)) > 3.8)).astype(np.float32),
        "beeps": (0.3 * np.sin(2 * np.pi * 800 * t) * (t % 1 < 0.2)).astype(np.float32),
        "siren": (0.3 * np.sin(2 * np.pi * 700 * t - 100 * np.cos(np.pi * t))).astype(np.float32),
        "vibrato": 0.1 * vibrato(n_samples),
        "music": 0.1 * music(n_samples),
    }


# -- scenes --


def scene_of(name: str, clips: Sequence[Clip], noise: Callable[[int], FloatArray] = white, snr_db: float = 60) -> Scene:
    """The clips with pauses of three seconds before, between and after them, over a noise.

    Args:
        snr_db: level of the clips over that of the noise.
    """
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    sound = [pause]
    for samples, _ in clips:
        sound += [samples / samples.std() * np.float32(0.05), pause]
    clean = np.concatenate(sound)
    noisy = clean + noise(len(clean)) * np.float32(0.05 * 10 ** (-snr_db / 20))
    is_speech = reference_at(sound, n_frames_of(len(clean)))
    return Scene(name, noisy, is_speech)


def reference(samples: FloatArray) -> BoolArray:
    """The frames of an undisturbed recording that hold speech."""
    framed = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    level_db = 10 * np.log10((framed.astype(np.float64) ** 2).mean(axis=1) + 1e-12)
    return np.asarray(level_db > np.percentile(level_db, 95) - BELOW_LOUD_DB, np.bool_)


def reference_at(sound: Sequence[FloatArray], n_frames: int) -> BoolArray:
    """The frames that hold speech in pauses and clips, which take turns."""
    is_speech = np.zeros(n_frames, np.bool_)
    start = 0
    for i, part in enumerate(sound):
        if i % 2:
            frames = np.flatnonzero(reference(part)) + round(start / HOP)
            is_speech[frames[frames < n_frames]] = True
        start += len(part)
    return is_speech


def speech_scenes() -> Iterator[Scene]:
    """Speech of three sources: undisturbed, quiet, and over four noises."""
    sources = {"LibriVox": clips_of(librivox()), "cards": clips_of(cards()), "espeak-ng": spoken_clips()}
    for source, clips in sources.items():
        clean = scene_of(f"{source}, undisturbed", clips)
        yield clean
        yield Scene(f"{source}, 40 dB quieter", clean.samples * np.float32(0.01), clean.is_speech)
    for noise, make in NOISES.items():
        for snr_db in SNRS_DB:
            scenes = [scene_of(source, clips, make, snr_db) for source, clips in sources.items()]
            samples = np.concatenate([scene.samples[: len(scene.is_speech) * HOP] for scene in scenes])
            is_speech = np.concatenate([scene.is_speech for scene in scenes])
            yield Scene(f"all, {noise} at {snr_db} dB", samples, is_speech)


def shares(scene: Scene, activity: Activity) -> tuple[float, float]:
    """The share of speech frames outside the spans, and of other frames inside them."""
    n_frames = len(scene.is_speech)
    is_inside = np.zeros(n_frames, np.bool_)
    for span in activity.spans:
        is_inside[span.start // HOP : max(span.end - FRAME, 0) // HOP + 1] = True
    reach = round(MARGIN_S * SAMPLE_RATE / HOP)
    is_near = np.convolve(scene.is_speech, np.ones(2 * reach + 1), "same") > 0.5
    missed = float((~is_inside[scene.is_speech]).mean()) if scene.is_speech.any() else 0.0
    taken = float(is_inside[~is_near].mean()) if (~is_near).any() else 0.0
    return missed, taken


# -- measurements --


def measure_frames() -> list[dict[str, Any]]:
    """Shares of speech missed and of other sound taken for speech, for each scene and detector."""
    rows = []
    silent = np.zeros(n_frames_of(MINUTE), np.bool_)
    others = [Scene(name, sound, silent) for name, sound in other_sounds(MINUTE).items()]
    for scene in [*speech_scenes(), *others]:
        row: dict[str, Any] = {"scene": scene.name}
        for name, detector in DETECTORS.items():
            activity = Activity(scene.samples, is_voiced=detector(scene.samples))
            row[name] = [round(share, 4) for share in shares(scene, activity)]
        rows.append(row)
        print(
            f"{scene.name:32} " + "   ".join(f"{name} {row[name][0]:6.1%} {row[name][1]:6.1%}" for name in DETECTORS),
            flush=True,
        )
    return rows


def measure_hours() -> list[dict[str, Any]]:
    """Seconds of speech found in an hour without any, and the processor's seconds for it."""
    rows = []
    sounds: dict[str, Callable[[int], FloatArray]] = {
        "silence": lambda n: np.zeros(n, np.float32), "white noise": white, "pink noise": pink, "hum": hum,
        "music": music,
    }  # fmt: skip
    for sound, make in sounds.items():
        samples = np.float32(0.1) * make(HOUR)
        row: dict[str, Any] = {"sound": sound}
        for name, detector in DETECTORS.items():
            begun = time.process_time()
            is_voiced = detector(samples)
            cpu_s = time.process_time() - begun
            found_s = sum(span.n_samples for span in Activity(samples, is_voiced=is_voiced).spans) / SAMPLE_RATE
            row[name] = {"found_s": round(found_s, 1), "cpu_s": round(cpu_s, 1)}
            print(f"an hour of {sound:21} {name}: {found_s:7.1f} s of speech, {cpu_s:5.1f} s of work", flush=True)
        rows.append(row)
    return rows


def recordings() -> dict[str, list[Clip]]:
    """Sets of recordings with their texts, and other sounds, whose text is empty."""
    read, short = clips_of(librivox()), clips_of(cards())
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    in_noise = {
        f"LibriVox, {name} at {snr_db} dB": [
            ((samples + make(len(samples)) * samples.std() * 10 ** (-snr_db / 20)).astype(np.float32), text)
            for samples, text in read
        ]
        for name, make in NOISES.items()
        for snr_db in (10, 0)
    }
    return {
        "LibriVox": read,
        "short (cards)": short,
        "espeak-ng": spoken_clips(),
        "long, joined with pauses": [joined(read)],
        "one sentence 12 times": [(np.tile(np.concatenate([read[4][0], pause]), 12), " ".join([read[4][1]] * 12))],
        "LibriVox, 40 dB quieter": [(samples * np.float32(0.01), text) for samples, text in read],
        **in_noise,
        **{name: [(sound, "")] for name, sound in other_sounds(MINUTE).items()},
    }


def measure_words() -> list[dict[str, Any]]:
    """Word error rates of the pipeline with each detector and of whisper alone; if nothing is said, words written."""
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant(load_config(data_dir=Path(folder) / "data")) as assistant,
        assistant.models.lease(ModelSpec(assistant.config.models.speech, task=TASK), SpeechModel) as model,
    ):

        def bare(samples: FloatArray) -> str:
            return str(model.network.transcribe(samples, beam_size=5, language="en", fp16=False)["text"])

        ways = {name: with_detector(model, detector) for name, detector in DETECTORS.items()} | {"whisper alone": bare}
        for name, clips in recordings().items():
            row: dict[str, Any] = {"recordings": name}
            references = [text for _, text in clips]
            for way, transcribe_samples in ways.items():
                texts = [transcribe_samples(samples) for samples, _ in clips]
                n_words = sum(len(text.split()) for text in texts)
                row[way] = round(word_error_rate(references, texts), 4) if references[0] else n_words
            figures = (f"{row[way]:.2%}" if references[0] else f"{row[way]} words" for way in ways)
            print(f"{name:32} " + "   ".join(f"{w}: {f}" for w, f in zip(ways, figures, strict=True)), flush=True)
            rows.append(row)
    return rows


def with_detector(model: SpeechModel, detector: Detector) -> Callable[[FloatArray], str]:
    """A function from samples to the plugin's transcript, with the speech that `detector` finds."""
    options, temperatures = DecodeOptions("en"), SpeechOptions().temperatures

    def transcribe_samples(samples: FloatArray) -> str:
        activity = Activity(samples, is_voiced=detector(samples))
        items = transcribe(model, samples, activity.clips(), options, temperatures=temperatures, activity=activity)
        return "".join(item.delta for item in items if isinstance(item, Segment))

    return transcribe_samples


def difference_from_original() -> float | None:
    """The largest difference of a probability from that of the original network; None without onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(silero_vad()), providers=["CPUExecutionProvider"])
    samples = scene_of("", clips_of(librivox()), white, 5).samples
    samples = samples[: len(samples) // CHUNK * CHUNK]
    chunks = samples.reshape(-1, CHUNK)
    before = np.concatenate([np.zeros((1, 64), np.float32), chunks[:-1, -64:]])  # each chunk with 4 ms before it
    state = np.zeros((1, 1, 128), np.float32)
    inputs = {"input": np.concatenate([before, chunks], axis=1), "h": state, "c": state}
    theirs, *_ = session.run(None, inputs)
    return float(np.abs(theirs.reshape(-1) - speech_probabilities(samples)).max())


def main() -> None:
    """Prints the tables and the JSON line."""
    parser = argparse.ArgumentParser(description="Compares voice activity detectors.")
    parser.add_argument("--quick", action="store_true", help="leave out the word error rates and the hours")
    is_quick = parser.parse_args().quick
    difference = difference_from_original()
    print(f"largest difference from the original network: {difference if difference is not None else 'not measured'}")
    print(f"{'':32} speech missed, other sound taken for speech")
    result: dict[str, Any] = {"bench": "vad", "difference": difference, "frames": measure_frames()}
    if not is_quick:
        result |= {"hours": measure_hours(), "words": measure_words()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
