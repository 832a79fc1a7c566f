"""Adapters of peft on llama.cpp: the same effect as on transformers, for their streams and for nobody else's.

The models are tiny and in float32, so that both engines compute nearly the same numbers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines.test_lora import TARGETS, adapter_at, save_lora
from support import tiny_gguf

from smallai_assistant import Adapter, GenerationOptions, ModelSpec, TextModel
from smallai_assistant.engines.llama_cpp import FILE, LlamaCppEngine
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import AdapterMismatch
from smallai_assistant.models.convert.gguf import convert

TEXTS = ("quick brown fox", "2024", "words in a small dog")
NEAR = 0.05  # nats of a text: llama.cpp keeps keys and values at 16 bits


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def likelihoods(model: TextModel, adapter: Adapter | None) -> np.ndarray:
    return np.array(model.log_likelihoods([(user("the lazy dog"), text) for text in TEXTS], adapter=adapter))


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp(request.param)
    tiny_gguf.write_gguf(source / FILE, tiny_gguf.make_model(kind=request.param))
    convert(source, target)
    (source / FILE).rename(target / FILE)
    return target


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[TextModel, TextModel]]:
    """The model on llama.cpp and on transformers."""
    spec = ModelSpec(str(folder), task="text-generation", dtype="float32")
    engines = (LlamaCppEngine(), TransformersEngine())
    models = [engine.load(spec, folder, device="cpu", progress=lambda *_: None) for engine in engines]
    yield models[0], models[1]
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def ours(pair: tuple[TextModel, TextModel]) -> TextModel:
    return pair[0]


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    root = tmp_path_factory.mktemp("loras")
    return [save_lora(root / f"v{n}", folder, seed=n) for n in range(3)]


@pytest.mark.parametrize("target", [*TARGETS, "all"])
def test_effect_is_that_of_peft(pair: tuple[TextModel, TextModel], folder: Path, tmp_path: Path, target: str) -> None:
    targets = TARGETS if target == "all" else [target]
    # One embedding of 32 numbers and small scores of attention: what q and k do is small without a large scale.
    scale = 2.0 if target in ("q_proj", "k_proj") else 0.3
    adapter = save_lora(tmp_path / target, folder, seed=5, scale=scale, targets=targets)
    found, wanted = (likelihoods(model, adapter) for model in pair)
    base_found, base_wanted = (likelihoods(model, None) for model in pair)
    assert base_found == pytest.approx(base_wanted, abs=NEAR)
    assert np.abs(wanted - base_wanted).max() > 3 * NEAR
    assert found == pytest.approx(wanted, abs=NEAR)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"lora_alpha": 3}, {"alpha_pattern": {"down_proj": 60}}])
def test_scale_is_that_of_peft(
    pair: tuple[TextModel, TextModel], folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = save_lora(tmp_path / "scaled", folder, seed=6)
    file = adapter.folder / "adapter_config.json"
    before = likelihoods(pair[1], adapter)
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    changed = adapter_at(adapter.folder.rename(tmp_path / "changed"))
    found, wanted = (likelihoods(model, changed) for model in pair)
    assert np.abs(wanted - before).max() > NEAR
    assert found == pytest.approx(wanted, abs=NEAR)


def test_nobody_gets_the_weights_of_another_stream(ours: TextModel, adapters: list[Adapter]) -> None:
    parts: list[Adapter | None] = [None, *adapters, None, *adapters]
    options = GenerationOptions(max_tokens=12)

    def ask(adapter: Adapter | None) -> tuple[str, list[float]]:
        stream = ours.generate(user("the quick fox"), options, adapter=adapter)
        text = "".join(stream)
        return text, likelihoods(ours, adapter).tolist()

    alone = [ask(adapter) for adapter in parts[:4]]
    assert len({text for text, _ in alone}) == 4
    ready = threading.Barrier(len(parts))

    def at_once(adapter: Adapter | None) -> list[tuple[str, list[float]]]:
        ready.wait()
        return [ask(adapter) for _ in range(5)]

    with ThreadPoolExecutor(len(parts)) as threads:
        together = list(threads.map(at_once, parts))
    for answers, place in zip(together, [0, 1, 2, 3] * 2, strict=True):
        for text, found in answers:
            assert text == alone[place][0]
            assert found == pytest.approx(alone[place][1], abs=NEAR)
    assert ask(None)[0] == alone[0][0]


def test_retired_adapter_is_dropped_and_loads_again(ours: TextModel, adapters: list[Adapter]) -> None:
    ours.drop_extras()
    before = likelihoods(ours, adapters[0])
    assert ours.extra_bytes > 0
    ours.retire_adapter(adapters[0].id)
    assert ours.extra_bytes == 0
    assert likelihoods(ours, adapters[0]) == pytest.approx(before, abs=NEAR)
    ours.drop_extras()
    assert ours.extra_bytes == 0


@pytest.mark.parametrize("change", ["rank", "name", "nan", "kind"])
def test_adapter_that_does_not_fit_is_refused(ours: TextModel, folder: Path, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    before = likelihoods(ours, None)
    adapter = save_lora(tmp_path / change, folder, seed=1)
    file = adapter.folder / "adapter_model.safetensors"
    weights = load_file(file)
    first = min(name for name in weights if name.endswith("q_proj.lora_A.weight"))
    if change == "rank":
        weights[first] = weights[first][:4].contiguous()
    elif change == "name":
        weights[first.replace("layers.0", "layers.99")] = weights.pop(first)
    elif change == "nan":
        weights[first][0, 0] = float("nan")
    else:
        config = json.loads((adapter.folder / "adapter_config.json").read_text())
        (adapter.folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    save_file(weights, file)
    with pytest.raises(AdapterMismatch):
        likelihoods(ours, adapter_at(adapter.folder))
    assert likelihoods(ours, None) == pytest.approx(before, abs=NEAR)


def test_bfloat16_weights_are_read(pair: tuple[TextModel, TextModel], folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = save_lora(tmp_path / "half", folder, seed=2)
    file = adapter.folder / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    found, wanted = (likelihoods(model, adapter) for model in pair)
    assert found == pytest.approx(wanted, abs=4 * NEAR)  # transformers computes with it at 16 bits
