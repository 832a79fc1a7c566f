"""Parts as JSON, for storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InvalidInput
from smallai_assistant.types import AudioPart, ImagePart, ItemPart, LabelPart, Part, SegmentPart, TextPart


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
