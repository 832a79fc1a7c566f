"""Model folders of strangers: what a loader would choke on is refused in milliseconds, before a loader is asked."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from smallai_assistant.errors import ModelInvalid
from smallai_assistant.models import files, json_files
from smallai_assistant.models.boundary import is_out_of_memory, model_errors
from smallai_assistant.models.files import check_model_folder, read_safetensors_header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small valid model folder."""
    save_file({"a": np.ones((4, 4), np.float32)}, tmp_path / "model.safetensors")
    write(tmp_path / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    write(tmp_path / "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    return tmp_path


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


def make_circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [make_fifo, make_link_to_device, make_dangling_link, make_circle, Path.mkdir])
@pytest.mark.parametrize("name", ["extra.json", "extra.safetensors", "chat_template.jinja"])
def test_only_regular_files_are_opened(folder: Path, make: Callable[[Path], None], name: str) -> None:
    make(folder / name)
    with pytest.raises(ModelInvalid, match=name):
        check_model_folder(folder)


def test_links_to_files_and_other_folders_are_allowed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The cache of the hub keeps a model as links to files beside it."""
    elsewhere = tmp_path_factory.mktemp("blobs") / "blob"
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)
    (folder / "onnx").mkdir()
    check_model_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        [],
        "llama",
        {"architectures": 5},
        {"architectures": {"a": 1}},
        {"architectures": ["LlamaForCausalLM", 5]},
        {"model_type": ["llama"]},
        {"num_hidden_layers": 10**6},
        {"text_config": {"n_layer": 2_000}},
        {"depths": [2, 10**5]},
        {"num_labels": 10**9},
        {"hidden_size": 2**31},
        {"num_experts": -(10**9)},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": -5},
        {"max_position_embeddings": 2**40},
        {"max_position_embeddings": "many"},
        {"max_position_embeddings": 1e9},
        {"n_positions": True},
    ],
)
def test_a_config_claims_only_what_is_possible(folder: Path, config: Any) -> None:
    write(folder / "config.json", config)
    with pytest.raises(ModelInvalid, match=r"config\.json"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 10_485_760, "rope_theta": 500_000_000, "vocab_size": 901_629},
        {"max_window_layers": 28, "num_hidden_layers": 2, "layer_norm_eps": 1e-5, "architectures": None},
        {"max_pixels": 12_845_056, "max_position_embeddings": None, "quantization": {"block_size": 4096}},
    ],
)
def test_claims_of_real_models_pass(folder: Path, config: Any) -> None:
    write(folder / "config.json", config)
    check_model_folder(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("extra.json", "[" + "[]," * 200_000 + "[]]"),  # many values
        ("extra.json", '"' + "x" * 5_000_000 + '"'),  # many bytes
        ("tokenizer.json", "[" + "[]," * 2_000_001 + "[]]"),
        ("vocab.json", "[" + "[]," * 2_000_001 + "[]]"),
        ("chat_template.jinja", "x" * 2_000_000),
    ],
)
def test_files_over_their_limit_are_not_parsed(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelInvalid, match=name):
        check_model_folder(folder)


def test_a_vocabulary_of_real_size_passes(folder: Path) -> None:
    """A million words and merges, half of what Gemma 3 has by the same count, in a file of 20 MB."""
    words = ",".join(f'"word {n}":{n}' for n in range(500_000))
    merges = ",".join(["['a', 'b']".replace("'", '"')] * 150_000)
    (folder / "tokenizer.json").write_text(f'{{"vocab":{{{words}}},"merges":[{merges}]}}')
    check_model_folder(folder)


def test_a_folder_may_not_have_any_number_of_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_FILES", 10)
    for number in range(10):
        (folder / f"{number}.txt").touch()
    with pytest.raises(ModelInvalid, match="files"):
        check_model_folder(folder)


def test_headers_of_all_files_together_are_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_READ_BYTES", 1_000)
    for number in range(20):
        save_file({"a": np.ones(1, np.float32)}, folder / f"{number}.safetensors")
    with pytest.raises(ModelInvalid, match="headers"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": ["pt"]},
        {"__metadata__": {"format": 5}},
        {"__metadata__": None},
        {"a": {"dtype": "U8", "shape": [1] * 20, "data_offsets": [0, 1]}},
        {"a": {"dtype": "U8", "shape": [10**4_000, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "U8", "shape": "1", "data_offsets": [0, 1]}},
        {"a": {"dtype": ["U8"], "shape": [1], "data_offsets": [0, 1]}},
    ],
)
def test_a_false_header_is_refused_before_the_native_loader(tmp_path: Path, header: Any) -> None:
    raw = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(1))
    with pytest.raises(ModelInvalid, match=r"malformed|begins|end at"):
        read_safetensors_header(path)


def test_a_header_of_too_many_tensors_is_not_parsed(tmp_path: Path) -> None:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    raw = ("{" + ",".join(entry % n for n in range(200_000)) + "}").encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(ModelInvalid, match="values"):
        read_safetensors_header(path)


@pytest.mark.parametrize("sizes", [{"size": 10**6}, {"crop_size": {"height": 224, "width": 5_000}}])
def test_a_processor_makes_pictures_of_a_possible_size(sizes: Any) -> None:
    with pytest.raises(ModelInvalid):
        json_files.check_picture_sizes(sizes, "preprocessor_config.json")
    json_files.check_picture_sizes({"size": {"height": 224}, "max_pixels": 10**7}, "preprocessor_config.json")


@pytest.mark.parametrize(
    "error", [TypeError("'int' object is not iterable"), OSError(5, "I/O"), type("Panic", (BaseException,), {})()]
)
def test_the_boundary_blames_the_model(error: BaseException) -> None:
    with pytest.raises(ModelInvalid, match="the folder cannot be used"), model_errors("the folder"):
        raise error


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyboardInterrupt(), RuntimeError("CUDA out of memory"), ModelInvalid("x")]
)
def test_the_boundary_passes_what_is_not_the_models_fault(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, model_errors("the folder"):
        raise error
    assert caught.value is error
    assert is_out_of_memory(error) == isinstance(error, MemoryError | RuntimeError)
