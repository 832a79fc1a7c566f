"""The parts of learning pictures: labels in corrections, vectors, the fast memory, opinions, the head."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawings import face, rings

from smallai_assistant import Assistant, EmbeddingModel, ImageModel, ImagePart, LabelPart, ModelSpec
from smallai_assistant.errors import AdapterMismatch, InvalidInput
from smallai_image.blending import NEAR, Likeness, Opinion, blended, formed, without
from smallai_image.features import Looker, Seen, meanings, squared
from smallai_image.feedback import Picture, Saying, label_key, tidy_label
from smallai_image.head import Head, _Ridge, fit
from smallai_image.memory import FastMemory
from smallai_image.training import N_VIEWS, changed

SPEC = ModelSpec("efficientnet-lite0", task="image-classification")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("llama", "llama"),
        ("No, it's a llama!", "llama"),
        ("This is an Egyptian  cat.", "Egyptian cat"),
        ("wrong: that’s the Eiffel Tower", "Eiffel Tower"),
        ("“my mug”", "my mug"),
        ("An apple", "apple"),
        ("thermos", "thermos"),
        ("theatre", "theatre"),
        ("a", "a"),
        ("No", "No"),
        ("猫", "猫"),
    ],
)
def test_the_label_in_a_correction(text: str, label: str) -> None:
    assert tidy_label(text) == label


@pytest.mark.parametrize("text", ["", "  ", "!?", "x" * 201, "word " * 4000, "\u202e", "a\u202eb"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        tidy_label(text)


def test_the_meanings_are_those_of_the_sentence_model(assistant: Assistant) -> None:
    from smallai_image.engine import imagenet_classes
    from smallai_image.zero_shot import class_texts

    rows = list(range(0, 1000, 23))
    names = [name for name, _ in imagenet_classes()]
    with assistant.models.lease(ModelSpec("all-minilm-l6-v2", task="feature-extraction"), EmbeddingModel) as words:
        vectors = words.embed([class_texts(names)[i] for i in rows])
    vectors -= vectors.mean(0)
    table = meanings()
    assert table.shape == (1000, 64)
    short = table[rows] - table[rows].mean(0)
    own, given = (each @ each.T for each in (short, vectors))
    pairs = np.triu_indices(len(rows), 1)
    assert np.corrcoef(own[pairs], given[pairs])[0, 1] > 0.9


def test_the_vectors_of_a_picture(assistant: Assistant) -> None:
    looker = Looker()
    with assistant.models.lease(SPEC, ImageModel) as model:
        pictures = [Picture(str(i), np.asarray(Image.open(io.BytesIO(rings(i))))) for i in range(3)]
        seen = looker.look(model, pictures)
        assert [float(np.linalg.norm(each.vector)) for each in seen] == pytest.approx([1, 1, 1], abs=1e-5)
        np.testing.assert_allclose(seen[0].shares, model.classify([pictures[0].pixels])[0], atol=1e-4)
        np.testing.assert_allclose(looker.views(model, [pictures[1].pixels])[0], seen[1].vector, atol=1e-4)
        assert looker.look(model, [pictures[2], pictures[0]])[1] is seen[0]
        looker.forget("0")
        assert looker.look(model, [pictures[0]])[0] is not seen[0]
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[4:6, 10:30] = 200
    assert squared(wide).shape == (46, 46, 3)
    assert int((squared(wide) == 200).sum()) == int((wide == 200).sum())
    assert max(squared(np.zeros((3000, 20, 3), np.uint8)).shape) < 1100


def test_changed_pictures_are_the_same_each_time_and_differ() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(face(0))))
    first, again = list(changed(pixels, N_VIEWS)), list(changed(pixels, N_VIEWS))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(a.shape == b.shape and np.array_equal(a, b) for a, b in pairwise(first))
    assert all(each.shape == (1, 1, 3) for each in changed(np.zeros((1, 1, 3), np.uint8), 3))


def seen_of(*values: float) -> Seen:
    vector = np.asarray(values, np.float32)
    return Seen(str(values), vector / np.linalg.norm(vector), np.zeros(1, np.float32))


def test_the_memory_weighs_its_pictures() -> None:
    pictures = {"a1": seen_of(1, 0.1, 0), "a2": seen_of(1, -0.1, 0), "b1": seen_of(0, 1, 0)}
    sayings = [Saying(ImagePart(Path(name)), name[0], "is", name) for name in pictures]
    memory = FastMemory()
    assert memory.is_empty
    assert memory.likeness(seen_of(1, 0, 0)) == {}
    memory.rebuild(sayings)
    assert not memory.is_empty
    memory.wake(lambda parts: [pictures[part.name] for part in parts])
    found = memory.likeness(seen_of(1, 0.8, 0))
    assert found["a"].similarity > found["b"].similarity
    assert (found["a"].n_pictures, found["b"].n_pictures) == (2, 1)
    assert found["a"].similarity < NEAR
    assert memory.likeness(seen_of(1, 0.1, 0))["a"].similarity == pytest.approx(1.0)  # the same picture again
    assert list(memory.likeness(seen_of(1, 0.2, 0), among={"b"})) == ["b"]
    assert memory.likeness(seen_of(1, 0, 0), among={"c"}) == {}
    assert memory.counts() == {"a": 2, "b": 1}


def test_memory_and_head_form_one_opinion() -> None:
    assert formed({}) is None
    alone = formed({"a": Likeness(0.7, 3), "b": Likeness(0.4, 3)})
    assert alone is not None
    assert alone.shares["a"] > 0.99
    assert alone.trust > 0.95
    far = formed({"a": Likeness(0.2, 3)})
    assert far is not None
    assert far.trust < 0.05
    learned = {"b": Likeness(0.5, 9), "c": Likeness(0.5, 9)}
    by_head = formed({}, learned, {"b": 0.9, "c": 0.1})
    assert by_head is not None
    assert by_head.shares == pytest.approx({"b": 0.9, "c": 0.1})
    both = formed({"a": Likeness(0.3, 3)}, learned, {"b": 0.9, "c": 0.1})
    assert both is not None
    assert both.shares["a"] < 0.05  # what the memory alone knows does not push away what the head knows
    again = formed({"B": Likeness(0.1, 1)}, learned, {"b": 0.9, "c": 0.1})
    assert again is not None
    assert again.shares["B"] == pytest.approx(again.shares["c"], abs=0.4)  # nine pictures outweigh the one
    same = formed({"c": Likeness(0.98, 1)}, learned, {"b": 0.9, "c": 0.1})
    assert same is not None
    assert same.shares["c"] > 0.99  # a corrected picture is what it was corrected to


def test_a_failed_look_loses_no_lesson() -> None:
    memory = FastMemory()
    memory.rebuild([Saying(ImagePart(Path("x")), "x", "is", "1")])

    def fail(_: object) -> list[Seen | None]:
        raise InvalidInput("no model")

    with pytest.raises(InvalidInput):
        memory.wake(fail)
    memory.wake(lambda _: [seen_of(1, 0)])
    assert memory.counts() == {"x": 1}


def test_a_refusal_is_of_the_picture_and_its_like() -> None:
    memory = FastMemory()
    memory.learn([Saying(ImagePart(Path("x")), "Cat", "not", "1")], lambda _: [seen_of(1, 0)])
    assert memory.refused(seen_of(1, 0)) == {"cat"}
    assert memory.refused(seen_of(1, 0.1)) == {"cat"}
    assert memory.refused(seen_of(NEAR - 0.05, 1)) == set()
    memory.learn([Saying(ImagePart(Path("y")), "cat", "is", "2")], lambda _: [seen_of(1, 0.1)])
    assert memory.refused(seen_of(1, 0)) == set()


def test_opinions_are_blended_into_shares() -> None:
    guesses = [LabelPart("cat", 0, 0.7), LabelPart("dog", 1, 0.3)]
    mixed = blended(guesses, Opinion({"Dog": 0.5, "mug": 0.5}, 0.8))
    assert [(each.label, each.id) for each in mixed] == [("dog", 1), ("mug", -1), ("cat", 0)]
    assert [each.score for each in mixed] == pytest.approx([0.46, 0.4, 0.14])
    assert blended(guesses, None) == tuple(guesses)
    assert [(each.label, each.score) for each in without(mixed, {"dog"})] == [
        ("mug", pytest.approx(0.4 / 0.54)),
        ("cat", pytest.approx(0.14 / 0.54)),
    ]
    assert without(guesses, {"cat", "dog"}) == tuple(guesses)
    assert label_key(" My  MUG") == "my mug"


@pytest.mark.parametrize(("n", "n_dimensions"), [(8, 40), (40, 8)])
def test_leaving_out_is_what_fitting_without_it_gives(n: int, n_dimensions: int) -> None:
    random = np.random.default_rng(0)
    rows, targets = random.normal(size=(n * 2, n_dimensions)), random.normal(size=(n * 2, 3))
    ridge = _Ridge(rows, targets, 2)

    def solved(keep: np.ndarray) -> np.ndarray:
        gram = rows[keep].T @ rows[keep] + 0.3 * np.eye(n_dimensions)
        result: np.ndarray = np.linalg.solve(gram, rows[keep].T @ targets[keep])
        return result

    everything = np.arange(n * 2)
    np.testing.assert_allclose(ridge.weights(0.3), solved(everything).T, atol=1e-8)
    for left_out in (0, n - 1):
        expected = rows[2 * left_out] @ solved(everything[everything // 2 != left_out])
        np.testing.assert_allclose(ridge.by_the_others(0.3)[left_out], expected, atol=1e-8)


def test_a_head_is_what_it_was_after_saving(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    views = random.normal(size=(12, 2, 20)).astype(np.float32)
    views[:6] += 2
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    losses: list[float] = []
    head = fit(views, ["a"] * 6 + ["B"] * 5 + ["b"], [1.0] * 11 + [0.5], on_trial=lambda *told: losses.append(told[2]))
    assert head.labels == ("a", "B")
    assert head.counts == (6, 6)
    assert losses
    assert max(losses) < 0.7  # better than a coin
    head.save(tmp_path)
    again = Head.load(tmp_path)
    seen = Seen("", views[0, 0], np.zeros(1, np.float32))
    assert (again.shares(seen), again.likeness(seen)) == (head.shares(seen), head.likeness(seen))
    assert head.shares(seen)["a"] > 0.6
    assert head.shares(seen, among={"nothing"}) == head.likeness(seen, among={"nothing"}) == {}
    (tmp_path / "head.json").write_text('{"labels": ["a"], "counts": [6], "temperature": 0.1}')
    with pytest.raises(AdapterMismatch, match="fit together"):
        Head.load(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(AdapterMismatch):
        Head.load(tmp_path)
