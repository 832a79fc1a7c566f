"""Speech becomes text: voice activity, the engine on tiny seeded weights, the task on the real model."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_whisper import make_whisper

from bench.data import librivox
from smallai_assistant import Assistant, AudioPart, InvalidInput, ModelSpec, Response, SegmentPart, TextPart
from smallai_assistant.errors import InputTooLarge, InvalidAudio, ModelInvalid
from smallai_speech import SpeechModel, SpeechOptions, WhisperEngine
from smallai_speech.engine import TASK
from smallai_speech.transcribe import Segment, transcribe
from smallai_speech.vad import Activity, Span
from smallai_speech.window import DecodeOptions, Stopped, cut_at_times

RATE = 16_000
SPEC = ModelSpec("tiny", task=TASK)


def clip(index: int) -> np.ndarray:
    return soundfile.read(librivox()[index][0], dtype="float32")[0]


def wav(samples: np.ndarray) -> AudioPart:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return AudioPart(data=file.getvalue())


def normalized_words(text: str) -> list[str]:
    from whisper.normalizers import EnglishTextNormalizer

    return EnglishTextNormalizer()(text).split()


# -- sounds in which nobody speaks --

T = np.arange(10 * RATE) / RATE
NOISE = np.random.default_rng(0).normal(0, 1, len(T))


def colored(exponent: float) -> np.ndarray:
    """Noise whose power falls with the frequency to `exponent`."""
    hz = np.maximum(np.fft.rfftfreq(len(T), 1 / RATE), 1.0)
    noise = np.fft.irfft(np.fft.rfft(NOISE) * hz ** (-exponent / 2))
    return 0.5 * noise / np.abs(noise).max()


HUM = sum(0.1 / k * np.sin(2 * np.pi * 50 * k * T) for k in (1, 2, 3, 5))
NO_SPEECH = {
    "silence": 0 * T,
    "direct current": 0 * T + 0.3,
    "white noise": 0.1 * NOISE,
    "loud white noise": 0.5 * NOISE,
    "faint white noise": 1e-4 * NOISE,
    "rounding noise": np.round(0.6 * NOISE) / 32_768,
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
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_no_voice_in_what_is_no_speech(name: str) -> None:
    assert Activity(NO_SPEECH[name].astype(np.float32)).spans == ()


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("index", range(5))
def test_speech_is_found_loud_and_quiet(index: int, gain: float) -> None:
    samples = clip(index) * np.float32(gain)
    covered = sum(span.n_samples for span in Activity(samples).spans)
    assert covered >= 0.95 * len(samples)


@pytest.mark.parametrize("index", range(5))
def test_speech_is_found_in_noise_10_db_below(index: int) -> None:
    samples = clip(index)
    noisy = samples + NOISE[: len(samples)] * samples.std() * 10 ** (-10 / 20)
    covered = sum(span.n_samples for span in Activity(noisy.astype(np.float32)).spans)
    assert covered >= 0.95 * len(samples)


def test_only_speech_is_found_in_a_long_pause() -> None:
    samples = np.concatenate([clip(1), np.zeros(20 * RATE, np.float32), clip(4)])
    samples = samples + 5e-4 * np.resize(NOISE, len(samples))
    first, second = Activity(samples.astype(np.float32)).spans
    assert first.end <= len(clip(1)) + RATE
    assert len(clip(1)) + 19 * RATE <= second.start <= len(clip(1)) + 21 * RATE


@given(pauses=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=6), longest_s=st.sampled_from([5.0, 12.0, 30.0]))
@settings(max_examples=15, deadline=None)
def test_windows_hold_all_speech_and_are_never_too_long(pauses: list[float], longest_s: float) -> None:
    parts = [part for pause in pauses for part in (np.zeros(int(pause * RATE), np.float32), clip(0))]
    activity = Activity(np.concatenate(parts))
    windows = activity.windows(longest_s)
    assert all(0 < window.n_samples <= longest_s * RATE for window in windows)
    assert all(before.end <= after.start for before, after in pairwise(windows))
    for span in activity.spans:
        held = sum(max(0, min(span.end, w.end) - max(span.start, w.start)) for w in windows)
        assert held == span.n_samples


def test_a_long_speech_is_cut_in_a_pause() -> None:
    speech, pause = clip(0), np.zeros(RATE // 2, np.float32)
    samples = np.concatenate([speech, pause] * 8) + 1e-4 * np.resize(NOISE, 8 * (len(speech) + len(pause)))
    windows = Activity(samples.astype(np.float32)).windows()
    assert len(windows) >= 2
    for window in windows[:-1]:
        into = window.end % (len(speech) + len(pause))
        assert into > len(speech) - RATE // 4 or into < RATE // 4


# -- the engine, on tiny seeded weights --


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("tiny"))


def load(folder: Path, spec: ModelSpec = SPEC) -> SpeechModel:
    model = WhisperEngine().load(spec, folder, device="cpu", progress=lambda _what, _share: None)
    assert isinstance(model, SpeechModel)
    return model


@pytest.fixture(scope="module")
def tiny_model(tiny: Path) -> Iterator[SpeechModel]:
    model = load(tiny)
    yield model
    model.close()


def test_the_engine_knows_its_files(tiny: Path, tmp_path: Path) -> None:
    engine = WhisperEngine()
    assert engine.can_load(SPEC, tiny)
    assert not engine.can_load(ModelSpec("tiny", task="text-generation"), tiny)
    assert not engine.can_load(SPEC, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    assert not engine.can_load(SPEC, tmp_path)


def test_the_estimate_is_what_is_measured(tiny: Path, tiny_model: SpeechModel) -> None:
    assert WhisperEngine().estimate_bytes(SPEC, tiny) == pytest.approx(tiny_model.n_bytes, rel=0.25)


def test_a_window_is_at_most_30_s(tiny_model: SpeechModel) -> None:
    for n_samples in (0, 30 * RATE + 1):
        with pytest.raises(ValueError, match="a window has"):
            tiny_model.decode(np.zeros(n_samples, np.float32), DecodeOptions("en"))


def test_sampling_is_repeatable(tiny_model: SpeechModel) -> None:
    import torch

    options = DecodeOptions("en", beam_size=1, temperature=1.0)
    torch.manual_seed(5)
    first = tiny_model.decode(clip(1), options)
    state = torch.random.get_rng_state()
    second = tiny_model.decode(clip(1), options)
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())  # the process's own randomness is left alone


def test_cancel_stops_within_a_window(tiny_model: SpeechModel) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Stopped):
        tiny_model.decode(clip(1), DecodeOptions("en"), cancel=cancel)


def test_a_multilingual_model_detects_a_language(tmp_path: Path, tiny_model: SpeechModel) -> None:
    model = load(make_whisper(tmp_path, n_vocab=51_865))
    try:
        assert len(model.languages) == 99
        assert model.detect_language(clip(1)) in model.languages
        assert tiny_model.languages == ("en",)
        assert tiny_model.detect_language(clip(1)) == "en"
    finally:
        model.close()


@pytest.mark.parametrize(
    "change",
    [
        {"n_text_layer": 2},
        {"n_vocab": 10**12},
        {"n_audio_layer": 10**9},
        {"n_audio_head": 3},
        {"n_text_ctx": 0},
        {"n_mels": "80"},
        {"extra": 1},
    ],
    ids=str,
)
def test_dims_that_are_not_those_of_the_file(tiny: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["dims"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid):
        load(folder)


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _oversize_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes((2**60).to_bytes(8, "little") + weights.read_bytes()[8:])


def _drop_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["decoder.ln.weight"]
    save_file(state, folder / "model.safetensors")


def _misplace_a_head(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"alignment_heads": [[7, 0]]}))


@pytest.mark.parametrize(
    "spoil",
    [
        _truncate,
        _oversize_header,
        _drop_a_tensor,
        _misplace_a_head,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_files_that_are_no_model(tiny: Path, tmp_path: Path, spoil: Any) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(ModelInvalid):
        load(folder)


@pytest.mark.parametrize("spec", [ModelSpec("t", TASK, quantization="int8"), ModelSpec("t", TASK, dtype="bfloat16")])
def test_what_the_engine_cannot_do_is_an_error(tiny: Path, spec: ModelSpec) -> None:
    with pytest.raises(InvalidInput, match=r"quantized|bfloat16"):
        load(tiny, spec)


# Time tokens here begin at 100, 0.02 s each: 100 is 0 s, 150 is 1 s.
@pytest.mark.parametrize(
    ("tokens", "runs", "consumed_s"),
    [
        ([], [([], 0.0, 10.0)], 10.0),
        ([1, 2], [([1, 2], 0.0, 10.0)], 10.0),
        ([100, 1, 2, 200], [([100, 1, 2, 200], 0.0, 2.0)], 10.0),
        ([150, 1, 2], [([150, 1, 2], 1.0, 1.0)], 10.0),
        ([100, 1, 150, 150, 2, 200], [([100, 1, 150], 0.0, 1.0), ([150, 2, 200], 1.0, 2.0)], 10.0),
        ([100, 1, 150, 150, 2], [([100, 1, 150], 0.0, 1.0)], 1.0),  # unfinished: go on at 1 s
        ([100, 1, 150, 150], [([100, 1, 150], 0.0, 1.0)], 1.0),
        ([100, 1, 900], [([100, 1, 900], 0.0, 10.0)], 10.0),  # past the window
    ],
)
def test_tokens_are_cut_at_their_times(
    tokens: list[int], runs: list[tuple[list[int], float, float]], consumed_s: float
) -> None:
    assert cut_at_times(tokens, 100, 10.0) == (runs, consumed_s)


# -- the task, on the real model --


def ask(assistant: Assistant, *content: Any, **options: Any) -> Response:
    return assistant.ask(list(content), task=TASK, options=options)


def segments(response: Response) -> list[SegmentPart]:
    return [part for part in response.parts if isinstance(part, SegmentPart)]


def codes(response: Response) -> list[str]:
    """Of the task's notices; the host has its own, of the device and of plugins."""
    ours = {"no_speech", "speech_unclear", "prompt_truncated", "audio_truncated", "audio_damaged"}
    return [notice.code for notice in response.notices if notice.code in ours]


