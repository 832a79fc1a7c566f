"""The JSON files of a model folder: read within bounds, and checked for code to run and for impossible sizes.

Parsed JSON takes up to fifty times the memory of its text, so the text is measured before it is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallai_assistant.errors import ModelInvalid, UnsafeModelConfig, UnsafeModelFormat

AGAIN = "get the file again: it is damaged"
# Limits of a configuration. The largest of real models are those with names for 21,843 classes (1.7 MB, 44,000 values)
# and tokenizer_config.json of Gemma 3 (1.2 MB, 51,000 values).
_MAX_CONFIG_BYTES, _MAX_CONFIG_VALUES = 4 * 2**20, 300_000
# Limits of an index of shards. Kimi K2 in int4 has 211,000 tensors (about 24 MB).
_MAX_INDEX_BYTES, _MAX_INDEX_VALUES = 32 * 2**20, 500_000
# Limits of a vocabulary. The largest seen, tokenizer.json of Gemma 3, has 33 MB, and by the count below 1.9 million.
MAX_VOCABULARY_BYTES = 64 * 2**20
_MAX_VOCABULARY_VALUES = 4_000_000
_MAX_DEPTH = 200  # of nested JSON; the check calls itself once a level, and Python allows about 1,000
_CHUNK_BYTES = 2**20
# Keys of a configuration by which transformers or diffusers import code that comes with the model.
_CODE_KEYS = frozenset({"auto_map", "_attn_implementation_internal", "custom_pipelines", "trust_remote_code"})
# Keys that name an implementation of attention or of experts: a word is built in, `owner/name` is code of a hub.
_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
# Files of words: a vocabulary may have any word, also one of the keys above. They are measured and not parsed here.
_VOCABULARIES = ("tokenizer.json", "vocab.json")

# How many layers a configuration may claim whatever its weights are: building that many takes a second. The defaults
# of transformers put numbers like 28 into the configuration of a model with two layers.
_FREE_LAYERS = 1_000
_LAYERS = re.compile(r"layer|depth|block|stage")
# The largest number under any other key. The largest vocabulary, of XLM-V, has 901,629 words; loaders make one object
# for each class name, expert or head that is claimed.
_MAX_NUMBER = 2**20
# Keys whose number says nothing of the size of an object in memory, and may be larger.
_MEASURES = re.compile(r"theta|position|length|context|pixel|param|seed|base|window|version")
# Llama 4 Scout has the longest context so far, 10,485,760 tokens.
MAX_CONTEXT = 2**25
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape that may be one
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "context_length")
_MAX_SIDE = 4_096  # of a picture that a processor makes: 200 MB at 32 bits; DINOv3 and SAM use up to 2,048


def parse_json(raw: bytes, name: str, *, max_values: int, has_unique_keys: bool = False) -> Any:
    """Parses JSON that has at most `max_values` values.

    Args:
        name: of the file, for the error.
        has_unique_keys: whether to refuse a key that is twice in an object. Python takes the last of them; a reader in
            another language may look at each.

    Raises:
        ModelInvalid: it is not JSON, has too many values, is nested too deep, or a text holds half a surrogate pair.
    """
    _check_values(_separators(raw), name, max_values)
    try:
        value = json.loads(raw, object_pairs_hook=_unique if has_unique_keys else None)
        if _HALF_PAIR.search(raw):  # Python takes an escaped half; readers in other languages refuse the whole file
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{name}: not JSON ({error})", hint=AGAIN) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a configuration file.

    Raises:
        ModelInvalid: the file cannot be read, holds something else than one object, or is over the limits.
    """
    value = parse_json(_read(path, _MAX_CONFIG_BYTES), path.name, max_values=_MAX_CONFIG_VALUES)
    if not isinstance(value, dict):
        raise ModelInvalid(f"{path.name}: not an object", hint=AGAIN)
    return value


def check_config(path: Path) -> Any:
    """Checks a JSON file of a model folder. Refuses one that names code to run, at any depth.

    Returns:
        The parsed file; None for a vocabulary, which is only measured.

    Raises:
        ModelInvalid: it is not JSON, over the limits, nested over 200 deep, or a field has the wrong type.
        UnsafeModelConfig: it has `auto_map`, a hub kernel, or another way to foreign code.
    """
    if path.name in _VOCABULARIES:
        _check_vocabulary(path)
        return None
    is_index = path.name.endswith(".safetensors.index.json")
    raw = _read(path, _MAX_INDEX_BYTES if is_index else _MAX_CONFIG_BYTES)
    value = parse_json(raw, path.name, max_values=_MAX_INDEX_VALUES if is_index else _MAX_CONFIG_VALUES)
    if path.name == "modules.json":
        _check_modules(value)
    elif is_index:
        _check_index(value, path)
    _check_value(value, path.name, 0)
    return value


