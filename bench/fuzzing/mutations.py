"""Seeded mutations of valid inputs: of bytes, of text, of JSON, and of files that are made of pieces."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_INTEGERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 2**15, 2**16 - 1, 2**16, 2**20, 2**24, 2**31 - 1, 2**31,
             2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
MAX_REPEATED_BYTES = 2**21  # of one repetition: enough for a million empty pieces, small enough for many inputs
_TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\u202e",
    "e\u0301",
    "\u0041\u030a",
    "<|im_start|>",
    "../../x",
    "/dev/zero",
    "~",
    "$(x)",
    "https://x.y/z",
    "{{ x }}",
    "{% for i in range(10) %}x{% endfor %}",
    "NaN",
    "1e999",
    "-1",
    "0x10",
    "true",
    "null",
    "A" * 600,
    "\u0301" * 200,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "2026-01-31T18:00:00",
    "0001-01-01T00:00:00+14:00",
    "\x1b[2J",
    "a\r\nb",
    "\ufeff",
    "\u00df",
    "\u0130",
    "file:///etc/passwd",
    "%s%n",
    "'; drop table turns; --",
    "__class__",
)


def integer(rng: Random) -> int:
    """A whole number near a limit of some type."""
    return rng.choice((1, 1, 1, -1)) * rng.choice(_INTEGERS) + rng.choice((0, 0, 0, 1, -1))


def text(rng: Random) -> str:
    """A text that is hard on parsers, on Unicode or on a terminal."""
    return "".join(rng.choice(_TEXTS) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def nested(rng: Random, depth: int) -> Any:
    """A value in lists or objects of the depth."""
    value: Any = rng.choice((1, "x", None))
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def value(rng: Random) -> Any:
    """A JSON value that is hard on what reads it."""
    return rng.choice(
        (
            lambda: None,
            lambda: rng.random() < 0.5,
            lambda: integer(rng),
            lambda: 10 ** rng.choice((20, 300, 400, 4000)),
            lambda: rng.choice((float("nan"), float("inf"), -0.0, 1e308, 5e-324, 0.5, -1.5)),
            lambda: text(rng),
            lambda: text(rng),
            list,
            dict,
            lambda: [value(rng) for _ in range(rng.randrange(4))],
            lambda: {text(rng): value(rng) for _ in range(rng.randrange(4))},
            lambda: nested(rng, rng.choice((3, 50, 199, 201, 400))),
            lambda: [0] * rng.choice((10, 1000, 30_000)),
        )
    )()


def mutate_json(rng: Random, tree: Any) -> Any:
    """A copy of a JSON value with one to three places changed."""
    root = {"": copy.deepcopy(tree)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(root))
        holder, key = rng.choice(places)
        kind = rng.randrange(7)
        if kind <= 2:
            holder[key] = value(rng)
        elif kind == 3 and len(places) > 1 and holder is not root:
            del holder[key]
        elif kind == 4:  # what stands elsewhere
            other, other_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[other_key]) if other_key in _keys(other) else None
        elif kind == 5 and isinstance(holder, dict) and holder is not root:
            name = key if rng.random() < 0.5 else text(rng)
            holder[f"{name}{rng.choice(('', '_', ' '))}"] = value(rng)
        else:
            holder[key] = _varied(rng, holder[key])
    return root[""]


def _varied(rng: Random, old: Any) -> Any:
    if isinstance(old, bool) or old is None:
        return not old
    if isinstance(old, (int, float)):
        return rng.choice((-old, old + 1, old * 1000, 0.3, "7"))
    if isinstance(old, str):
        return rng.choice((old + text(rng), old[: len(old) // 2], old.upper(), old * 3, [old]))
    return [old] if rng.random() < 0.5 else (list(old) * 2)


def _keys(holder: Any) -> Sequence[Any]:
    return list(holder) if isinstance(holder, dict) else range(len(holder))


def _places(holder: Any) -> Any:
    """Every place in a JSON value, as its holder and its key there."""
    waiting = [holder]
    while waiting:
        here = waiting.pop()
        for key in _keys(here):
            yield here, key
            if isinstance(here[key], (dict, list)):
                waiting.append(here[key])


def dump(rng: Random, tree: Any) -> bytes:
    """JSON as UTF-8, in one of the ways to write it."""
    written = json.dumps(tree, ensure_ascii=rng.random() < 0.7, separators=rng.choice(((",", ":"), (", ", ": "))))
    return written.encode("utf-8", "surrogatepass")


def mutate_bytes(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A copy of `data` with one to four places changed.

    Args:
        others: inputs that it may get pieces of.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at = rng.randrange(len(out) + 1)
        n = min(rng.choice((1, 1, 2, 4, 8, 16, 64, 256)), len(out))
        kind = rng.randrange(9)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.choice((0, 1, 0x20, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        elif kind == 2:
            code = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            number = struct.pack(code, integer(rng) % 256 ** struct.calcsize(code))
            out[at : at + len(number)] = number
        elif kind == 3:
            del out[at : at + n]
        elif kind == 4:
            out[at:at] = out[max(0, at - n) : at] * rng.choice((1, 1, 2, 10))
        elif kind == 5:
            out[at:at] = rng.randbytes(n)
        elif kind == 6:
            del out[rng.randrange(len(out) + 1) :]
        elif kind == 7 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at : at + rng.choice((0, n))] = other[start : start + rng.choice((n, 4 * n, len(other)))]
        elif kind == 8 and rng.random() < 0.03:
            piece = bytes(out[at : at + n]) or b"\0"
            out[at:at] = piece * rng.randrange(1, MAX_REPEATED_BYTES // len(piece))
    return bytes(out)


Piece = tuple[bytes, bytes]  # what names it, and its content; `join` writes lengths and checksums


def mutate_pieces(
    rng: Random,
    data: bytes,
    others: Sequence[bytes],
    split: Callable[[bytes], list[Piece]],
    join: Callable[[list[Piece]], bytes],
) -> bytes:
    """A copy of a file with pieces changed, whose lengths and checksums are right."""
    pieces = split(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(pieces))
        head, body = pieces[at]
        kind = rng.randrange(8)
        if kind <= 2:
            pieces[at] = (head, mutate_bytes(rng, body, others))
        elif kind == 3:
            pieces[at] = (mutate_bytes(rng, head)[: len(head)].ljust(len(head), b"\0"), body)
        elif kind == 4 and len(pieces) > 1:
            del pieces[at]
        elif kind == 5:
            pieces.insert(rng.randrange(len(pieces) + 1), pieces[at])
        elif kind == 6:
            pieces.insert(at, rng.choice(split(rng.choice(others))))
        elif kind == 7 and rng.random() < 0.05:
            small = (head, body[: rng.choice((0, 1, 16, 256))])
            pieces[at:at] = [small] * rng.randrange(1, MAX_REPEATED_BYTES // (12 + len(small[1])))
    return join(pieces)
