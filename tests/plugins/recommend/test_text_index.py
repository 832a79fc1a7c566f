"""Sentence vectors by the real MiniLM, and their file in any state."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.recommending import ANYTHING, TASK, ask, codes, ids_of, items_of

from smallai_assistant import Assistant, AssistantConfig, EmbeddingModel, ModelSpec
from smallai_assistant.cli.demo_data import READER, books, readings
from smallai_assistant.config import ModelsConfig
from smallai_recommend.text_index import TextIndex

SPEC = ModelSpec("all-minilm-l6-v2", task="feature-extraction")
NO_STOP = threading.Event()


def test_a_damaged_file_is_written_again(config: AssistantConfig) -> None:
    file = config.data_dir / "tasks" / TASK / "text-vectors.npz"

    def answer(*, is_kept: bool = False) -> list[tuple[str, float]]:
        with Assistant(config) as opened:
            if not opened.items.items():
                opened.items.add_items(books())
                opened.items.add_interactions(readings())
            changed = file.stat().st_mtime_ns if file.exists() else None
            found = [(item.id, round(item.score, 3)) for item in items_of(ask(opened, "a vampire story", READER))]
            assert (file.stat().st_mtime_ns == changed) is is_kept
        return found

    first = answer()
    whole = file.read_bytes()
    assert answer(is_kept=True) == first
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"\0" * 1_000, b"PK\x03\x04" + whole[4:][::-1]):
        file.write_bytes(damaged)
        assert answer() == first
        assert len(file.read_bytes()) == len(whole)
    assert list(file.parent.iterdir()) == [file]


Lend = Callable[[], AbstractContextManager[EmbeddingModel]]


@pytest.fixture(scope="module")
def lend(assistant: Assistant) -> Lend:
    return lambda: assistant.models.lease(SPEC, EmbeddingModel)


def never() -> AbstractContextManager[EmbeddingModel]:
    raise AssertionError("no model is needed")


def test_damaged_files_never_change_the_vectors(lend: Lend, tmp_path: Path) -> None:
    texts = ["a bear from Peru", "", "a crew in space", "a bear from Peru"]
    first = TextIndex(tmp_path)
    assert first.matrix(texts)[1].tolist() == [False] * 4
    assert first.update(texts, lend, budget_s=60, stop=NO_STOP) == 0
    expected, has = first.matrix(texts)
    assert has.all()
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(expected[0], expected[3])

    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    again = TextIndex(tmp_path)
    assert again.update(texts, never, budget_s=60, stop=NO_STOP) == 0
    np.testing.assert_array_equal(again.matrix(texts)[0], expected)
    rng = np.random.default_rng(0)
    for _ in range(60):
        if rng.random() < 0.5:
            file.write_bytes(whole[: rng.integers(len(whole))])
        else:
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            file.write_bytes(damaged)
        found = TextIndex(tmp_path)
        assert found.update(texts, lend, budget_s=60, stop=NO_STOP) == 0
        np.testing.assert_allclose(found.matrix(texts)[0], expected, atol=1e-5)


def test_texts_are_read_in_batches_within_a_budget(lend: Lend, tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(300)]
    index = TextIndex(tmp_path)
    assert index.update(texts, lend, budget_s=0, stop=NO_STOP) == 300 - 128
    stop = threading.Event()
    stop.set()
    assert index.update(texts, lend, budget_s=60, stop=stop) == 300 - 128
    assert index.matrix(texts)[1].tolist() == [True] * 128 + [False] * 172
    assert TextIndex(tmp_path).update(texts, lend, budget_s=60, stop=NO_STOP) == 0
    assert index.update(texts[:3], never, budget_s=60, stop=NO_STOP) == 0  # vectors of removed items are dropped
    index.update([*texts[:3], "one more"], lend, budget_s=60, stop=NO_STOP)
    assert len(np.load(tmp_path / "text-vectors.npz")["keys"]) == 4


def test_an_unwritable_file_costs_no_answer(lend: Lend, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    index = TextIndex(tmp_path / "taken")
    assert index.update(["a bear"], lend, budget_s=60, stop=NO_STOP) == 0
    assert index.matrix(["a bear"])[1].all()


@pytest.fixture
def other_model(models_dir: Path, tmp_path: Path) -> Path:
    """A seeded tiny sentence model with vectors of 32 numbers."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path / "tiny-sentences"
    shutil.copytree(models_dir / SPEC.name, folder)
    (folder / "model.safetensors").unlink()
    (folder / "smallai-model.json").unlink(missing_ok=True)
    vocabulary = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=vocabulary, **sizes)).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": 32}))
    return folder


def test_another_embedding_model_reads_all_texts_again(config: AssistantConfig, other_model: Path) -> None:
    with Assistant(config) as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        first = ids_of(ask(opened, "a vampire story", k=5))
    with Assistant(replace(config, models=ModelsConfig(embedding=str(other_model)))) as opened:
        response = ask(opened, "a vampire story", READER, k=5)
        assert len(items_of(response)) == 5
        assert response.details["model"].endswith(str(other_model))
        assert ids_of(ask(opened, ANYTHING, READER, k=5))
    with Assistant(config) as opened:
        assert ids_of(ask(opened, "a vampire story", k=5)) == first


def test_without_an_embedding_model_histories_still_count(tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu") as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        for text in (ANYTHING, "a vampire story", "something like Dracula"):
            response = ask(opened, text, READER, k=5)
            assert "text_unavailable" in codes(response)
            assert len(items_of(response)) == 5
        assert "smallai models pull" in " ".join(notice.text for notice in response.notices)
