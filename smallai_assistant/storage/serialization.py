"""Turns and their parts as JSON: written for storage, read back, and checked when they come from a foreign file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InputTooLarge, InvalidInput
from smallai_assistant.types import (
    MAX_TEXT_CHARS,
    AudioPart,
    ImagePart,
    ItemPart,
    LabelPart,
    Part,
    SegmentPart,
    TextPart,
    check_storable,
)

TURN_BODY = ("role", "request", "response", "model", "adapter", "notices", "details", "timings", "error")
_KEYS = {"id", "session_id", "user_id", "task", "created_at", *TURN_BODY}
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_DETAILS_DEPTH = 200


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)  # a plugin's NaN comes back as it was


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_media(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _SHA256.fullmatch(value) is not None)


_FILE: Mapping[str, Callable[[Any], bool]] = {"path": lambda value: value is None, "media": _is_media}
# What each part has beside its type.
_PARTS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "text": {"text": _is_text},
    "image": _FILE,
    "audio": _FILE,
    "label": {"label": _is_text, "id": _is_whole_number, "score": _is_number},
    "segment": {"text": _is_text, "start_s": _is_number, "end_s": _is_number},
    "item": {"id": _is_text, "title": _is_text, "score": _is_number, "why": _is_text},
}


def checked_turn(row: Any) -> dict[str, Any]:
    """The turn, unless something about it is not as an export writes it.

    Returns:
        A new dict; `created_at` has its zone.

    Raises:
        InvalidInput: a key is missing or unknown, or a value of the wrong type; it names the key.
        InputTooLarge: the texts of the request are over 1,000,000 characters.
    """
    if not isinstance(row, dict):
        raise InvalidInput("the turn is no JSON object")
    if row.keys() != _KEYS:
        raise InvalidInput(f"the turn has not the right keys: {', '.join(sorted(row.keys() ^ _KEYS))}")
    for name, limit in (("id", 64), ("session_id", 64), ("task", 128)):
        check_storable(f"the turn's {name}", row[name], limit)
        if not row[name]:
            raise InvalidInput(f"the turn's {name} is empty")
    if row["user_id"] is not None:
        check_storable("the turn's user_id", row["user_id"], 512)
    checks: dict[str, Callable[[Any], bool]] = {
        "role": lambda value: value in ("user", "assistant"),
        "model": _is_text_or_none,
        "adapter": _is_text_or_none,
        "error": _is_text_or_none,
        "notices": _are_notices,
        "details": lambda value: isinstance(value, dict) and _depth(value) <= MAX_DETAILS_DEPTH,
        "timings": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    }
    for name, is_right in checks.items():
        if not is_right(row[name]):
            raise InvalidInput(f"the turn's {name} is not as it should be")
    for name in ("request", "response"):
        _check_parts(name, row[name])
    if not row["request"]:
        raise InvalidInput("the turn's request is empty")
    if sum(len(part["text"]) for part in row["request"] if part["type"] == "text") > MAX_TEXT_CHARS:
        raise InputTooLarge(f"the turn's request has over {MAX_TEXT_CHARS:,} characters")
    return {**row, "created_at": _time(row["created_at"])}


def _check_parts(name: str, parts: Any) -> None:
    if not isinstance(parts, list):
        raise InvalidInput(f"the turn's {name} is no list")
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        checks = _PARTS.get(kind) if isinstance(kind, str) else None
        if checks is None:
            raise InvalidInput(f"the turn's {name} has a part of type {kind!r}", hint=f"known: {', '.join(_PARTS)}")
        if part.keys() != {"type", *checks} or not all(check(part[key]) for key, check in checks.items()):
            raise InvalidInput(f"a {kind} part of the turn's {name} is not as it should be")
    parts_from_json(parts)


def _are_notices(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, list) and len(each) == 2 and all(map(_is_text, each)) for each in value
    )


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _time(value: Any) -> str:
    try:
        at = datetime.fromisoformat(value)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        datetime.fromtimestamp(at.timestamp(), UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the turn's created_at is {value!r}", hint="give a time as ISO 8601") from error
    return at.isoformat()


def parts_to_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """JSON for storage; a file part becomes its path, or its `media` key once the store has kept the bytes."""
    return list(_parts_to_json(parts))


def _parts_to_json(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    for part in parts:
        match part:
            case TextPart(text):
                yield {"type": "text", "text": text}
            case ImagePart(path):
                yield {"type": "image", "path": None if path is None else str(path)}
            case AudioPart(path):
                yield {"type": "audio", "path": None if path is None else str(path)}
            case LabelPart(label, id_, score):
                yield {"type": "label", "label": label, "id": id_, "score": score}
            case SegmentPart(text, start_s, end_s):
                yield {"type": "segment", "text": text, "start_s": start_s, "end_s": end_s}
            case ItemPart(id_, title, score, why):
                yield {"type": "item", "id": id_, "title": title, "score": score, "why": why}


def parts_from_json(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """The inverse of `parts_to_json`."""
    return tuple(_part_from_json(row) for row in rows)


def _part_from_json(row: Mapping[str, Any]) -> Part:
    match row["type"]:
        case "text":
            return TextPart(row["text"])
        case "image":
            return ImagePart(Path(row["path"])) if row["path"] else ImagePart(data=b"")
        case "audio":
            return AudioPart(Path(row["path"])) if row["path"] else AudioPart(data=b"")
        case "label":
            return LabelPart(row["label"], row["id"], row["score"])
        case "segment":
            return SegmentPart(row["text"], row["start_s"], row["end_s"])
        case "item":
            return ItemPart(row["id"], row["title"], row["score"], row["why"])
    raise InvalidInput(f"unknown part type {row['type']!r}")