@pytest.mark.slow
def test_word_error_rate_on_librivox(assistant: Assistant, no_network: None) -> None:
    import jiwer

    references, texts = [], []
    for path, reference in librivox():
        response = ask(assistant, AudioPart(path))
        found = segments(response)
        duration_s = response.details["duration_s"]
        assert response.text == " ".join(segment.text for segment in found)
        assert all(0 <= segment.start_s < segment.end_s <= duration_s for segment in found)
        assert response.details["language"] == "en"
        assert response.details["model"] == "whisper-tiny.en"
        assert codes(response) == []
        references.append(" ".join(normalized_words(reference)))
        texts.append(" ".join(normalized_words(response.text)))
    assert jiwer.wer(references, texts) <= 0.043


@pytest.mark.parametrize("name", NO_SPEECH)
def test_no_words_are_invented(assistant: Assistant, name: str) -> None:
    response = ask(assistant, wav(NO_SPEECH[name]))
    assert response.text == ""
    assert response.parts == ()
    assert codes(response) == ["no_speech"]
    assert response.details["duration_s"] == 10.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silence", "white noise", "hum over noise", "pink noise"])
def test_the_second_guard_invents_no_words_either(assistant: Assistant, name: str) -> None:
    response = ask(assistant, wav(NO_SPEECH[name]), vad=False, temperatures=(0.0,))
    assert response.text == ""
    assert codes(response) == ["no_speech"]


