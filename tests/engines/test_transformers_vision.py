"""Image classifiers and image-text models of transformers, on tiny seeded models made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny_vision import save_matcher, save_resnet, save_vit

from smallai_assistant.engines.base import ImageModel, ImageTextModel, ModelSpec
from smallai_assistant.engines.transformers_vision import CLASSIFY, MATCH, TransformersVisionEngine
from smallai_assistant.errors import ModelInvalid

ENGINE = TransformersVisionEngine()


def silent(_: str, __: float) -> None: ...


def pictures(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + 7 * i, 50 - 3 * i, 3), dtype=np.uint8) for i in range(n)]


def pil(images: list[np.ndarray]) -> list[object]:
    from PIL import Image

    return [Image.fromarray(image) for image in images]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module", params=["clip", "siglip"])
def matcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_matcher(tmp_path_factory.mktemp(request.param), request.param)


def load(folder: Path, task: str, **options: str) -> ImageModel | ImageTextModel:
    spec = ModelSpec(str(folder), task=task, **options)
    assert ENGINE.can_load(spec, folder)
    return ENGINE.load(spec, folder, device="cpu", progress=silent)


def test_classify_equals_transformers(vit: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    images = pictures(3)
    model = load(vit, CLASSIFY)
    scores = model.classify(images)
    vectors = model.embed(images)
    model.close()

    reference = AutoModelForImageClassification.from_pretrained(vit).eval()
    inputs = AutoImageProcessor.from_pretrained(vit, backend="pil")(pil(images), return_tensors="pt")
    with torch.no_grad():
        expected = reference(**inputs).logits.softmax(-1).numpy()
        first_tokens = reference.vit(**inputs).last_hidden_state[:, 0].numpy()
    assert model.labels == ("cat", "dog", "bird")
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(vectors, first_tokens, atol=1e-4)
    assert model.n_dimensions == 64


def test_batches_of_any_size_agree_with_single_pictures(resnet: Path) -> None:
    model = load(resnet, CLASSIFY)
    images = pictures(16) + pictures(2)  # over one batch
    together = model.classify(images)
    one_by_one = np.concatenate([model.classify([image]) for image in images])
    nothing = model.classify([])
    vectors = model.embed(images[:2])
    model.close()
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert nothing.shape == (0, 4)
    assert vectors.shape == (2, model.n_dimensions) == (2, 16)


def test_match_equals_transformers(matcher: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    images, labels = pictures(3), ["cat", "dog", "bird"]
    model = load(matcher, MATCH)
    assert isinstance(model, ImageTextModel)
    shares = model.match(images, labels)
    many = model.match(images, labels * 7)
    nothing = model.match([], labels)
    model.close()

    reference = AutoModel.from_pretrained(matcher).eval()
    is_clip = reference.config.model_type == "clip"
    prompts = [f"a photo of a {x}." if is_clip else f"This is a photo of {x}." for x in labels]
    padding = True if is_clip else "max_length"
    tokens = AutoTokenizer.from_pretrained(matcher)(
        prompts, padding=padding, truncation=True, max_length=16, return_tensors="pt"
    )
    inputs = AutoImageProcessor.from_pretrained(matcher, backend="pil")(pil(images), return_tensors="pt")
    with torch.no_grad():
        expected = reference(**inputs, **tokens).logits_per_image.softmax(-1).numpy()
    np.testing.assert_allclose(shares, expected, atol=1e-4)
    assert np.ptp(shares) > 1e-3  # the labels get different shares
    np.testing.assert_allclose(many[:, :3], expected / 7, atol=1e-4)
    assert nothing.shape == (0, 3)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_classifier_is_smaller_and_agrees(vit: Path, quantization: str) -> None:
    plain = load(vit, CLASSIFY)
    small = load(vit, CLASSIFY, quantization=quantization)
    images = pictures(2)
    a, b = plain.classify(images), small.classify(images)
    plain.close()
    small.close()
    assert small.n_bytes < 0.6 * plain.n_bytes
    np.testing.assert_allclose(a, b, atol=0.05)


def test_quantized_matcher_is_smaller_and_agrees(matcher: Path) -> None:
    plain, small = load(matcher, MATCH), load(matcher, MATCH, quantization="int8")
    a, b = (model.match(pictures(2), ["cat", "dog"]) for model in (plain, small))
    plain.close()
    small.close()
    assert small.n_bytes < 0.6 * plain.n_bytes
    np.testing.assert_allclose(a, b, atol=0.1)


def test_estimate_is_close_to_the_measured_bytes(vit: Path, matcher: Path) -> None:
    for folder, task in ((vit, CLASSIFY), (matcher, MATCH)):
        model = load(folder, task)
        model.close()
        estimate = ENGINE.estimate_bytes(model.spec, folder)
        assert abs(estimate - model.n_bytes) < 0.2 * model.n_bytes


def test_release_drops_the_weights(vit: Path) -> None:
    import gc
    import weakref

    model = load(vit, CLASSIFY)
    weights = weakref.ref(model._network)  # only a reference to the private network shows that it is freed
    model.close()
    gc.collect()
    assert weights() is None


def test_can_load_checks_task_and_config(vit: Path, matcher: Path, tmp_path: Path) -> None:
    assert not ENGINE.can_load(ModelSpec("x", task=MATCH), vit)
    assert not ENGINE.can_load(ModelSpec("x", task=CLASSIFY), matcher)
    assert not ENGINE.can_load(ModelSpec("x", task="text-generation"), vit)
    assert not ENGINE.can_load(ModelSpec("x", task=CLASSIFY), tmp_path)
    (tmp_path / "config.json").write_text("[1")
    assert not ENGINE.can_load(ModelSpec("x", task=CLASSIFY), tmp_path)


def copy(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_damaged_folders_are_refused(vit: Path, tmp_path: Path) -> None:
    folder = copy(vit, tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    spec = ModelSpec(str(folder), task=CLASSIFY)

    for damaged in (b"", weights[:7], weights[: len(weights) // 2], b"\xff" * 8 + weights[8:]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelInvalid):
            ENGINE.load(spec, folder, device="cpu", progress=silent)
    for damaged in (b"", weights[:7], weights[:100], b"\xff" * 8 + weights[8:]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelInvalid):
            ENGINE.estimate_bytes(spec, folder)

    (folder / "model.safetensors").write_bytes(weights)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelInvalid):
        ENGINE.load(spec, folder, device="cpu", progress=silent)


def test_missing_weights_are_refused(vit: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy(vit, tmp_path)
    state = load_file(folder / "model.safetensors")
    state.pop("classifier.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelInvalid, match="classifier"):
        load(folder, CLASSIFY)


def test_number_of_names_must_match_the_classes(vit: Path, tmp_path: Path) -> None:
    folder = copy(vit, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "cat"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid):
        load(folder, CLASSIFY)
