"""The checks of model folders: hostile files are refused before a native loader opens them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save, save_file

from smallai_assistant.errors import InvalidInput, ModelInvalid, UnsafeModelConfig, UnsafeModelFormat
from smallai_assistant.models.files import check_model_folder, check_name, read_safetensors_header
from smallai_assistant.models.gguf_header import check_gguf
from smallai_assistant.models.json_files import check_config

WEIGHTS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, dtype=np.int8)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small valid model folder."""
    save_file(WEIGHTS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "attn_implementation": "sdpa"}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"auto_map": 1}}}))
    return tmp_path


def with_header(path: Path, header: Any, data: bytes = bytes(48)) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def tensor(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_valid_folder_passes(folder: Path) -> None:
    check_model_folder(folder)
    header = read_safetensors_header(folder / "model.safetensors")
    assert header["a"]["shape"] == [3, 4]
    assert set(header) == {"a", "b"}


def test_a_safetensors_file_cut_anywhere_is_invalid(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ModelInvalid):
            check_model_folder(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"a": tensor(0, 96, [24])},
        {"a": tensor(0, 48, [13])},
        {"a": tensor(48, 0, [12])},
        {"a": tensor(-48, 0, [12])},
        {"a": tensor(0, 48, [-12])},
        {"a": tensor(0, 48, [True, 12])},
        {"a": tensor(0, 48, [2**62, 2**62])},
        {"a": tensor(0, 48, [12], "PICKLE")},
        {"a": tensor(0, 48, ["12"])},
        {"a": tensor(0, 48, [12]), "b": tensor(0, 48, [12])},
        {"a": tensor(0, 16, [4]), "b": tensor(32, 48, [4])},
        {"a": {"dtype": "F32"}},
        {"a": tensor(0, 48, [12]) | {"more": [[]]}},
        {"a": 3},
        [1, 2],
        b"{" * 5000,
        b"[" * 200_000,
        b'{"a": \xff}',
        {"__metadata__": {"format": "\ud800"}, "a": tensor(0, 48, [12])},
        b'{"a": 3, "a": ' + json.dumps(tensor(0, 48, [12])).encode() + b"}",
        b"",
    ],
)
def test_a_false_header_is_invalid(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ModelInvalid):
        read_safetensors_header(with_header(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("n_claimed", [10_000, 200_000_000, 2**63, 2**64 - 1])
def test_an_oversized_header_is_not_read(tmp_path: Path, n_claimed: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", n_claimed) + b"{}" + bytes(100))
    with pytest.raises(ModelInvalid, match="claims"):
        read_safetensors_header(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 200), value=st.integers(0, 255), tail=st.binary(max_size=3))
def test_accepted_files_open_natively(tmp_path: Path, at: int, value: int, tail: bytes) -> None:
    """A file with any damage in its header is either refused, or the native loader reads every tensor."""
    whole = bytearray(save(WEIGHTS))
    whole[at % len(whole)] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(whole) + tail)
    try:
        header = read_safetensors_header(path)
    except ModelInvalid:
        return
    with safe_open(path, "np") as opened:
        assert {name: list(opened.get_tensor(name).shape) for name in opened.keys()} == {  # noqa: SIM118
            name: entry["shape"] for name, entry in header.items()
        }


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "weights.pkl", "a.pt", "a.PTH", "model.h5", "a.ckpt", "a.joblib"]
)
def test_formats_that_run_code_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"x")
    with pytest.raises(UnsafeModelFormat, match=name):
        check_model_folder(folder)


def test_unsafe_files_beside_safe_weights_are_allowed(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"x")
    check_model_folder(folder)


def test_a_decoy_does_not_hide_an_unsafe_file(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeModelFormat):
        check_model_folder(folder)


def test_folders_of_sentence_modules_are_checked_too(folder: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeModelFormat):
        check_model_folder(folder)


def test_a_folder_without_weights_is_invalid(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelInvalid, match="no safetensors"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModel": "modeling.Evil"}},
        {"text_config": {"auto_map": {"AutoConfig": "evil--repo.Config"}}},
        {"layers": [{"x": {"auto_map": {"AutoModel": "m.E"}}}]},
        {"_attn_implementation_internal": "evil/kernel"},
        {"_attn_implementation_internal": "sdpa"},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@main:run"},
        {"attn_implementation": {"text_config": "evil/kernel"}},
        {"trust_remote_code": True},
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_a_config_that_runs_code_is_refused(folder: Path, name: str, config: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(UnsafeModelConfig):
        check_model_folder(folder)


@pytest.mark.parametrize("module", ["os", "evil.Module", "", "sentence_transformersx.A"])
def test_foreign_sentence_modules_are_refused(folder: Path, module: str) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": module, "path": ""}]))
    with pytest.raises(UnsafeModelConfig):
        check_model_folder(folder)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc", ".."])
def test_a_module_path_stays_in_the_folder(folder: Path, path: str) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense", "path": path}]))
    with pytest.raises(UnsafeModelConfig):
        check_model_folder(folder)


def test_escaped_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert check_config(path) == {"a": "😀"}


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', "", "{", "\x00", '{"a": 1', "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500]
)
def test_a_config_that_is_not_json_is_invalid(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelInvalid):
        check_config(path)


@pytest.mark.parametrize("shard", ["../../x.safetensors", "/x.safetensors", "pytorch_model.bin", "gone.safetensors"])
def test_shards_outside_the_folder_are_refused(folder: Path, shard: str) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelInvalid):
        check_model_folder(folder)


def test_a_sharded_folder_passes(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    check_model_folder(folder)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(20),
        b"GGUF" + struct.pack("<IQQ", 1, 1, 1),
        b"GGUF" + struct.pack("<IQQ", 99, 1, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1),
    ],
)
def test_a_false_gguf_head_is_invalid(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(head)
    with pytest.raises(ModelInvalid):
        check_gguf(path)


@pytest.mark.parametrize(
    "name", ["../../x", "..", ".", "", "/etc", "a/b", "a\\b", "a b", ".hidden", "a\x00", "a\n", "x" * 200]
)
def test_names_that_are_paths_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name)
