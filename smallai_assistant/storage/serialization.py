"""Turns and their parts as JSON: written for storage, read back, and checked if they come from a foreign file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InputTooLarge, InvalidInput
from smallai_assistant.storage.import_lines import depth
from smallai_assistant.types import (
    MAX_TEXT_CHARS,
    AudioPart,
    ImagePart,
    ItemPart,
    LabelPart,
    Part,
    SegmentPart,
    TextPart,
)
from smallai_assistant.validation import canonical_key, check_storable, check_time, shown

# The keys of a turn that the database stores as one JSON text; the others have columns.
TURN_BODY = ("role", "request", "response", "model", "adapter", "notices", "details", "timings", "error")
_KEYS = {"id", "session_id", "user_id", "task", "created_at", *TURN_BODY}
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_DETAILS_DEPTH = 200  # the line of an export adds some levels to it, see `import_lines.MAX_DEPTH`


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_number(value: Any) -> bool:
    # bool is a subclass of int in Python. NaN passes: a plugin may store it, and it must survive an export.
    return isinstance(value, float) or _is_whole_number(value)


def _is_whole_number(value: Any) -> bool:
    # A number of 5,000 digits is read and can never be written again.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_media(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _SHA256.fullmatch(value) is not None)


# A foreign file may name no path: it could be any file of this machine.
_FILE: Mapping[str, Callable[[Any], bool]] = {"path": lambda value: value is None, "media": _is_media}
# The keys of each part type beside `type`, and a check of each value.
_PARTS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "text": {"text": _is_text},
    "image": _FILE,
    "audio": _FILE,
    "label": {"label": _is_text, "id": _is_whole_number, "score": _is_number},
    "segment": {"text": _is_text, "start_s": _is_number, "end_s": _is_number},
    "item": {"id": _is_text, "title": _is_text, "score": _is_number, "why": _is_text},
}


def checked_turn(row: Any) -> dict[str, Any]:
    """Checks a turn of a foreign file against the form that an export writes.

    Args:
        row: the parsed JSON, of any type.

    Returns:
        A new dict with the same values; `created_at` is ISO 8601 with a time zone (UTC if the file gives none).

    Raises:
        InvalidInput: a key is missing or unknown, or a value is of the wrong type or out of range; it names the key.
        InputTooLarge: the texts of the request have over 1,000,000 characters.
    """
    if not isinstance(row, dict):
        raise InvalidInput("the turn is not a JSON object")
    if row.keys() != _KEYS:
        raise InvalidInput(f"the turn's keys are missing or unknown: {', '.join(sorted(row.keys() ^ _KEYS))}")
    for name, limit in (("id", 64), ("session_id", 64), ("task", 128)):
        check_storable(f"the turn's {name}", row[name], limit)
        if not row[name]:
            raise InvalidInput(f"the turn's {name} is empty")
    if row["user_id"] is not None:
        row = {**row, "user_id": canonical_key("the turn's user_id", row["user_id"])}
    checks: dict[str, Callable[[Any], bool]] = {
        "role": lambda value: value in ("user", "assistant"),
        "model": _is_text_or_none,
        "adapter": _is_text_or_none,
        "error": _is_text_or_none,
        "notices": _are_notices,
        "details": lambda value: isinstance(value, dict) and depth(value) <= MAX_DETAILS_DEPTH,
        "timings": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    }
    for name, is_valid in checks.items():
        if not is_valid(row[name]):
            raise InvalidInput(f"the turn's {name} has a wrong type or value")
    for name in ("request", "response"):
        _check_parts(name, row[name])
    if not row["request"]:
        raise InvalidInput("the turn's request is empty")
    if sum(len(part["text"]) for part in row["request"] if part["type"] == "text") > MAX_TEXT_CHARS:
        raise InputTooLarge(f"the turn's request has over {MAX_TEXT_CHARS:,} characters")
    return {**row, "created_at": read_time("the turn's created_at", row["created_at"]).isoformat()}


def _check_parts(name: str, parts: Any) -> None:
    if not isinstance(parts, list):
        raise InvalidInput(f"the turn's {name} is not a list")
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        checks = _PARTS.get(kind) if isinstance(kind, str) else None
        if checks is None:
            raise InvalidInput(
                f"the turn's {name} has a part of type {shown(kind)}", hint=f"known: {', '.join(_PARTS)}"
            )
        if part.keys() != {"type", *checks} or not all(check(part[key]) for key, check in checks.items()):
            raise InvalidInput(f"a {kind} part of the turn's {name} has a wrong key, type or value")
    parts_from_json(parts)  # the parts check themselves too, such as for texts that cannot be stored


def _are_notices(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(notice, list) and len(notice) == 2 and all(map(_is_text, notice)) for notice in value
    )


def read_time(name: str, value: Any) -> datetime:
    """The time that a file states as ISO 8601. Without a zone it is UTC: a file must mean the same on every machine.

    Raises:
        InvalidInput: it is not a time, or the database cannot give it back.
    """
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} is {shown(value)}", hint="give a time as ISO 8601") from error
    return check_time(name, at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def parts_to_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts as JSON objects; a file part is written as its path, and bytes without a file as None.

    The store adds the key `media`, the sha256 under which it keeps the bytes.
    """
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
    """The inverse of `parts_to_json`; a file part without a path has empty bytes.

    Raises:
        InvalidInput: a part has an unknown type, or holds what a part may not hold.
    """
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
