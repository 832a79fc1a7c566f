"""Checks of model files before a loader, mostly native code, opens them; and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InvalidInput, ModelInvalid, UnsafeModelFormat
from smallai_assistant.models.boundary import model_errors
from smallai_assistant.models.json_files import AGAIN, MAX_VOCABULARY_BYTES, check_claims, check_config, parse_json

# Limits of the header of one safetensors file, and of all headers and configurations of a folder together. The most
# tensors that a model has so far, Kimi K2 in int4, are 211,000 in 62 files: 27 MB of headers. A header in memory takes
# about 900 bytes a tensor.
MAX_HEADER_BYTES = 16 * 2**20
_MAX_HEADER_VALUES = 1_000_000  # about eight for a tensor
_MAX_READ_BYTES = 64 * 2**20
_MAX_FILES = 2_000  # of a folder; DeepSeek V3 has 163 shards
_DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
# Formats that are pickles, or may hold Python code (the Lambda layers of Keras).
_UNSAFE_SUFFIXES = frozenset({".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".keras", ".joblib"})
# If one of these is in the folder, loaders do not open the unsafe files.
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
_MAX_RANK = 16  # of a tensor; models have five
_TENSOR_KEYS = {"dtype", "shape", "data_offsets"}
# Limits of other files that a loader reads, by their suffix. The longest chat templates have 30 kB; the largest
# vocabulary of SentencePiece, of Gemma 3, has 5 MB.
_MAX_BYTES = {".jinja": 2**20, ".model": MAX_VOCABULARY_BYTES, ".tiktoken": MAX_VOCABULARY_BYTES}
_WORDS = ("tokenizer.json", "vocab.json")  # they are measured, not parsed
_CHUNK_BYTES = 2**20
_LOADABLE = frozenset({".safetensors", ".json", ".jinja", ".model", ".tiktoken", ".txt"})
# How the names of a tokenizer's files begin.
_TOKENIZER_FILES = ("tokenizer", "chat_template", "vocab", "merges", "special_tokens")


def check_name(name: str) -> str:
    """Returns the name if it is safe as the name of a folder: letters, digits, `.`, `_`, `-`, and no dot at the start.

    Raises:
        InvalidInput: it is not, such as `../../x`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise InvalidInput(f"{name!r} is not a model name", hint="use letters, digits, '.', '_' and '-'")
    return name


