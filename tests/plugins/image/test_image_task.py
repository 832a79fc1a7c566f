"""Pictures through the assistant, on the real EfficientNet-Lite0 and MiniLM."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.tiny_vision import save_matcher, save_vit

from bench.data import imagenet_photos
from smallai_assistant import (
    Assistant,
    EmbeddingModel,
    ImageModel,
    ImagePart,
    InvalidInput,
    LabelPart,
    ModelSpec,
    Notice,
)
from smallai_assistant.errors import InvalidImage, ModelInvalid
from smallai_image.engine import EfficientNetLiteEngine, imagenet_classes
from smallai_image.phrasing import sentence as sentence_of
from smallai_image.task import ImageOptions
from smallai_image.zero_shot import alternatives, class_vectors, conse

TASK = "image-classification"
ENGINE = EfficientNetLiteEngine()
SPEC = ModelSpec("efficientnet-lite0", task=TASK)
DOG, CHAIR = 0, 1  # among the photos: a bull mastiff, a folding chair


def silent(_: str, __: float) -> None: ...


@pytest.fixture(scope="module")
def photos() -> list[tuple[Path, int]]:
    return imagenet_photos()


@pytest.fixture(scope="module")
def model(models_dir: Path) -> Iterator[ImageModel]:
    loaded = ENGINE.load(SPEC, models_dir / SPEC.name, device="cpu", progress=silent)
    yield loaded
    loaded.close()


def labels_of(parts: Any) -> list[LabelPart]:
    return [part for part in parts if isinstance(part, LabelPart)]


def codes(notices: tuple[Notice, ...]) -> set[str]:
    return {notice.code for notice in notices}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# -- the model --


def test_the_photos_are_recognized(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    top1 = top5 = 0
    for path, truth in photos:
        response = assistant.ask(path)  # a picture alone needs no task's name
        labels = labels_of(response.parts)
        assert response.turn.task == TASK
        assert len(labels) == 5
        assert labels == sorted(labels, key=lambda each: -each.score)
        assert all(label.label == imagenet_classes()[label.id][0] for label in labels)
        assert labels[0].label in response.text or "not sure" in response.text
        assert response.details["model"]
        top1 += labels[0].id == truth
        top5 += truth in [label.id for label in labels]
    assert len(photos) == 20
    assert top1 >= 18
    assert top5 >= 19


def test_classes_are_named_once_and_described() -> None:
    names = [name for name, _ in imagenet_classes()]
    assert len(set(names)) == 1000
    assert all(definition for _, definition in imagenet_classes())
    known = {0: "tench", 22: "bald eagle", 134: "crane bird", 281: "tabby", 517: "crane", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known


def test_probabilities_are_the_softmax_of_the_head_over_the_embedding(
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


def test_a_batch_agrees_with_single_pictures(model: ImageModel, photos: list[tuple[Path, int]]) -> None:
    images = [pixels(path) for path, _ in photos[:17]]  # over one batch
    together = model.classify(images)
    single = np.concatenate([model.classify([images[i]]) for i in (0, 8, 16)])
    np.testing.assert_allclose(together[[0, 8, 16]], single, atol=1e-4)
    assert model.classify([]).shape == (0, 1000)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4000, 3), (4000, 1, 3), (2000, 17, 3)])
def test_any_shape_of_picture_is_classified(model: ImageModel, shape: tuple[int, int, int]) -> None:
    scores = model.classify([np.full(shape, 90, np.uint8)])
    assert np.isfinite(scores).all()
    assert abs(scores.sum() - 1) < 1e-4


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 9), "uint8"), ((9, 9, 4), "uint8"), ((9, 9, 3), "float64"), ((0, 9, 3), "uint8")]
)
def test_other_arrays_are_a_programming_error(model: ImageModel, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match="uint8"):
        model.classify([np.zeros(shape, dtype)])


def test_memory_is_measured_and_was_foreseen(model: ImageModel, models_dir: Path) -> None:
    assert 18e6 < model.n_bytes < 20e6
    assert abs(ENGINE.estimate_bytes(SPEC, models_dir / SPEC.name) - model.n_bytes) < 0.1 * model.n_bytes


def test_engine_knows_its_folders(models_dir: Path, tmp_path: Path) -> None:
    assert ENGINE.can_load(SPEC, models_dir / SPEC.name)
    assert not ENGINE.can_load(ModelSpec("x", task="text-generation"), models_dir / SPEC.name)
    assert not ENGINE.can_load(SPEC, models_dir / "all-minilm-l6-v2")
    assert not ENGINE.can_load(SPEC, tmp_path)


def test_damaged_model_folders_are_refused(models_dir: Path, tmp_path: Path) -> None:
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
def test_the_gpu_gives_the_same_scores(model: ImageModel, models_dir: Path, photos: list[tuple[Path, int]]) -> None:
    images = [pixels(path) for path, _ in photos]
    fast = ENGINE.load(SPEC, models_dir / SPEC.name, device="cuda:0", progress=silent)
    scores = fast.classify(images)
    fast.close()
    np.testing.assert_allclose(scores, model.classify(images), atol=0.02)


# -- the user's own labels --


def test_own_labels_by_the_words_for_the_classes(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    labels = ["furniture", "dog", "vehicle"]
    for index, expected in ((DOG, "dog"), (CHAIR, "furniture")):
        response = assistant.ask(photos[index][0], options={"labels": labels})
        found = labels_of(response.parts)
        assert found[0].label == expected
        assert {each.label for each in found} == set(labels)
        assert {each.id for each in found} == {-1}
        assert abs(sum(each.score for each in found) - 1) < 1e-5
        assert expected in response.text
        assert "zero_shot_conse" in codes(response.notices)


def test_labels_are_taken_from_the_question(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    response = assistant.ask([photos[DOG][0], "Is it a chair or a dog?"])
    assert [each.label for each in labels_of(response.parts)] == ["dog", "chair"]
    assert {"labels_from_question", "zero_shot_conse"} <= codes(response.notices)


def test_class_vectors_are_kept_and_made_anew_when_damaged(assistant: Assistant, tmp_path: Path) -> None:
    labels = [name for name, _ in imagenet_classes()[::50]]
    spec = ModelSpec("all-minilm-l6-v2", task="feature-extraction")
    with assistant.models.lease(spec, EmbeddingModel) as words:
        first = class_vectors(labels, words, tmp_path)
        (file,) = tmp_path.iterdir()
        kept = file.read_bytes()
        changed = file.stat().st_mtime_ns
        np.testing.assert_array_equal(class_vectors(labels, words, tmp_path), first)
        assert file.stat().st_mtime_ns == changed
        file.write_bytes(kept[:1000])
        np.testing.assert_allclose(class_vectors(labels, words, tmp_path), first, atol=1e-5)
        np.save(file, first[::-1])  # another model's vectors, as far as anyone can tell
        np.testing.assert_allclose(class_vectors(labels, words, tmp_path), first, atol=1e-5)
        assert np.load(file).shape == first.shape == (20, words.n_dimensions)
        class_vectors(labels[:3], words, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2  # one file for each set of classes, no leftovers
        unwritable = tmp_path / "missing"
        np.testing.assert_allclose(class_vectors(labels, words, unwritable), first, atol=1e-5)


def test_a_label_near_everything_does_not_win() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=8)
    classes = rng.normal(size=(50, 8)) + 2 * common
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    labels = np.stack([common / np.linalg.norm(common), classes[7]])
    seen = np.full((1, 50), 0.2 / 49)
    seen[0, 7] = 0.8
    shares = conse(seen.astype(np.float32), classes.astype(np.float32), labels.astype(np.float32))
    assert shares[0, 1] > 0.6
    assert abs(shares.sum() - 1) < 1e-6


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ("Is it a cat or a dog?", ("cat", "dog")),
        ("is this a cat, a dog or a bird?", ("cat", "dog", "bird")),
        ("cat or dog?", ("cat", "dog")),
        ("Which is it: cat, dog, or bird?", ("cat", "dog", "bird")),
        ("Does this show a fire truck or an ambulance", ("fire truck", "ambulance")),
        ("Tell me whether this is a tulip or a rose.", ("tulip", "rose")),
        ("What is this?", ()),
        ("Is it safe to eat or drink?", ()),
        ("Is it a cat or not?", ()),
        ("Write a poem or a story about it", ()),
        ("or", ()),
        ("a or a", ()),
        ("", ()),
        ("x or y " * 100, ()),
    ],
)
def test_alternatives_of_a_question(question: str, labels: tuple[str, ...]) -> None:
    assert alternatives(question) == labels


def test_a_configured_matcher_is_used(models_dir: Path, tmp_path: Path, photos: list[tuple[Path, int]]) -> None:
    folder = save_matcher(tmp_path / "clip", "clip")
    settings = {"models": {"zero_shot_image": str(folder)}}
    with Assistant(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", **settings) as it:
        response = it.ask(photos[DOG][0], options={"labels": ["cat", "dog", "bird"]})
        assert len(labels_of(response.parts)) == 3
        assert str(folder) in response.details["model"]
        assert "zero_shot_conse" not in codes(response.notices)


def test_any_image_classifier_of_transformers_can_be_configured(
    models_dir: Path, tmp_path: Path, photos: list[tuple[Path, int]]
) -> None:
    folder = save_vit(tmp_path / "vit")
    settings = {"models": {"image": str(folder)}}
    with Assistant(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", **settings) as it:
        found = labels_of(it.ask(photos[DOG][0]).parts)
        assert {(each.label, each.id) for each in found} == {("cat", 0), ("dog", 1), ("bird", 2)}


def test_the_matcher_must_be_configured_to_be_asked_for(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    with pytest.raises(InvalidInput, match="zero_shot"):
        _ = assistant.ask(photos[DOG][0], options={"labels": ["a", "b"], "zero_shot": "model"}).parts


# -- the answer --


def test_options_limit_the_labels(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    assert len(labels_of(assistant.ask(photos[DOG][0], options={"top": 2}).parts)) == 2
    sure = labels_of(assistant.ask(photos[CHAIR][0], options={"min_score": 0.5}).parts)
    assert [each.id for each in sure] == [photos[CHAIR][1]]


@pytest.mark.parametrize(
    "options",
    [
        {"top": 0},
        {"top": 1001},
        {"top": "many"},
        {"min_score": float("nan")},
        {"min_score": 1.1},
        {"labels": ["dog"]},
        {"labels": ["dog", " Dog "]},
        {"labels": ["dog", ""]},
        {"labels": ["dog", "x" * 201]},
        {"labels": [str(n) for n in range(1001)]},
        {"zero_shot": "magic"},
        {"tpo": 1},
    ],
)
def test_wrong_options_are_refused(
    assistant: Assistant, photos: list[tuple[Path, int]], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        _ = assistant.ask(photos[DOG][0], options=options).parts
    assert caught.value.message


def test_labels_are_tidied() -> None:
    assert ImageOptions(labels=(" red  fox ", "dog")).labels == ("red fox", "dog")


def test_several_pictures_are_answered_in_order(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    response = assistant.ask([photos[DOG][0], photos[CHAIR][0]], options={"top": 1})
    assert [each.id for each in labels_of(response.parts)] == [photos[DOG][1], photos[CHAIR][1]]
    assert "Picture 1:" in response.text
    assert "\nPicture 2:" in response.text


def test_only_the_first_frame_is_used_and_that_is_said(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    dog, chair = (Image.open(photos[index][0]).convert("RGB").resize((256, 256)) for index in (DOG, CHAIR))
    file = io.BytesIO()
    dog.save(file, format="WEBP", save_all=True, append_images=[chair], quality=95)
    response = assistant.ask(ImagePart(data=file.getvalue()))
    assert "first_frame_only" in codes(response.notices)
    assert labels_of(response.parts)[0].id == photos[DOG][1]


@pytest.mark.parametrize(("text", "is_told"), [("What is this?", False), ("Write me a poem.", True)])
def test_text_that_is_not_used_is_not_dropped_in_silence(
    assistant: Assistant, photos: list[tuple[Path, int]], text: str, is_told: bool
) -> None:
    response = assistant.ask([photos[DOG][0], text])
    assert labels_of(response.parts)[0].id == photos[DOG][1]
    assert ("text_not_used" in codes(response.notices)) is is_told


def test_a_picture_that_is_none_is_a_typed_error(assistant: Assistant, tmp_path: Path) -> None:
    for name, data in (("empty.png", b""), ("text.png", b"hello"), ("drawing.png", b"%PDF-1.7")):
        file = tmp_path / name
        file.write_bytes(data)
        with pytest.raises(InvalidImage, match=name):
            _ = assistant.ask(file, task=TASK).parts


def guesses(*rows: tuple[str, float]) -> list[LabelPart]:
    return [LabelPart(label, i, score) for i, (label, score) in enumerate(rows)]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ((0.7, 0.12, 0.1), "This looks like a tabby (70 %); it could also be an Egyptian cat (12 %) or jeans (10 %)."),
        ((0.95, 0.02, 0.01), "This looks like a tabby (95 %)."),
        ((0.4, 0.3, 0.01), "This may be a tabby (40 %); it could also be an Egyptian cat (30 %)."),
        (
            (0.03, 0.02, 0.001),
            "I am not sure what this is: perhaps a tabby (3 %), an Egyptian cat (2 %) or jeans (under 1 %).",
        ),
    ],
)
def test_the_sentence_is_as_sure_as_the_scores(scores: tuple[float, ...], sentence: str) -> None:
    assert sentence_of(guesses(*zip(("tabby", "Egyptian cat", "jeans"), scores, strict=True))) == sentence


def test_nothing_on_the_picture_is_answered_with_doubt(assistant: Assistant) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(file, format="PNG")
    assert "not sure" in assistant.ask(ImagePart(data=file.getvalue())).text


def test_importing_the_plugin_is_cheap() -> None:
    heavy = "{'torch', 'transformers', 'whisper', 'sentence_transformers', 'scipy', 'numpy'} & set(sys.modules)"
    code = f"import sys, smallai_image; found = {heavy}; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
