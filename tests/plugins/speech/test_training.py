"""LoRA weights: trained on a tiny model, resumed, refused, and served beside the base."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.speech import clip, lease, speech_example, speech_spec, speech_training
from support.tiny_whisper import make_whisper

from bench.data import librivox
from smallai_assistant import Adapter, Assistant, AssistantConfig, Example, Training
from smallai_assistant.config import ModelsConfig
from smallai_assistant.errors import AdapterMismatch, Cancelled, TrainingFailed
from smallai_speech import SpeechModel
from smallai_speech.engine import TASK
from smallai_speech.lora import openai_name, read_deltas, transformers_name
from smallai_speech.spectrogram import Window
from smallai_speech.window import DecodeOptions


@pytest.fixture
def tiny(tmp_path: Path, models_dir: Path) -> Iterator[Assistant]:
    """An assistant whose speech model is tiny and random: training it takes a second."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    make_whisper(folder)
    models = ModelsConfig(speech=str(folder))
    with Assistant(
        AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", models=models)
    ) as opened:
        yield opened


@pytest.fixture
def clips() -> list[Example]:
    return [speech_example(path.read_bytes(), "nothing alike", text) for path, text in librivox()]


def test_names_map_both_ways(tiny: Assistant) -> None:
    from safetensors.torch import load_file

    for name in load_file(Path(tiny.config.models.speech) / "model.safetensors"):
        assert openai_name(transformers_name(name)) == name


def test_the_trained_copy_computes_the_same(models_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from smallai_speech.model_files import build, checked_dimensions, read_config, shapes
    from smallai_speech.training import load_copy

    folder = models_dir / "whisper-tiny.en"
    dims = checked_dimensions(read_config(folder), shapes(folder), folder)
    mel, tokens = (
        torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[50257, 50362, 632]]),
    )
    with torch.inference_mode():
        ours = build(dims, load_file(folder / "model.safetensors"), [])(mel, tokens)
        theirs = load_copy(folder, dims).eval()(input_features=mel, decoder_input_ids=tokens).logits
    assert torch.allclose(ours, theirs, atol=2e-3)


def train_tiny(tiny: Assistant, clips: Sequence[Example], folder: Path, **changes: Any) -> tuple[Training, Path]:
    """The training, and the folder with the weights."""
    from smallai_speech.training import train_weights

    run = speech_training(tiny, clips, folder, **changes)
    assert train_weights(run, clips, speech_spec(tiny), folder / "work" / "trial")
    return run, folder / "work" / "trial"


