"""What a task may yield, checked by value: what passes can be shown, stored and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from smallai_assistant.storage.import_lines import depth
from smallai_assistant.storage.serialization import MAX_DETAILS_DEPTH
from smallai_assistant.types import (
    AudioPart,
    Details,
    ImagePart,
    ItemPart,
    LabelPart,
    Notice,
    SegmentPart,
    StreamItem,
    TextPart,
)
from smallai_assistant.validation import shown

_KINDS = (TextPart, ImagePart, AudioPart, LabelPart, SegmentPart, ItemPart, Notice, Details)
_MAX_DETAILS_CHARS = 1_000_000  # as JSON; they are facts about an answer, and each turn's are stored with it


def _is_number(value: Any) -> bool:
    # numpy's numbers, except its double, are no floats of Python, and JSON cannot hold them.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


# The annotation of a field -> what its value must be, in words and as a check.
_CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("text", lambda value: isinstance(value, str)),
    "int": ("a whole number", _is_whole_number),
    "float": ("a finite number", _is_number),
    "bytes | None": ("bytes", lambda value: value is None or isinstance(value, bytes)),
}
_FIELDS = {
    kind: [(field.name, *_CHECKS[str(field.type)]) for field in fields(kind) if str(field.type) in _CHECKS]
    for kind in _KINDS
}


def checked_item(item: Any) -> StreamItem:
    """Returns an item that a task yielded; details come back as plain JSON values.

    Raises:
        ValueError: it is not an item, or one of its values cannot be used. The message says which.
    """
    kind = next((kind for kind in _KINDS if isinstance(item, kind)), None)
    if kind is None:
        raise ValueError(shown(item))
    for name, what, is_right in _FIELDS[kind]:
        value = getattr(item, name)
        if not is_right(value):
            raise ValueError(f"{kind.__name__} whose {name} is {shown(value)}, which is not {what}")
    return Details(_plain(item.values)) if isinstance(item, Details) else item


def _plain(values: Any) -> dict[str, Any]:
    """Details as they are read back from the store."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"Details of {shown(values)}, which is not a mapping from text")
    try:
        text = json.dumps(dict(values), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"Details that are not JSON: {error}") from error
    plain: dict[str, Any] = json.loads(text)
    if len(text) > _MAX_DETAILS_CHARS or depth(plain) > MAX_DETAILS_DEPTH:
        raise ValueError(f"Details of more than {_MAX_DETAILS_CHARS:,} characters or {MAX_DETAILS_DEPTH} levels")
    return plain