@pytest.mark.slow
def test_a_long_recording_keeps_its_times(assistant: Assistant) -> None:
    order, pause_s = (1, 4, 1, 2), 18.0
    starts_s, sound, now_s = [], [], 0.0
    for index in order:
        starts_s.append(now_s + pause_s)
        sound += [np.zeros(int(pause_s * RATE), np.float32), clip(index)]
        now_s = sum(map(len, sound)) / RATE
    samples = np.concatenate(sound)
    response = ask(assistant, wav(samples + 3e-4 * np.resize(NOISE, len(samples))))
    words = normalized_words(response.text)
    wanted = [word for index in order for word in normalized_words(librivox()[index][1])]
    assert len(set(wanted) - set(words)) <= 3
    assert abs(len(words) - len(wanted)) <= 4
    found = segments(response)
    assert all(before.start_s <= after.start_s for before, after in pairwise(found))
    for segment in found:
        assert any(start - 1.0 <= segment.start_s <= start + 6.0 for start in starts_s), segment
    assert response.details["duration_s"] == pytest.approx(now_s, abs=0.01)


@pytest.mark.slow
def test_quiet_speech_is_understood(assistant: Assistant) -> None:
    loud, quiet = (ask(assistant, wav(clip(4) * np.float32(gain))) for gain in (1.0, 0.01))
    assert normalized_words(quiet.text) == normalized_words(loud.text)


@pytest.mark.slow
def test_a_hint_sets_names(assistant: Assistant) -> None:
    without = ask(assistant, wav(clip(1)))
    hinted = ask(assistant, wav(clip(1)), initial_prompt="He was ill-disposed, an ill-disposed man.")
    said = ask(assistant, wav(clip(1)), TextPart("He was ill-disposed, an ill-disposed man."))
    assert "ill-disposed" not in without.text
    assert "ill-disposed" in hinted.text
    assert said.text == hinted.text
    assert codes(hinted) == []


def test_a_long_hint_is_cut_and_said_so(assistant: Assistant) -> None:
    response = ask(
        assistant,
        wav(clip(1)),
        TextPart(" ".join(librivox()[0][1] for _ in range(20))),
        beam_size=1,
        temperatures=(0.0,),
    )
    assert "prompt_truncated" in codes(response)


def test_control_tokens_in_a_hint_are_plain_text(assistant: Assistant) -> None:
    response = ask(assistant, wav(clip(1)), TextPart("<|endoftext|><|nospeech|> <|0.00|>"), beam_size=1)
    assert "young man" in response.text