def test_training_again_is_the_same(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    first, out = train_tiny(tiny, clips, tmp_path / "a")
    second, other = train_tiny(tiny, clips, tmp_path / "b")
    assert first.losses == second.losses
    assert all(delta.abs().sum() > 0 for delta in read_deltas(out).values())
    assert (out / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture
def checkpoint_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training of a tiny model ends long before the first checkpoint is due."""
    monkeypatch.setattr("smallai_speech.training._CHECKPOINT_S", 0.0)


def test_a_stopped_training_resumes_from_its_checkpoint(
    tiny: Assistant, clips: list[Example], tmp_path: Path, checkpoint_at_every_step: None
) -> None:
    whole, _ = train_tiny(tiny, clips, tmp_path / "whole")
    cancel = threading.Event()

    def stop_at_the_fifth(what: str, _share: float) -> None:
        if what.startswith("training, step 5 "):
            cancel.set()

    with pytest.raises(Cancelled):
        train_tiny(tiny, clips, tmp_path / "part", cancel=cancel, on_progress=stop_at_the_fifth)
    rest, _ = train_tiny(tiny, clips, tmp_path / "part")
    assert len(rest.losses) == len(whole.losses) - 5
    assert rest.losses == pytest.approx(whole.losses[5:], rel=1e-4)


def test_out_of_time_ends_cleanly(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    run, out = train_tiny(tiny, clips, tmp_path, deadline=time.monotonic() - 1)
    assert run.losses == []
    assert read_deltas(out)


def test_a_nan_loss_fails_the_training(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(tiny.config.models.speech) / "model.safetensors"
    state = load_file(path)
    state["decoder.ln.weight"][0] = float("nan")
    save_file(state, path)
    with pytest.raises(TrainingFailed, match="nan"):
        train_tiny(tiny, clips, tmp_path)


def test_unsuitable_recordings_are_not_trained_on(
    tiny: Assistant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from smallai_speech.training import train_weights

    good = librivox()[1][0].read_bytes()
    bad = [
        speech_example(b"RIFF", "x", "x"),
        speech_example(good, "x", "word " * 4_000),
        speech_example(good, "x", "many words " * 30),
    ]
    with caplog.at_level(logging.WARNING):
        assert not train_weights(speech_training(tiny, bad, tmp_path), bad, speech_spec(tiny), tmp_path / "trial")
    assert caplog.text.count("is not trained on") == 3


@pytest.fixture
def merged_ids() -> Callable[[SpeechModel], list[str]]:
    """The adapters whose merged weights a model holds, which no answer shows: only its memory does."""
    return lambda model: list(model._adapters._merged)


def test_an_adapter_serves_only_its_requests(
    tiny: Assistant, clips: list[Example], tmp_path: Path, merged_ids: Callable[[SpeechModel], list[str]]
) -> None:

    _, folder = train_tiny(tiny, clips, tmp_path)
    _inflate(folder)
    adapter = adapter_in(folder)
    samples = clip(1)
    options = DecodeOptions("en", beam_size=1)
    with lease(tiny) as model:
        shared = {name: weight.clone() for name, weight in model.network.state_dict().items()}
        base = model.decode(Window(samples), options)
        with_adapter = model.decode(Window(samples), replace(options, adapter=adapter))
        assert with_adapter != base
        results: dict[int, Any] = {}
        threads = [
            threading.Thread(target=_decode_into, args=(results, i, model, samples, replace(options, adapter=one)))
            for i, one in enumerate([adapter, None] * 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [results[i] for i in range(8)] == [with_adapter, base] * 4
        assert all((shared[name] == weight).all() for name, weight in model.network.state_dict().items())
        model.retire_adapter("a")
        model.decode(Window(samples), replace(options, adapter=replace(adapter, id="b")))
        assert merged_ids(model) == ["b"]


def adapter_in(folder: Path) -> Adapter:
    return Adapter("a", TASK, "lora", folder, {}, {}, datetime.now(UTC))


def _decode_into(results: dict[int, Any], i: int, model: SpeechModel, samples: Any, options: Any) -> None:
    results[i] = model.decode(Window(samples), options)


def _inflate(folder: Path) -> None:
    """Makes the small changes of a short training large enough to change the text of a random model."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({name: 30 * weight for name, weight in load_file(path).items()}, path)


@pytest.mark.parametrize("spoil", ["cut", "shape", "layer", "config"])
def test_an_unfit_adapter_is_a_mismatch(tiny: Assistant, clips: list[Example], tmp_path: Path, spoil: str) -> None:
    from safetensors.torch import load_file, save_file

    _, folder = train_tiny(tiny, clips[:1], tmp_path, deadline=time.monotonic() - 1)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoil == "config":
        (folder / "adapter_config.json").write_text('{"r": 0, "lora_alpha": 1}')
    elif spoil == "shape":
        narrow = {name: weight[:, :8].contiguous() for name, weight in tensors.items() if "lora_A" in name}
        save_file({**tensors, **narrow}, path)
    else:
        save_file({name.replace("layers.0", "layers.7"): weight for name, weight in tensors.items()}, path)
    adapter = adapter_in(folder)
    with lease(tiny) as model, pytest.raises(AdapterMismatch):
        model.decode(Window(np.zeros(16_000, np.float32)), DecodeOptions("en", adapter=adapter))
