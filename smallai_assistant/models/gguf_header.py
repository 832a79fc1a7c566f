"""Checks the header of a GGUF file before the library that reads it does.

The format, version 2 or 3, little endian:

    "GGUF"; u32 version; u64 number of tensors; u64 number of values
    for each value: str name; u32 type; the value
    for each tensor: str name; u32 rank; u64 shape[rank]; u32 type; u64 offset
    padding to the alignment; the data of the tensors

A str is a u64 length and the bytes. A value of type array is a u32 type, a u64 length and the items.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from smallai_assistant.errors import ModelInvalid
from smallai_assistant.models.json_files import AGAIN, check_claims

# struct's codes of the value types with a fixed size; 8 is a str, 9 an array.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Items of all arrays together. Gemma 3 has the most so far: 262,144 words, as many scores and types, 514,906 merges.
_MAX_ITEMS = 4_000_000
_MAX_TENSORS = 400_000  # Kimi K2 has 211,000 before its experts are stacked
_MAX_VALUES = 10_000  # files have 20 to 60
_MAX_NAME_BYTES = 1_024  # the format allows 65,535 for values and 64 for tensors
_MAX_TEXT_BYTES = 2**20  # a chat template is the longest text that is not in an array, about 30 kB
_MAX_RANK = 4


def check_gguf(path: Path) -> None:
    """Checks that the header of a GGUF file is whole and that its tensors lie within the file.

    It walks over each text of the vocabulary, about half a second for 1.3 million, and reads no weights. The converter,
    which does, runs in a child process.

    Raises:
        ModelInvalid: it is not a GGUF file of version 2 or 3, it is cut short or malformed, or it claims more than
            its tensors can be.
    """
    with path.open("rb") as file:
        if len(file.read(24)) < 24:
            raise ModelInvalid(f"{path.name} is not a GGUF file", hint=AGAIN)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _check(_Reader(data), path.name)
            except (ValueError, OverflowError, struct.error) as error:
                raise ModelInvalid(f"{path.name}: malformed header ({error})", hint=AGAIN) from error


class _Reader:
    """Reads values from the mapped file, in order; `struct.error` or ValueError means that one is cut short."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0
        self.n_items = 0

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def text(self, max_bytes: int) -> str:
        n = self.number("Q")
        if n > max_bytes or self.position + n > len(self.data):
            raise ValueError(f"a text of {n:,} bytes")
        raw = self.data[self.position : self.position + n]
        self.position += n
        return raw.decode(errors="replace")

    def value(self, kind: int) -> Any:
        """A value; None for an array, which is only walked over."""
        if kind in _FIXED:
            return self.number(_FIXED[kind])
        if kind == _STRING:
            return self.text(_MAX_TEXT_BYTES)
        if kind != _ARRAY:
            raise ValueError(f"the value type {kind}")
        item_kind, n = self.number("I"), self.number("Q")
        self.n_items += n
        if self.n_items > _MAX_ITEMS:
            raise ValueError(f"over {_MAX_ITEMS:,} items in arrays")
        if item_kind in _FIXED:
            self.position += n * struct.calcsize("<" + _FIXED[item_kind])
        elif item_kind == _STRING:
            self._skip_texts(n)
        else:  # an array of arrays is allowed and in no model
            raise ValueError(f"an array of the type {item_kind}")
        if self.position > len(self.data):
            raise ValueError("an array is cut short")
        return None

    def _skip_texts(self, n: int) -> None:
        # A loop of its own with local names: a vocabulary has up to a million texts.
        unpack, data, position, end = struct.Struct("<Q").unpack_from, self.data, self.position, len(self.data)
        for _ in range(n):
            position += 8 + unpack(data, position)[0]
            if position > end:
                raise ValueError("a text is cut short")
        self.position = position


def _check(reader: _Reader, name: str) -> None:
    if reader.data[:4] != b"GGUF":
        raise ModelInvalid(f"{name} is not a GGUF file", hint=AGAIN)
    reader.position = 4
    version, n_tensors, n_values = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version not in (2, 3):
        raise ModelInvalid(f"{name} has GGUF version {version}, only 2 and 3 can be read", hint="get a newer file")
    if not 0 < n_tensors <= _MAX_TENSORS or n_values > _MAX_VALUES:
        raise ModelInvalid(f"{name} claims {n_tensors:,} tensors and {n_values:,} values", hint=AGAIN)
    values: dict[str, Any] = {}
    for _ in range(n_values):
        key = reader.text(_MAX_NAME_BYTES)
        if key in values:
            raise ValueError(f"{key!r} is there twice")
        values[key] = reader.value(reader.number("I"))
    sizes = list(_tensors(reader, n_tensors))
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**16 or alignment % 8:
        raise ValueError(f"the alignment {alignment}")
    begin = reader.position + (-reader.position) % alignment
    n_data = len(reader.data) - begin
    # Together as well: tensors that share their bytes would make a small file a large model.
    if any(offset + n_bytes > n_data for offset, n_bytes in sizes) or sum(n for _, n in sizes) > n_data:
        raise ModelInvalid(f"{name}: the tensors end after the file", hint=AGAIN)
    if not isinstance(values.get("general.architecture"), str):
        raise ModelInvalid(f"{name}: general.architecture is not a name", hint=AGAIN)
    # The keys are `ARCHITECTURE.NAME`; ids of tokens and the like are small in any case.
    claims = {key.partition(".")[2]: value for key, value in values.items() if not key.startswith("general.")}
    check_claims(claims, name, n_tensors=n_tensors)


def _tensors(reader: _Reader, n_tensors: int) -> Iterator[tuple[int, int]]:
    """The offset and the number of bytes of each tensor."""
    from gguf.constants import GGML_QUANT_SIZES

    blocks = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    names = set()
    for _ in range(n_tensors):
        names.add(reader.text(_MAX_NAME_BYTES))
        rank = reader.number("I")
        if not 0 < rank <= _MAX_RANK:
            raise ValueError(f"a tensor of rank {rank}")
        shape = [reader.number("Q") for _ in range(rank)]
        kind, offset = reader.number("I"), reader.number("Q")
        if kind not in blocks:
            raise ValueError(f"the tensor type {kind}")
        n_weights, n_bytes = blocks[kind]
        if not all(shape) or shape[0] % n_weights:
            raise ValueError(f"the shape {shape} for the tensor type {kind}")
        yield offset, prod(shape) // n_weights * n_bytes
    if len(names) != n_tensors:
        raise ValueError("a tensor is there twice")
