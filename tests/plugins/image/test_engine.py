"""The engine of EfficientNet-Lite0, on the real weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import SPEC, TASK

from bench.data import imagenet_photos
from smallai_assistant import ImageModel, ModelSpec
from smallai_assistant.errors import ModelInvalid
from smallai_image.engine import EfficientNetLiteEngine, imagenet_classes

ENGINE = EfficientNetLiteEngine()


def silent(_: str, __: float) -> None: ...


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def photos() -> list[tuple[Path, int]]:
    return imagenet_photos()


@pytest.fixture(scope="module")
def model(models_dir: Path) -> Iterator[ImageModel]:
    loaded = ENGINE.load(SPEC, models_dir / SPEC.name, device="cpu", progress=silent)
    yield loaded
    loaded.close()


def test_classes_have_unique_names_and_definitions() -> None:
    names = [name for name, _ in imagenet_classes()]
    assert len(set(names)) == 1000
    assert all(definition for _, definition in imagenet_classes())
    known = {0: "tench", 22: "bald eagle", 134: "crane bird", 281: "tabby", 517: "crane", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known


def test_probabilities_are_the_softmax_of_the_embedding(
    model: ImageModel, models_dir: Path, photos: list[tuple[Path, int]]
) -> None:
    from safetensors.numpy import load_file

    from smallai_image.engine import TEMPERATURE

    images = [pixels(path) for path, _ in photos[:3]]
    scores, vectors = model.classify(images), model.embed(images)
    state = load_file(models_dir / SPEC.name / "model.safetensors")
    logits = (vectors @ state["_fc.weight"].T + state["_fc.bias"]) / TEMPERATURE
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(scores, shares / shares.sum(1, keepdims=True), atol=1e-4)
    assert vectors.shape == (3, model.n_dimensions)
    assert vectors.dtype == scores.dtype == np.float32
    assert len(model.labels) == scores.shape[1] == 1000


def test_batch_agrees_with_single_pictures(model: ImageModel, photos: list[tuple[Path, int]]) -> None:
    images = [pixels(path) for path, _ in photos[:17]]  # one more than a batch
    together = model.classify(images)
    single = np.concatenate([model.classify([images[i]]) for i in (0, 8, 16)])
    np.testing.assert_allclose(together[[0, 8, 16]], single, atol=1e-4)
    assert model.classify([]).shape == (0, 1000)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4000, 3), (4000, 1, 3), (2000, 17, 3)])
def test_any_shape_is_classified(model: ImageModel, shape: tuple[int, int, int]) -> None:
    scores = model.classify([np.full(shape, 90, np.uint8)])
    assert np.isfinite(scores).all()
    assert abs(scores.sum() - 1) < 1e-4


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 9), "uint8"), ((9, 9, 4), "uint8"), ((9, 9, 3), "float64"), ((0, 9, 3), "uint8")]
)
def test_other_arrays_raise_value_error(model: ImageModel, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match="uint8"):
        model.classify([np.zeros(shape, dtype)])


def test_estimated_memory_is_what_is_measured(model: ImageModel, models_dir: Path) -> None:
    assert 18e6 < model.n_bytes < 20e6
    assert abs(ENGINE.estimate_bytes(SPEC, models_dir / SPEC.name) - model.n_bytes) < 0.1 * model.n_bytes


def test_engine_recognizes_its_folders(models_dir: Path, tmp_path: Path) -> None:
    assert ENGINE.can_load(SPEC, models_dir / SPEC.name)
    assert not ENGINE.can_load(ModelSpec("x", task="text-generation"), models_dir / SPEC.name)
    assert not ENGINE.can_load(SPEC, models_dir / "all-minilm-l6-v2")
    assert not ENGINE.can_load(SPEC, tmp_path)


def test_damaged_model_folder_is_refused(models_dir: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    state = load_file(models_dir / SPEC.name / "model.safetensors")
    whole = (models_dir / SPEC.name / "model.safetensors").read_bytes()
    config = {"model_type": "efficientnet-lite0", "image_size": 224, "mean": 127, "std": 128}
    file = tmp_path / "model.safetensors"

    def refuse(match: str) -> None:
        with pytest.raises(ModelInvalid, match=match):
            ENGINE.load(SPEC, tmp_path, device="cpu", progress=silent)

    (tmp_path / "config.json").write_text(json.dumps(config))
    refuse("model.safetensors")
    for cut in (0, 4, 1000, len(whole) // 2):
        file.write_bytes(whole[:cut])
        refuse(str(tmp_path))
    save_file({name: state[name] for name in list(state)[1:]}, file)
    refuse("not the weights")
    save_file({**state, "_fc.weight": state["_fc.weight"][:10].copy()}, file)
    refuse("not the weights")
    file.write_bytes(whole)
    for wrong in (0, -1, "x", True, float("nan")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "temperature": wrong}))
        refuse("temperature")
    with pytest.raises(ModelInvalid, match="quantized"):
        ENGINE.load(
            ModelSpec(SPEC.name, task=TASK, quantization="nf4"),
            models_dir / SPEC.name,
            device="cpu",
            progress=silent,
        )


@pytest.mark.gpu
def test_gpu_gives_the_same_scores(model: ImageModel, models_dir: Path, photos: list[tuple[Path, int]]) -> None:
    images = [pixels(path) for path, _ in photos]
    fast = ENGINE.load(SPEC, models_dir / SPEC.name, device="cuda:0", progress=silent)
    scores = fast.classify(images)
    fast.close()
    np.testing.assert_allclose(scores, model.classify(images), atol=0.02)
