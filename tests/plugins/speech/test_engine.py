"""The engine on tiny seeded weights: files, dimensions, options, cancellation, time stamps."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.speech import RATE, clip, normalized_words
from support.tiny_whisper import make_whisper

from smallai_assistant import InvalidInput, ModelSpec
from smallai_assistant.errors import ModelInvalid
from smallai_speech import SpeechModel, WhisperEngine
from smallai_speech.engine import TASK
from smallai_speech.spectrogram import Window
from smallai_speech.transcribe import Segment, transcribe
from smallai_speech.vad import Span
from smallai_speech.window import DecodeOptions, Run, Stopped, cut_at_times

SPEC = ModelSpec("tiny", task=TASK)


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


def test_estimated_and_measured_bytes_agree(tiny: Path, tiny_model: SpeechModel) -> None:
    assert WhisperEngine().estimate_bytes(SPEC, tiny) == pytest.approx(tiny_model.n_bytes, rel=0.25)


def test_a_window_has_at_most_30_s(tiny_model: SpeechModel) -> None:
    for n_samples in (0, 30 * RATE + 1):
        with pytest.raises(ValueError, match="a window has"):
            tiny_model.decode(Window(np.zeros(n_samples, np.float32)), DecodeOptions("en"))


def test_sampling_is_repeatable(tiny_model: SpeechModel) -> None:
    import torch

    options = DecodeOptions("en", beam_size=1, temperature=1.0)
    torch.manual_seed(5)
    first = tiny_model.decode(Window(clip(1)), options)
    state = torch.random.get_rng_state()
    second = tiny_model.decode(Window(clip(1)), options)
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())  # the random state of the process did not change


@pytest.mark.parametrize("said", [(), tuple(range(300, 600))])
def test_a_text_that_fills_the_room_has_not_ended(
    tiny_model: SpeechModel, said: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DecodeOptions("en", beam_size=1, said=said)
    assert not tiny_model.decode(Window(clip(1)), options).has_ended  # seeded weights never choose the end token
    import whisper.decoding

    # Every token past the sixtieth ends the text.
    class Ends:
        def __init__(self, *_args: Any) -> None: ...

        def apply(self, logits: Any, tokens: Any) -> None:
            if tokens.shape[1] > len(said[-223:]) + 60:
                logits[:, :50_256] = -np.inf
                logits[:, 50_257:] = -np.inf

    monkeypatch.setattr(whisper.decoding, "SuppressTokens", Ends)
    assert tiny_model.decode(Window(clip(1)), options).has_ended


def test_cancel_stops_within_a_window(tiny_model: SpeechModel) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Stopped):
        tiny_model.decode(Window(clip(1)), DecodeOptions("en"), cancel=cancel)


def test_a_multilingual_model_detects_languages(tmp_path: Path, tiny_model: SpeechModel) -> None:
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
def test_dims_must_match_the_weights(tiny: Path, tmp_path: Path, change: dict[str, Any]) -> None:
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
def test_spoiled_files_are_an_invalid_model(tiny: Path, tmp_path: Path, spoil: Any) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(ModelInvalid):
        load(folder)


@pytest.mark.parametrize("spec", [ModelSpec("t", TASK, quantization="int8"), ModelSpec("t", TASK, dtype="bfloat16")])
def test_unsupported_specs_are_errors(tiny: Path, spec: ModelSpec) -> None:
    with pytest.raises(InvalidInput, match=r"quantized|bfloat16"):
        load(tiny, spec)


# Time tokens here begin at 100, 0.02 s each: 100 is 0 s, 150 is 1 s.
@pytest.mark.parametrize(
    ("tokens", "runs", "consumed_s"),
    [
        ([], [Run([], 0.0, 10.0)], 10.0),
        ([1, 2], [Run([1, 2], 0.0, 10.0)], 10.0),
        ([100, 1, 2, 200], [Run([100, 1, 2, 200], 0.0, 2.0)], 10.0),
        ([150, 1, 2], [Run([150, 1, 2], 1.0, 1.0)], 10.0),
        ([100, 1, 150, 150, 2, 200], [Run([100, 1, 150], 0.0, 1.0), Run([150, 2, 200], 1.0, 2.0)], 10.0),
        ([100, 1, 150, 150, 2], [Run([100, 1, 150], 0.0, 1.0)], 1.0),  # unfinished: go on at 1 s
        ([100, 1, 150, 150], [Run([100, 1, 150], 0.0, 1.0)], 1.0),
        ([100, 1, 900], [Run([100, 1, 900], 0.0, 10.0)], 10.0),  # past the window
    ],
)
def test_tokens_are_cut_at_their_times(tokens: list[int], runs: list[Run], consumed_s: float) -> None:
    assert cut_at_times(tokens, 100, 10.0) == (runs, consumed_s)


def test_long_recordings_are_decoded_window_by_window(tiny_model: SpeechModel) -> None:
    samples = np.resize(clip(0), 70 * RATE)
    decoded: list[int] = []
    decode = tiny_model.decode

    class Watched:
        languages = tiny_model.languages
        prompt_fits = tiny_model.prompt_fits
        loudest = tiny_model.loudest

        def decode(self, window: Window, options: DecodeOptions, *, cancel: Any) -> Any:
            decoded.append(len(window.samples))
            return decode(window, options, cancel=cancel)

    parts = list(transcribe(Watched(), samples, [Span(0, len(samples))], DecodeOptions("en", beam_size=1)))  # type: ignore[arg-type]
    assert sum(decoded) >= len(samples)
    assert max(decoded) <= 30 * RATE
    assert all(isinstance(part, Segment) for part in parts)


@pytest.mark.gpu
def test_half_precision_gives_the_same_words(models_dir: Path) -> None:
    folder = models_dir / "whisper-tiny.en"
    on_cpu = load(folder)
    on_gpu = WhisperEngine().load(SPEC, folder, device="cuda:0", progress=lambda _what, _share: None)
    try:
        assert isinstance(on_gpu, SpeechModel)
        assert on_gpu.n_bytes < 0.6 * on_cpu.n_bytes
        for options in (DecodeOptions("en"), DecodeOptions("en", word_timestamps=True)):
            texts = [
                "".join(piece.text for piece in model.decode(Window(clip(4)), options).pieces)
                for model in (on_cpu, on_gpu)
            ]
            assert normalized_words(texts[0]) == normalized_words(texts[1])
    finally:
        on_cpu.close()
        on_gpu.close()
