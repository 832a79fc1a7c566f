"""What a model folder may hold, checked before any native loader sees it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InvalidInput, ModelInvalid, UnsafeModelConfig, UnsafeModelFormat

# The safetensors format's own limit.
MAX_HEADER_BYTES = 100_000_000
_DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
# Formats that are pickles, or may hold code of Python's (Keras' Lambda layers).
_UNSAFE_SUFFIXES = frozenset({".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".keras", ".joblib"})
# Where one of these lies beside them, loaders do not look at the unsafe ones.
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
_CODE_KEYS = frozenset({"auto_map", "_attn_implementation_internal", "custom_pipelines", "trust_remote_code"})
_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
_MAX_CONFIG_BYTES = 64 * 2**20
_MAX_DEPTH = 200
# GGUF's own limits would be 2**64; the largest models have some thousand of either.
_MAX_GGUF_COUNT = 1_000_000
_CHUNK = 2**20
_TOKENIZER_FILES = ("tokenizer", "chat_template", "vocab", "merges", "special_tokens")
_AGAIN = "get the file again: it is not as it was written"


def check_name(name: str) -> str:
    """The name, if it can name a folder of ours: letters, digits, `.`, `_` and `-`, not beginning with a dot.

    Raises:
        InvalidInput: it cannot, such as `../../x`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise InvalidInput(f"{name!r} is no model name", hint="use letters, digits, '.', '_' and '-'")
    return name


def check_model_folder(folder: Path) -> None:
    """Checks every file of a folder of safetensors that a loader may open, before one does; reads headers, not weights.

    Raises:
        ModelInvalid: there is no safetensors file, or it or a JSON file is cut short or malformed.
        UnsafeModelFormat: weights in a format that can run code, and none in safetensors beside them.
        UnsafeModelConfig: a configuration asks to run code.
    """
    check_files(folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelInvalid(f"{folder.name}: there is no safetensors file", hint="give the folder of a whole model")


def check_files(folder: Path) -> None:
    """The same for a folder that need not hold safetensors: an engine of a plugin's may read other formats."""
    folders = [folder, *_module_folders(folder)]
    for each in folders:
        safe = any((each / name).is_file() for name in _SAFE_WEIGHTS)
        unsafe = sorted(path.name for path in each.iterdir() if path.suffix.lower() in _UNSAFE_SUFFIXES)
        if unsafe and not safe:
            raise UnsafeModelFormat(f"{folder.name}: {unsafe[0]} can run code when it is read")
    for each in folders:
        for path in sorted(each.glob("*.safetensors")):
            read_safetensors_header(path)
        for path in sorted(each.glob("*.json")):
            check_config(path)


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors' `dtype`, `shape` and `data_offsets` by name, each checked against the file's size.

    Raises:
        ModelInvalid: the file is cut short, its header is over 100 MB or malformed, or the tensors do not fill the
            rest of the file one after the other.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelInvalid(f"{path.name}: {size} bytes are no safetensors file", hint=_AGAIN)
        (n_header,) = struct.unpack("<Q", prefix)
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
    for start, next_end in ranges:
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
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"offsets and shape are {numbers}")
    for dimension in entry["shape"]:
        n_bits *= dimension
    if (end - start) * 8 != n_bits:
        raise ValueError(f"offsets {start} to {end} do not fit {entry['dtype']} {entry['shape']}")
    return start, end


def check_gguf(path: Path) -> None:
    """Checks the beginning of a GGUF file; its converter runs in a process of its own.

    Raises:
        ModelInvalid: it is no GGUF file of version 2 or 3, or its counts are absurd.
    """
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise ModelInvalid(f"{path.name} is no GGUF file", hint=_AGAIN)
    version, n_tensors, n_values = struct.unpack("<IQQ", head[4:])
    if version not in (2, 3):
        raise ModelInvalid(f"{path.name} has GGUF version {version}, 2 and 3 are known", hint="get a newer file")
    if not 0 < n_tensors <= _MAX_GGUF_COUNT or n_values > _MAX_GGUF_COUNT:
        raise ModelInvalid(f"{path.name} claims {n_tensors:,} tensors and {n_values:,} values", hint=_AGAIN)


def check_config(path: Path) -> None:
    """Refuses a JSON file that names code to run, at any depth.

    Raises:
        ModelInvalid: it is not JSON, or over 64 MB.
        UnsafeModelConfig: it has `auto_map`, a hub kernel, or another way to foreign code.
    """
    if path.name in ("tokenizer.json", "vocab.json"):
        return  # words, not settings: a vocabulary may hold any; their reader is Rust and bears malformed ones
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ModelInvalid(f"{path.name}: {path.stat().st_size:,} bytes are no configuration", hint=_AGAIN)
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
        for each in value:
            _check_value(each, name, depth + 1)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _CODE_KEYS and inner:
            raise UnsafeModelConfig(f"{name}: {key!r} asks to run code that comes with the model")
        # transformers fetches `owner/kernel` implementations from the hub and runs them.
        if key in _KERNEL_KEYS and "/" in json.dumps(inner):
            raise UnsafeModelConfig(f"{name}: {key!r} names a kernel of a hub: {inner!r}")
        _check_value(inner, name, depth + 1)


def _check_modules(modules: Any) -> None:
    """sentence-transformers imports the class that each `type` names, whatever module it is of."""
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelInvalid("modules.json: not a list of modules", hint=_AGAIN)
    for each in modules:
        if not str(each.get("type", "")).startswith("sentence_transformers."):
            raise UnsafeModelConfig(f"modules.json: {each.get('type')!r} is no module of sentence-transformers")
        if re.search(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]", str(each.get("path", ""))):
            raise UnsafeModelConfig(f"modules.json: the path {each['path']!r} leaves the folder")


def _check_index(index: Any, path: Path) -> None:
    """The shards that an index names must be safetensors files beside it."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelInvalid(f"{path.name}: there is no weight_map", hint=_AGAIN)
    for shard in {str(shard) for shard in shards.values()}:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UnsafeModelFormat(f"{path.name}: {shard!r} is no safetensors file of this folder")
        if not (path.parent / shard).is_file():
            raise ModelInvalid(f"{path.name}: the shard {shard} is missing", hint="give the folder of a whole model")


def _module_folders(folder: Path) -> list[Path]:
    """The sub-folders that sentence-transformers reads; other loaders stay in the folder itself."""
    if not (folder / "modules.json").is_file():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def file_sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class FileHashes:
    """sha256 of files, computed again only where size or time of change are others."""

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
    """What an adapter depends on: `weights_sha256` and `tokenizer_sha256` over the names and hashes of such files.

    Either is empty where there are no such files.
    """
    paths = [path for path in folder.iterdir() if path.is_file()]
    weights = [path for path in paths if path.name.endswith((".safetensors", "config.json"))]
    tokenizer = [path for path in paths if path.name.startswith(_TOKENIZER_FILES)]
    return {
        "weights_sha256": _digest_of({path.name: hash_of(path) for path in weights}),
        "tokenizer_sha256": _digest_of({path.name: hash_of(path) for path in tokenizer}),
    }


def _digest_of(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest() if hashes else ""
