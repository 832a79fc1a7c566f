"""The task of pictures through the assistant, on the real EfficientNet-Lite0 and MiniLM."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.pictures import CHAIR, DOG, TASK, codes, labels_of
from support.tiny_vision import save_matcher, save_vit

from bench.data import imagenet_photos
from smallai_assistant import Assistant, ImagePart, InvalidInput
from smallai_assistant.errors import InvalidImage
from smallai_image import decode as decode_module
from smallai_image.containers import read_header
from smallai_image.engine import imagenet_classes
from smallai_image.task import ImageOptions


@pytest.fixture(scope="module")
def photos() -> list[tuple[Path, int]]:
    return imagenet_photos()


def test_photos_are_recognized(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    top1 = top5 = 0
    for path, truth in photos:
        response = assistant.ask(path)  # routed by modality
        labels = labels_of(response)
        assert response.turn.task == TASK
        assert len(labels) == 5
        assert labels == sorted(labels, key=lambda label: -label.score)
        assert all(label.label == imagenet_classes()[label.id][0] for label in labels)
        assert labels[0].label in response.text or "not sure" in response.text
        assert response.details["model"]
        top1 += labels[0].id == truth
        top5 += truth in [label.id for label in labels]
    assert len(photos) == 20
    assert top1 >= 18
    assert top5 >= 19


def test_own_labels_are_matched_by_conse(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    labels = ["furniture", "dog", "vehicle"]
    for index, expected in ((DOG, "dog"), (CHAIR, "furniture")):
        response = assistant.ask(photos[index][0], options={"labels": labels})
        found = labels_of(response)
        assert found[0].label == expected
        assert {label.label for label in found} == set(labels)
        assert {label.id for label in found} == {-1}
        assert abs(sum(label.score for label in found) - 1) < 1e-5
        assert expected in response.text
        assert "zero_shot_conse" in codes(response)


def test_labels_are_taken_from_the_question(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    response = assistant.ask([photos[DOG][0], "Is it a chair or a dog?"])
    assert [label.label for label in labels_of(response)] == ["dog", "chair"]
    assert {"labels_from_question", "zero_shot_conse"} <= codes(response)


def test_configured_matcher_is_used(models_dir: Path, tmp_path: Path, photos: list[tuple[Path, int]]) -> None:
    folder = save_matcher(tmp_path / "clip", "clip")
    settings = {"models": {"zero_shot_image": str(folder)}}
    with Assistant(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", **settings) as assistant:
        response = assistant.ask(photos[DOG][0], options={"labels": ["cat", "dog", "bird"]})
        assert len(labels_of(response)) == 3
        assert str(folder) in response.details["model"]
        assert "zero_shot_conse" not in codes(response)


def test_transformers_classifier_can_be_configured(
    models_dir: Path, tmp_path: Path, photos: list[tuple[Path, int]]
) -> None:
    folder = save_vit(tmp_path / "vit")
    settings = {"models": {"image": str(folder)}}
    with Assistant(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", **settings) as assistant:
        found = labels_of(assistant.ask(photos[DOG][0]))
        assert {(label.label, label.id) for label in found} == {("cat", 0), ("dog", 1), ("bird", 2)}


def test_matcher_that_is_not_configured_is_refused(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    with pytest.raises(InvalidInput, match="zero_shot"):
        _ = assistant.ask(photos[DOG][0], options={"labels": ["a", "b"], "zero_shot": "model"}).parts


def test_options_limit_the_labels(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    assert len(labels_of(assistant.ask(photos[DOG][0], options={"top": 2}))) == 2
    sure = labels_of(assistant.ask(photos[CHAIR][0], options={"min_score": 0.5}))
    assert [label.id for label in sure] == [photos[CHAIR][1]]


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
def test_invalid_options_are_refused(
    assistant: Assistant, photos: list[tuple[Path, int]], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        _ = assistant.ask(photos[DOG][0], options=options).parts
    assert caught.value.message


def test_labels_are_tidied() -> None:
    assert ImageOptions(labels=(" red  fox ", "dog")).labels == ("red fox", "dog")


def test_several_pictures_are_answered_in_order(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    response = assistant.ask([photos[DOG][0], photos[CHAIR][0]], options={"top": 1})
    assert [label.id for label in labels_of(response)] == [photos[DOG][1], photos[CHAIR][1]]
    assert "Picture 1:" in response.text
    assert "\nPicture 2:" in response.text


def test_only_first_frame_is_used_with_a_notice(assistant: Assistant, photos: list[tuple[Path, int]]) -> None:
    dog, chair = (Image.open(photos[index][0]).convert("RGB").resize((256, 256)) for index in (DOG, CHAIR))
    file = io.BytesIO()
    dog.save(file, format="WEBP", save_all=True, append_images=[chair], quality=95)
    response = assistant.ask(ImagePart(data=file.getvalue()))
    assert "first_frame_only" in codes(response)
    assert labels_of(response)[0].id == photos[DOG][1]


@pytest.mark.parametrize(("text", "has_notice"), [("What is this?", False), ("Write me a poem.", True)])
def test_unused_text_has_a_notice(
    assistant: Assistant, photos: list[tuple[Path, int]], text: str, has_notice: bool
) -> None:
    response = assistant.ask([photos[DOG][0], text])
    assert labels_of(response)[0].id == photos[DOG][1]
    assert ("text_not_used" in codes(response)) is has_notice


def test_file_without_a_picture_is_refused(assistant: Assistant, tmp_path: Path) -> None:
    for name, data in (("empty.png", b""), ("text.png", b"hello"), ("drawing.png", b"%PDF-1.7")):
        file = tmp_path / name
        file.write_bytes(data)
        with pytest.raises(InvalidImage, match=name):
            _ = assistant.ask(file, task=TASK).parts


def test_empty_picture_is_answered_with_doubt(assistant: Assistant) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(file, format="PNG")
    assert "not sure" in assistant.ask(ImagePart(data=file.getvalue())).text


def test_importing_the_plugin_is_cheap() -> None:
    heavy = "{'torch', 'transformers', 'whisper', 'sentence_transformers', 'scipy', 'numpy'} & set(sys.modules)"
    code = f"import sys, smallai_image; found = {heavy}; sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cancel_while_a_picture_is_decoded(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    n_headers = 0

    def read_and_cancel(*args: Any, cancel: threading.Event, **options: Any) -> Any:
        nonlocal n_headers
        n_headers += 1
        if n_headers == 2:
            cancel.set()
        return read_header(*args, cancel=threading.Event(), **options)

    monkeypatch.setattr(decode_module, "read_header", read_and_cancel)
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, "PNG")
    response = assistant.ask([ImagePart(data=file.getvalue())] * 3)
    assert response.text.startswith("Picture 1")
    assert "Picture 2" not in response.text
    assert response.turn.error == "cancelled"
    assert n_headers == 2
