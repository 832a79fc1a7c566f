"""Checks of model files before a loader, mostly native code, opens them; and their hashes."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InvalidInput, ModelInvalid, UnsafeModelConfig, UnsafeModelFormat

# The limit of the safetensors format itself.
MAX_HEADER_BYTES = 100_000_000
_DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
# Formats that are pickles, or may hold Python code (the Lambda layers of Keras).
_UNSAFE_SUFFIXES = frozenset({".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".keras", ".joblib"})
# If one of these is in the folder, loaders do not open the unsafe files.
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# Keys of a configuration by which transformers or diffusers import code that comes with the model.
_CODE_KEYS = frozenset({"auto_map", "_attn_implementation_internal", "custom_pipelines", "trust_remote_code"})
# Keys that name an implementation of attention or of experts: a word is built in, `owner/name` is code of a hub.
_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
_MAX_CONFIG_BYTES = 64 * 2**20  # the largest JSON files, indexes of shards, have a few MB
_MAX_DEPTH = 200  # of nested JSON; the check calls itself once a level, and Python allows about 1,000
# GGUF allows 2**64 tensors and values; the largest models have some thousands. A reader may reserve memory for them.
_MAX_GGUF_COUNT = 1_000_000
_CHUNK_BYTES = 2**20
# How the names of a tokenizer's files begin.
_TOKENIZER_FILES = ("tokenizer", "chat_template", "vocab", "merges", "special_tokens")
_AGAIN = "get the file again: it is damaged"


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
        ModelInvalid: a safetensors or JSON file is cut short or malformed.
        UnsafeModelFormat: there are weights in a format that can run code, and none in safetensors.
        UnsafeModelConfig: a configuration asks to run code.
    """
    folders = [folder, *_module_folders(folder)]
    for part in folders:
        has_safe = any((part / name).is_file() for name in _SAFE_WEIGHTS)
        unsafe = sorted(path.name for path in part.iterdir() if path.suffix.lower() in _UNSAFE_SUFFIXES)
        if unsafe and not has_safe:
            raise UnsafeModelFormat(f"{folder.name}: {unsafe[0]} can run code when it is read")
    for part in folders:
        for path in sorted(part.glob("*.safetensors")):
            read_safetensors_header(path)
        for path in sorted(part.glob("*.json")):
            check_config(path)


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the header of a safetensors file and checks it against the size of the file.

    Returns:
        For each tensor by its name: `dtype`, `shape` and `data_offsets` (first byte and end, after the header).

    Raises:
        ModelInvalid: the file is cut short, its header is over 100 MB or malformed, or the tensors overlap or leave
            bytes of the file unused.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelInvalid(f"{path.name}: a file of {size} bytes is not a safetensors file", hint=_AGAIN)
        (n_header,) = struct.unpack("<Q", prefix)
        # Before the header is read: a hostile length must not decide how much memory we take.
        if n_header > min(MAX_HEADER_BYTES, size - 8):
            raise ModelInvalid(f"{path.name}: the header claims {n_header:,} bytes of {size:,}", hint=_AGAIN)
        raw = file.read(n_header)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        ranges = sorted(_checked_tensor(entry) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelInvalid(f"{path.name}: malformed header ({error})", hint=_AGAIN) from error
    end = 0
    for start, next_end in ranges:  # sorted by their start
        if start != end:
            raise ModelInvalid(f"{path.name}: a tensor begins at byte {start:,}, not at {end:,}", hint=_AGAIN)
        end = next_end
    n_data = size - 8 - n_header
    if end != n_data:
        raise ModelInvalid(f"{path.name}: tensors end at byte {end:,} of {n_data:,}", hint=_AGAIN)
    return dict(header)


def _checked_tensor(entry: dict[str, Any]) -> tuple[int, int]:
    start, end = entry["data_offsets"]
    n_bits = _DTYPE_BITS[entry["dtype"]]
    numbers = [start, end, *entry["shape"]]
    # `type() is int`: True is an int for isinstance.
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"offsets and shape are {numbers}")
    for dimension in entry["shape"]:
        n_bits *= dimension
    if (end - start) * 8 != n_bits:
        raise ValueError(f"offsets {start} to {end} do not fit {entry['dtype']} {entry['shape']}")
    return start, end


