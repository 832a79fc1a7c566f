"""The format of an export of feedback: one JSON object a line, checked line by line when it is read.

The first line is the header. A feedback is `{"feedback": ..., "state": ..., "turn": ...}`. A picture or recording is
`{"media": SHA256, "data": BASE64}`, before the first feedback that needs it. A file needs no other files and can be
piped. Paths are neither written nor read: they would reveal the sender's folders, and a foreign file could name any
file of this machine.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from smallai_assistant.errors import InputTooLarge, InvalidInput
from smallai_assistant.feedback import Feedback
from smallai_assistant.storage.feedback_store import feedback_from_json
from smallai_assistant.storage.import_lines import ImportLines, in_line, parse_object
from smallai_assistant.storage.media import MAX_KEPT_MEDIA_BYTES
from smallai_assistant.storage.serialization import checked_turn
from smallai_assistant.types import now
from smallai_assistant.validation import MAX_AHEAD, check_said, shown

FORMAT = "smallai-feedback"
VERSION = 1
MAX_MEDIA_LINE_BYTES = MAX_KEPT_MEDIA_BYTES * 4 // 3 + 10_000  # base64 of the largest file that is kept
# A request has up to a million characters, each of up to twelve bytes as an ASCII escape; the rest is for the answer.
MAX_ROW_BYTES = 16 * 2**20
# As `json.dumps` writes it, in any spacing. A line of 80 MB is matched in place: as JSON it would be copied twice.
_MEDIA = re.compile(rb'\s*+\{\s*+"media"\s*+:\s*+"([^"\\]*+)"\s*+,\s*+"data"\s*+:\s*+"([^"\\]*+)"\s*+\}\s*+')


@dataclass(frozen=True, slots=True)
class FeedbackLine:
    """A feedback of a file.

    Attributes:
        number: of the line.
        n_bytes: of the line.
        is_ahead: whether a time of it lay in the future; it is then the time of the import.
    """

    number: int
    given: Feedback
    state: str
    turn: Mapping[str, Any]
    n_bytes: int
    is_ahead: bool = False


@dataclass(frozen=True, slots=True)
class MediaLine:
    """A picture or recording of a file; `data` is empty if it was not asked for."""

    digest: str
    data: bytes


def header() -> dict[str, Any]:
    """The first line of an export."""
    return {"format": FORMAT, "version": VERSION, "created_at": now().isoformat()}


def read_lines(lines: ImportLines, *, with_data: bool = True) -> Iterator[FeedbackLine | MediaLine]:
    """The checked lines after the header.

    Args:
        with_data: False skips decoding and checking the data of media.

    Raises:
        InvalidInput: a line is malformed; the message names it.
    """
    has_header = False
    try:
        for line in lines.full(MAX_MEDIA_LINE_BYTES):
            if not has_header:
                _check_header(parse_object(_checked(line)))
                has_header = True
            elif (media := _MEDIA.fullmatch(line)) is not None:
                yield _media(line, media, with_data=with_data)
            else:
                yield _feedback(lines.number, line)
        if not has_header:
            raise InvalidInput("the file is empty")
    except InvalidInput as error:
        raise in_line(lines, error) from error


def _checked(line: bytes) -> bytes:
    if len(line) > MAX_ROW_BYTES:
        raise InputTooLarge(f"longer than {MAX_ROW_BYTES:,} bytes", hint="shorten the texts")
    return line


def _check_header(row: Mapping[str, Any]) -> None:
    if row.get("format") != FORMAT:
        raise InvalidInput("the header is missing", hint="give a file that `smallai feedback export` wrote")
    version = row.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise InvalidInput(f"version {shown(version)}, this program reads {VERSION}", hint="upgrade smallai-assistant")


def _media(line: bytes, match: re.Match[bytes], *, with_data: bool) -> MediaLine:
    digest = match[1].decode("ascii", "replace")
    if not with_data:
        return MediaLine(digest, b"")
    try:
        # A view, because the line may be 80 MB long.
        data = binascii.a2b_base64(memoryview(line)[match.start(2) : match.end(2)], strict_mode=True)
    except binascii.Error as error:
        raise InvalidInput(f"not base64: {error}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise InvalidInput("the data does not have the sha256 that the line states")
    return MediaLine(digest, data)


def _feedback(number: int, line: bytes) -> FeedbackLine:
    row = parse_object(_checked(line))
    if "media" in row:
        raise InvalidInput('a media line is {"media": SHA256, "data": BASE64} and nothing else')
    if row.keys() != {"feedback", "state", "turn"} or not isinstance(row["feedback"], dict):
        raise InvalidInput("a feedback line has `feedback`, `state` and `turn`, and nothing else")
    if row["state"] not in ("active", "retracted"):
        raise InvalidInput(f"state is {shown(row['state'])}", hint="known: active, retracted")
    given = feedback_from_json(row["feedback"])
    if "id" not in row["feedback"] or not given.id:
        raise InvalidInput("the feedback has no id")
    turn = checked_turn(row["turn"])
    if given.turn_id != turn["id"]:
        raise InvalidInput(f"the feedback is about {given.turn_id!r}, the turn is {turn['id']!r}")
    said_at, is_ahead = _said(given.created_at)
    asked_at, _ = _said(datetime.fromisoformat(turn["created_at"]))
    return FeedbackLine(
        number,
        replace(given, created_at=said_at),
        row["state"],
        {**turn, "created_at": asked_at.isoformat()},
        len(line),
        is_ahead,
    )


def _said(at: datetime) -> tuple[datetime, bool]:
    """The time, or now if it lies in the future, and whether it did: a wrong clock must not win over later words.

    Raises:
        InvalidInput: it is before 1970.
    """
    present = now()
    if at > present + MAX_AHEAD:
        return present, True
    check_said("created_at", at, present)
    return at, False


def line_of(value: Mapping[str, Any]) -> str:
    """A line of an export: ASCII, so that any terminal and any pipe carries it."""
    return json.dumps(value) + "\n"