def check_model_folder(folder: Path) -> None:
    """Checks every file of a model folder that a loader may open. Reads the headers of weights, not the weights.

    Raises:
        ModelInvalid: there is no safetensors file, or one or a JSON file is cut short or malformed.
        UnsafeModelFormat: there are weights in a format that can run code, and none in safetensors.
        UnsafeModelConfig: a configuration asks to run code.
    """
    check_files(folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelInvalid(f"{folder.name}: there is no safetensors file", hint="give the folder of a complete model")


def check_files(folder: Path) -> None:
    """As `check_model_folder`, without the need for a safetensors file: a plugin's engine may read other formats.

    Raises:
        ModelInvalid: a safetensors or JSON file is cut short or malformed, a file is over its limit or not a regular
            file, or config.json claims what its weights cannot be.
        UnsafeModelFormat: there are weights in a format that can run code, and none in safetensors.
        UnsafeModelConfig: a configuration asks to run code.
    """
    with model_errors(folder.name, hint=AGAIN):
        folders = [folder, *_module_folders(folder)]
        found = {part: _regular_files(part) for part in folders}
        for paths in found.values():
            names = {path.name for path in paths}
            unsafe = sorted(name for name in names if Path(name).suffix.lower() in _UNSAFE_SUFFIXES)
            if unsafe and names.isdisjoint(_SAFE_WEIGHTS):
                raise UnsafeModelFormat(f"{folder.name}: {unsafe[0]} can run code when it is read")
        n_read = 0
        for paths in found.values():
            n_tensors, config = 0, None
            for path in paths:
                n_read += _bytes_to_read(path)
                if n_read > _MAX_READ_BYTES:
                    raise ModelInvalid(
                        f"{folder.name}: over {_MAX_READ_BYTES:,} bytes of headers and configurations", hint=AGAIN
                    )
                if path.suffix == ".safetensors":
                    n_tensors += len(read_safetensors_header(path))
                elif path.suffix == ".json":
                    value = check_config(path)
                    config = value if path.name == "config.json" else config
            if config is not None:
                check_claims(config, "config.json", n_tensors=n_tensors)


def _regular_files(folder: Path) -> list[Path]:
    """The files in a folder, sorted. Links are followed.

    Raises:
        ModelInvalid: an entry is neither a file nor a folder (a FIFO would block whoever opens it), a link leads
            nowhere, a folder has the name of a file, a file is over its limit, or there are over 2,000 entries.
    """
    found = []
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= _MAX_FILES:
                raise ModelInvalid(f"{folder.name}: over {_MAX_FILES:,} files", hint="give the folder of one model")
            try:
                status = entry.stat()
            except OSError as error:
                raise ModelInvalid(f"{folder.name}: {entry.name} cannot be read: {error.strerror}") from error
            suffix = Path(entry.name).suffix
            if stat.S_ISDIR(status.st_mode):
                if suffix in _MAX_BYTES or suffix in (".json", ".safetensors"):
                    raise ModelInvalid(f"{folder.name}: {entry.name} is a folder, not a file", hint=AGAIN)
                continue
            if not stat.S_ISREG(status.st_mode):
                raise ModelInvalid(f"{folder.name}: {entry.name} is not a regular file", hint=AGAIN)
            if status.st_size > _MAX_BYTES.get(suffix, status.st_size):
                raise ModelInvalid(f"{folder.name}: {entry.name} has {status.st_size:,} bytes, too many", hint=AGAIN)
            found.append(Path(entry.path))
    return sorted(found)


def _bytes_to_read(path: Path) -> int:
    """The bytes that the check of a file parses."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            prefix = file.read(8)
        return min(MAX_HEADER_BYTES, int.from_bytes(prefix, "little"))
    return path.stat().st_size if path.suffix == ".json" and path.name not in _WORDS else 0


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the header of a safetensors file and checks it against the size of the file.

    Returns:
        For each tensor by its name: `dtype`, `shape` and `data_offsets` (first byte and end, after the header).

    Raises:
        ModelInvalid: the file is cut short, its header is over 16 MB or malformed, or the tensors overlap or leave
            bytes of the file unused.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelInvalid(f"{path.name}: a file of {size} bytes is not a safetensors file", hint=AGAIN)
        (n_header,) = struct.unpack("<Q", prefix)
        # Before the header is read: a hostile length must not decide how much memory we take.
        if n_header > min(MAX_HEADER_BYTES, size - 8):
            raise ModelInvalid(f"{path.name}: the header claims {n_header:,} bytes of {size:,}", hint=AGAIN)
        raw = file.read(n_header)
    try:
        raw.decode()  # the format allows UTF-8 only; json would also take UTF-16
        header = parse_json(raw, path.name, max_values=_MAX_HEADER_VALUES, has_unique_keys=True)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("__metadata__ holds something else than texts")
        ranges = sorted(_checked_tensor(entry) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelInvalid(f"{path.name}: malformed header ({error})", hint=AGAIN) from error
    end = 0
    for start, next_end in ranges:  # sorted by their start
        if start != end:
            raise ModelInvalid(f"{path.name}: a tensor begins at byte {start:,}, not at {end:,}", hint=AGAIN)
        end = next_end
    n_data = size - 8 - n_header
    if end != n_data:
        raise ModelInvalid(f"{path.name}: tensors end at byte {end:,} of {n_data:,}", hint=AGAIN)
    return dict(header)


def _checked_tensor(entry: dict[str, Any]) -> tuple[int, int]:
    # Under another key anything could stand, such as lists that are nested too deep for the library.
    if entry.keys() != _TENSOR_KEYS:
        raise ValueError(f"a tensor has the keys {sorted(entry)}"[:200])
    start, end = entry["data_offsets"]
    n_bits = _DTYPE_BITS[entry["dtype"]]
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > _MAX_RANK:
        raise ValueError(f"a shape has over {_MAX_RANK} dimensions, or is not a list")
    # `type() is int`: True is an int for isinstance.
    if not all(type(number) is int and 0 <= number < 2**63 for number in (start, end, *shape)):
        raise ValueError("offsets and shapes are not all whole numbers")
    for dimension in shape:
        n_bits *= dimension
    if (end - start) * 8 != n_bits:
        raise ValueError(f"offsets {start} to {end} do not fit {entry['dtype']} {shape}")
    return start, end


def _module_folders(folder: Path) -> list[Path]:
    """The subfolders that sentence-transformers reads; other loaders read the folder itself only."""
    if not (folder / "modules.json").is_file():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def file_sha256(path: Path, *, stop: threading.Event | None = None) -> str:
    """The file's sha256 in hexadecimal.

    Args:
        stop: set it to end early; the result is then meaningless.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if stop is not None and stop.is_set():
                break
    return digest.hexdigest()


def loadable_files(folder: Path) -> list[str]:
    """The files of a folder that a loader may read, as paths below it: weights, configurations, tokenizer, templates.

    Raises:
        ModelInvalid: an entry is not a regular file or over its limit; see `check_files`.
    """
    paths = [path for part in (folder, *_module_folders(folder)) for path in _regular_files(part)]
    return [
        str(path.relative_to(folder))
        for path in paths
        if path.suffix in _LOADABLE or path.name.startswith(_TOKENIZER_FILES)
    ]


def fingerprint(hashes: Mapping[str, str]) -> dict[str, str]:
    """What an adapter depends on.

    Args:
        hashes: the sha256 of the model's files, by their paths below its folder.

    Returns:
        `weights_sha256` and `tokenizer_sha256`, each over the names and hashes of the files of that kind, empty if
        there are none.
    """
    top = {file: digest for file, digest in hashes.items() if "/" not in file}
    # With the configurations: the same weights under another one are another model.
    weights = {file: digest for file, digest in top.items() if file.endswith((".safetensors", "config.json"))}
    tokenizer = {file: digest for file, digest in top.items() if file.startswith(_TOKENIZER_FILES)}
    return {"weights_sha256": _digest_of(weights), "tokenizer_sha256": _digest_of(tokenizer)}


def _digest_of(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest() if hashes else ""