def check_gguf(path: Path) -> None:
    """Checks the first 24 bytes of a GGUF file. The rest is left to its converter, which runs in a child process.

    Raises:
        ModelInvalid: it is not a GGUF file of version 2 or 3, or its counts are impossible.
    """
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise ModelInvalid(f"{path.name} is not a GGUF file", hint=_AGAIN)
    version, n_tensors, n_values = struct.unpack("<IQQ", head[4:])
    if version not in (2, 3):
        raise ModelInvalid(f"{path.name} has GGUF version {version}, only 2 and 3 can be read", hint="get a newer file")
    if not 0 < n_tensors <= _MAX_GGUF_COUNT or n_values > _MAX_GGUF_COUNT:
        raise ModelInvalid(f"{path.name} claims {n_tensors:,} tensors and {n_values:,} values", hint=_AGAIN)


def check_config(path: Path) -> None:
    """Refuses a JSON file that names code to run, at any depth.

    Raises:
        ModelInvalid: it is not JSON, over 64 MB, or nested over 200 deep.
        UnsafeModelConfig: it has `auto_map`, a hub kernel, or another way to foreign code.
    """
    if path.name in ("tokenizer.json", "vocab.json"):
        # They hold words, and a vocabulary may have any word, also one of the keys below. Their reader is written in
        # Rust and refuses malformed files.
        return
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ModelInvalid(f"{path.name}: {path.stat().st_size:,} bytes are too many for a configuration", hint=_AGAIN)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path.name}: not JSON ({error})", hint=_AGAIN) from error
    if path.name == "modules.json":
        _check_modules(value)
    elif path.name.endswith(".safetensors.index.json"):
        _check_index(value, path)
    _check_value(value, path.name, 0)


def _check_value(value: Any, name: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ModelInvalid(f"{name}: nested over {_MAX_DEPTH} deep", hint=_AGAIN)
    if isinstance(value, list):
        for inner in value:
            _check_value(inner, name, depth + 1)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _CODE_KEYS and inner:
            raise UnsafeModelConfig(f"{name}: {key!r} asks to run code that comes with the model")
        # transformers fetches implementations named `owner/kernel` from the hub and runs them.
        if key in _KERNEL_KEYS and "/" in json.dumps(inner):
            raise UnsafeModelConfig(f"{name}: {key!r} names a kernel of a hub: {inner!r}")
        _check_value(inner, name, depth + 1)


def _check_modules(modules: Any) -> None:
    """Checks modules.json: sentence-transformers imports the class that a `type` names, from any Python module."""
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelInvalid("modules.json: not a list of modules", hint=_AGAIN)
    for module in modules:
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise UnsafeModelConfig(f"modules.json: {module.get('type')!r} is not a module of sentence-transformers")
        if re.search(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]", str(module.get("path", ""))):
            raise UnsafeModelConfig(f"modules.json: the path {module['path']!r} leaves the folder")


def _check_index(index: Any, path: Path) -> None:
    """Checks that the shards that an index names are safetensors files in its folder."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelInvalid(f"{path.name}: there is no weight_map", hint=_AGAIN)
    for shard in {str(shard) for shard in shards.values()}:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UnsafeModelFormat(f"{path.name}: {shard!r} is not a safetensors file of this folder")
        if not (path.parent / shard).is_file():
            raise ModelInvalid(f"{path.name}: the shard {shard} is missing", hint="give the folder of a complete model")


def _module_folders(folder: Path) -> list[Path]:
    """The subfolders that sentence-transformers reads; other loaders read the folder itself only."""
    if not (folder / "modules.json").is_file():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def file_sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class FileHashes:
    """Remembers the sha256 of files and computes it again only if a file's size or time of change differs."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, path: Path) -> str:
        """The file's sha256 in hexadecimal."""
        status = path.stat()
        key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
        if key not in self._known:
            self._known[key] = file_sha256(path)
        return self._known[key]


def fingerprint(folder: Path, hash_of: Callable[[Path], str]) -> dict[str, str]:
    """What an adapter depends on.

    Args:
        hash_of: gives the sha256 of a file; it may know it without reading the file.

    Returns:
        `weights_sha256` and `tokenizer_sha256`, each over the names and hashes of the files of that kind, empty if
        there are none.
    """
    paths = [path for path in folder.iterdir() if path.is_file()]
    # With the configurations: the same weights under another one are another model.
    weights = [path for path in paths if path.name.endswith((".safetensors", "config.json"))]
    tokenizer = [path for path in paths if path.name.startswith(_TOKENIZER_FILES)]
    return {
        "weights_sha256": _digest_of({path.name: hash_of(path) for path in weights}),
        "tokenizer_sha256": _digest_of({path.name: hash_of(path) for path in tokenizer}),
    }


def _digest_of(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest() if hashes else ""