def check_claims(config: Any, name: str, *, n_tensors: int) -> None:
    """Checks that the numbers of a configuration can belong to weights of `n_tensors` tensors.

    A loader builds what the configuration claims before it looks at the weights: with 10**6 layers, or 10**9 class
    names, it would not come to an end.

    Raises:
        ModelInvalid: a number is too large, or a field has the wrong type.
    """
    if not isinstance(config, dict):
        raise ModelInvalid(f"{name}: not an object", hint=AGAIN)
    architectures = config.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(architecture, str) for architecture in architectures)
    ):
        raise ModelInvalid(f"{name}: architectures is {_shown(architectures)}, not a list of names", hint=AGAIN)
    if not isinstance(config.get("model_type", ""), str):
        raise ModelInvalid(f"{name}: model_type is {_shown(config['model_type'])}, not a name", hint=AGAIN)
    for key in _CONTEXT_KEYS:
        if type(config.get(key, 1)) not in (int, type(None)):
            raise ModelInvalid(f"{name}: {key} is {_shown(config[key])}, not a whole number", hint=AGAIN)
    for key, number in _numbers(config):
        if key in _CONTEXT_KEYS and not 0 < number <= MAX_CONTEXT:
            raise ModelInvalid(f"{name}: {key} is {number:,}; 1 to {MAX_CONTEXT:,} is possible", hint=AGAIN)
        limit = _MAX_NUMBER
        if _LAYERS.search(key) and not key.endswith("size"):
            limit = max(_FREE_LAYERS, n_tensors)
        elif _MEASURES.search(key):
            continue
        if abs(number) > limit:
            raise ModelInvalid(f"{name}: {key} is {number:,}, the weights are {n_tensors:,} tensors", hint=AGAIN)


def check_picture_sizes(value: Any, name: str) -> None:
    """Checks that a processor makes pictures of a possible size.

    Raises:
        ModelInvalid: a side would have over 4,096 pixels.
    """
    for key, number in _numbers(value):
        if abs(number) > _MAX_SIDE and "pixel" not in key:
            raise ModelInvalid(f"{name}: {key} is {number:,}, {_MAX_SIDE:,} pixels are possible", hint=AGAIN)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in parsed JSON, each with the nearest key above it. `check_config` has bounded the depth."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _numbers(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelInvalid(f"{path.name} cannot be read: {error.strerror}", hint=AGAIN) from error
    if len(raw) > max_bytes:
        raise ModelInvalid(f"{path.name}: over {max_bytes:,} bytes are too many for a configuration", hint=AGAIN)
    return raw


def _separators(raw: bytes) -> int:
    """At least the number of values less one: every value but the first is behind one of these characters."""
    return sum(raw.count(character) for character in (b",", b"[", b"{"))


def _check_values(n: int, name: str, max_values: int) -> None:
    if n > max_values:
        raise ModelInvalid(f"{name}: over {max_values:,} values are too many for such a file", hint=AGAIN)


def _check_vocabulary(path: Path) -> None:
    n = 0
    try:
        with path.open("rb") as file:
            for _ in range(MAX_VOCABULARY_BYTES // _CHUNK_BYTES + 1):
                if not (chunk := file.read(_CHUNK_BYTES)):
                    break
                n += _separators(chunk)
            else:
                raise ModelInvalid(f"{path.name}: over {MAX_VOCABULARY_BYTES:,} bytes are too many", hint=AGAIN)
    except OSError as error:
        raise ModelInvalid(f"{path.name} cannot be read: {error.strerror}", hint=AGAIN) from error
    _check_values(n, path.name, _MAX_VOCABULARY_VALUES)


def _check_value(value: Any, name: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ModelInvalid(f"{name}: nested over {_MAX_DEPTH} deep", hint=AGAIN)
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
        raise ModelInvalid("modules.json: not a list of modules", hint=AGAIN)
    for module in modules:
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise UnsafeModelConfig(f"modules.json: {module.get('type')!r} is not a module of sentence-transformers")
        if re.search(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]", str(module.get("path", ""))):
            raise UnsafeModelConfig(f"modules.json: the path {module['path']!r} leaves the folder")


def _check_index(index: Any, path: Path) -> None:
    """Checks that the shards that an index names are safetensors files in its folder."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelInvalid(f"{path.name}: there is no weight_map", hint=AGAIN)
    for shard in {str(shard) for shard in shards.values()}:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UnsafeModelFormat(f"{path.name}: {shard!r} is not a safetensors file of this folder")
        if not (path.parent / shard).is_file():
            raise ModelInvalid(f"{path.name}: the shard {shard} is missing", hint="give the folder of a complete model")