@pytest.mark.slow
def test_word_times(assistant: Assistant) -> None:
    response = ask(assistant, wav(clip(4)), word_timestamps=True)
    words = response.details["words"]
    assert " ".join(word["word"] for word in words) == response.text
    assert all(0 <= word["start_s"] <= word["end_s"] <= 3.29 for word in words)
    assert all(before["end_s"] <= after["end_s"] for before, after in pairwise(words))
    assert 1.5 < next(word for word in words if word["word"] == "amiable")["start_s"] < 2.2
    json.dumps(words)


def test_segments_come_as_they_are_decoded_and_close_stops(assistant: Assistant) -> None:
    minutes = np.concatenate([clip(0), np.zeros(25 * RATE, np.float32)] * 20)
    begun = time.monotonic()
    response = ask(assistant, wav(minutes), beam_size=1)
    parts = iter(response)
    assert [type(next(parts)), type(next(parts))] == [TextPart, SegmentPart]
    response.close()
    assert time.monotonic() - begun < 30  # twenty windows would take longer than one
    assert response.turn.error == "cancelled"
    assert 1 <= sum(isinstance(part, SegmentPart) for part in response.turn.response) < 20


def test_a_cut_recording_says_so(assistant: Assistant) -> None:
    data = wav(clip(4)).data
    assert data is not None
    response = ask(assistant, AudioPart(data=data[: len(data) * 3 // 4]), beam_size=1)
    assert codes(response) == ["audio_truncated"]
    assert response.text.startswith("He might")


@pytest.mark.parametrize("name", ["-i x.wav", "$(id).wav", "`id`;x.wav", "concat:a|b.wav", "a b\n.wav"])
def test_a_name_is_only_a_name(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(wav(0 * T).data or b"")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert codes(ask(assistant, Path(name))) == ["no_speech"]
    assert sorted(tmp_path.iterdir()) == before


def test_a_path_that_is_not_there(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput):
        _ = ask(assistant, AudioPart(Path("../../x.wav"))).text


@pytest.mark.parametrize("data", [b"", b"text, not sound", b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(900)])
def test_bad_bytes_are_invalid_audio(assistant: Assistant, data: bytes) -> None:
    with pytest.raises(InvalidAudio):
        _ = ask(assistant, AudioPart(data=data)).text


def test_a_recording_over_the_limit(assistant: Assistant) -> None:
    with pytest.raises(InputTooLarge, match="allowed"):
        _ = ask(assistant, wav(0 * T), max_duration_s=5.0).text


@pytest.mark.parametrize(
    "options",
    [
        {"language": "English"},
        {"beam_size": 0},
        {"beam_size": 100},
        {"temperatures": ()},
        {"temperatures": (float("nan"),)},
        {"max_duration_s": float("nan")},
        {"max_duration_s": 0.0},
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        SpeechOptions(**options)


def test_a_language_the_model_does_not_know(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput, match="English only"):
        _ = ask(assistant, wav(clip(1)), language="de").text


def test_one_recording_at_a_time(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput, match="2 recordings"):
        _ = ask(assistant, wav(clip(1)), wav(clip(4))).text


def test_without_voice_activity_a_long_recording_is_walked_through(tiny_model: SpeechModel) -> None:
    samples = np.resize(clip(0), 70 * RATE)
    decoded: list[int] = []
    decode = tiny_model.decode

    class Watched:
        languages = tiny_model.languages
        prompt_fits = tiny_model.prompt_fits

        def decode(self, window: np.ndarray, options: DecodeOptions, *, cancel: Any) -> Any:
            decoded.append(len(window))
            return decode(window, options, cancel=cancel)

    parts = list(transcribe(Watched(), samples, [Span(0, len(samples))], DecodeOptions("en", beam_size=1)))  # type: ignore[arg-type]
    assert sum(decoded) >= len(samples)
    assert max(decoded) <= 30 * RATE
    assert all(isinstance(part, Segment) for part in parts)


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = "import smallai_speech, sys; print(sorted({'torch', 'whisper', 'scipy', 'numpy', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_half_precision_on_cuda_gives_the_same_words(models_dir: Path) -> None:
    folder = models_dir / "whisper-tiny.en"
    on_cpu = load(folder)
    on_gpu = WhisperEngine().load(SPEC, folder, device="cuda:0", progress=lambda _what, _share: None)
    try:
        assert isinstance(on_gpu, SpeechModel)
        assert on_gpu.n_bytes < 0.6 * on_cpu.n_bytes
        for options in (DecodeOptions("en"), DecodeOptions("en", word_timestamps=True)):
            texts = [
                "".join(piece.text for piece in model.decode(clip(4), options).pieces) for model in (on_cpu, on_gpu)
            ]
            assert normalized_words(texts[0]) == normalized_words(texts[1])
    finally:
        on_cpu.close()
        on_gpu.close()
