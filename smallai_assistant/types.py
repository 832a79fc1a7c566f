"""The frozen values that flow: parts, message, request, turn, notice."""

from __future__ import annotations

import math
import re
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from smallai_assistant.errors import InputTooLarge, InvalidInput, UrlNotAllowed

Modality = Literal["text", "image", "audio"]

MAX_TEXT_CHARS = 1_000_000
MAX_IMAGE_BYTES = 64 * 2**20
MAX_AUDIO_BYTES = 2 * 2**30
MAX_ITEM_CHARS = 20_000

# One slash is enough: pathlib folds "http://x" to "http:/x".
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:/|data:|file:)")
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".webm"})


def new_id() -> str:
    """A random 32-digit hexadecimal id."""
    return uuid.uuid4().hex


def now() -> datetime:
    """The time in UTC, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text; in a stream, a delta to append to what came before."""

    text: str


@dataclass(frozen=True, slots=True)
class _FilePart:
    """A file by path or by content, exactly one of the two."""

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError("give exactly one of path and data")
        if self.path is not None:
            object.__setattr__(self, "path", _checked_path(self.path))

    @property
    def name(self) -> str:
        """The file's path as given, or `<bytes>`."""
        return "<bytes>" if self.path is None else str(self.path)

    def _read(self, limit_bytes: int) -> bytes:
        if self.data is not None:
            if len(self.data) > limit_bytes:
                raise InputTooLarge(f"{len(self.data):,} bytes given, {limit_bytes:,} allowed")
            return self.data
        assert self.path is not None
        try:
            if not self.path.is_file():
                kind = "a folder" if self.path.is_dir() else "not there"
                raise InvalidInput(f"{self.path}: {kind}", hint="give the path of a file")
            n_bytes = self.path.stat().st_size
            if n_bytes > limit_bytes:
                raise InputTooLarge(f"{self.path}: {n_bytes:,} bytes, {limit_bytes:,} allowed")
            return self.path.read_bytes()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{self.path}: cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class ImagePart(_FilePart):
    """A picture: the path or the bytes of an encoded file."""

    def read(self) -> bytes:
        """The encoded file, at most 64 MiB.

        Raises:
            InvalidInput: the file is missing, a folder or unreadable.
            InputTooLarge: it is over the limit.
        """
        return self._read(MAX_IMAGE_BYTES)


@dataclass(frozen=True, slots=True)
class AudioPart(_FilePart):
    """A recording: the path or the bytes of an encoded file."""

    def read(self) -> bytes:
        """The encoded file, at most 2 GiB.

        Raises:
            InvalidInput: the file is missing, a folder or unreadable.
            InputTooLarge: it is over the limit.
        """
        return self._read(MAX_AUDIO_BYTES)


@dataclass(frozen=True, slots=True)
class LabelPart:
    """One class of a picture. `id` is the model's class index, -1 for a label the user named; `score` in [0, 1]."""

    label: str
    id: int
    score: float


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """A stretch of speech and its words; times in seconds from the start of the recording."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class ItemPart:
    """A recommended item. `score` orders the items of one answer and means nothing across answers."""

    id: str
    title: str
    score: float
    why: str


Part = TextPart | ImagePart | AudioPart | LabelPart | SegmentPart | ItemPart


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be recommended. `text` describes it; the recommender reads title and text."""

    id: str
    title: str
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_key("item id", self.id)
        check_storable("title", self.title, MAX_ITEM_CHARS)
        check_storable("text", self.text, MAX_ITEM_CHARS)


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user chose an item. `weight` in (0, 1000] says how strongly, `at` is seconds since 1970 (UTC)."""

    user: str
    item: str
    weight: float = 1.0
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        check_key("user", self.user)
        check_key("item", self.item)
        check_range("weight", self.weight, 1e-6, 1000.0)
        check_range("at", self.at, 0.0, 1e11)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know about an answer: a fallback, a cut, a skipped plugin.

    `code` is stable snake_case, `text` one plain sentence.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Details:
    """Facts about an answer that are not its content; JSON values only.

    A task may yield several; later keys win. Known keys: `model`, `adapter` (str), `n_prompt_tokens`,
    `n_completion_tokens` (int), `language` (str), `duration_s` (float), `cold_start` (bool), `stop_reason` (str).
    """

    values: Mapping[str, Any]


StreamItem = Part | Notice | Details


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said: at least one part."""

    parts: tuple[Part, ...]
    role: Literal["user", "assistant"] = "user"

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidInput("a message needs at least one part")

    @classmethod
    def of(cls, content: Content) -> Message:
        """Makes a message of whatever `Session.send` accepts.

        A `str` is text, never a path; a `Path` is a picture or a recording, told apart by its first bytes and,
        where they say nothing, by its suffix.

        Raises:
            InvalidInput: the content is empty, or a file is neither picture nor sound.
            InputTooLarge: over 1,000,000 characters of text.
            UrlNotAllowed: a path is an address.
            TypeError: the content is of another type.
        """
        if isinstance(content, Message):
            message = content
        elif isinstance(content, Sequence) and not isinstance(content, str):
            message = cls(tuple(_part_of(each) for each in content))
        else:
            message = cls((_part_of(content),))
        n_chars = sum(len(part.text) for part in message.parts if isinstance(part, TextPart))
        if n_chars > MAX_TEXT_CHARS:
            raise InputTooLarge(f"the text has {n_chars:,} characters, {MAX_TEXT_CHARS:,} are allowed")
        if message.modalities == {"text"} and not message.text.strip():
            raise InvalidInput("the message is empty", hint="type something")
        return message

    @property
    def text(self) -> str:
        """All text parts, joined by nothing (deltas concatenate)."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def modalities(self) -> frozenset[Modality]:
        """The kinds of input the message holds."""
        found: set[Modality] = set()
        for part in self.parts:
            if isinstance(part, ImagePart):
                found.add("image")
            elif isinstance(part, AudioPart):
                found.add("audio")
            elif isinstance(part, TextPart) and (part.text.strip() or len(self.parts) == 1):
                found.add("text")
        return frozenset(found)


Content = str | Path | Part | Message | Sequence[str | Path | Part]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and its answer, as stored.

    `timings` are seconds: `first_part_s`, `total_s`, and `route_s`. `model` and `adapter` name what served
    it (None where the task used none). `error` is the code of the error that ended it early.
    """

    id: str
    session_id: str
    user_id: str | None
    task: str
    request: Message
    response: tuple[Part, ...]
    created_at: datetime
    model: str | None = None
    adapter: str | None = None
    notices: tuple[Notice, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def text(self) -> str:
        """The text of the answer."""
        return "".join(part.text for part in self.response if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Request:
    """What a task gets to work on.

    Attributes:
        message: what the user said.
        history: the session's earlier turns of every task, oldest first.
        options: an instance of the task's `options_type`, configuration and call merged and checked.
        cancel: set when the caller no longer wants the answer; check it between steps.
    """

    message: Message
    history: tuple[Turn, ...]
    options: Any
    session_id: str
    user_id: str | None = None
    cancel: threading.Event = field(default_factory=threading.Event)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises InvalidInput unless `low <= value <= high`; NaN never passes."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInput(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value!r}", hint=f"give {low:g} to {high:g}")


def check_key(name: str, value: str) -> None:
    """Raises InvalidInput unless `value` is an id: text of 1 to 512 characters, not blank."""
    check_storable(name, value, 512)
    if not value.strip():
        raise InvalidInput(f"{name} is empty")


def check_storable(name: str, value: str, limit: int) -> None:
    """Raises InvalidInput unless `value` is text that every database stores, InputTooLarge over `limit` characters."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {value!r}")
    if len(value) > limit:
        raise InputTooLarge(f"{name} has {len(value):,} characters, {limit:,} are allowed")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidInput(f"{name} holds a character that no database stores (NUL or half a surrogate pair)")


def _checked_path(path: Path | str) -> Path:
    text = str(path)
    if _URL.match(text):
        raise UrlNotAllowed(f"{text!r} is an address, not a path")
    if "\0" in text:
        raise InvalidInput("a path holds a NUL character")
    return Path(path)


def _part_of(content: str | Path | Part) -> Part:
    if isinstance(content, (TextPart, ImagePart, AudioPart, LabelPart, SegmentPart, ItemPart)):
        return content
    if isinstance(content, str):
        return TextPart(content)
    if isinstance(content, Path):
        return file_part(content)
    raise TypeError(f"content must be str, Path, a part, a list of them or a Message, not {type(content).__name__}")


def file_part(path: Path) -> ImagePart | AudioPart:
    """The part for a file, by its first bytes, then by its suffix.

    Raises:
        InvalidInput: it cannot be read, or is neither picture nor sound.
        UrlNotAllowed: the path is an address.
    """
    path = _checked_path(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{path}: {reason}", hint="give the path of a file") from error
    kind = _sniff(head)
    if kind is None:
        suffix = path.suffix.lower()
        kind = "image" if suffix in _IMAGE_SUFFIXES else "audio" if suffix in _AUDIO_SUFFIXES else None
    if kind is None:
        raise InvalidInput(
            f"{path}: neither a picture nor a recording", hint="give PNG, JPEG, WebP, GIF, WAV, FLAC, OGG or MP3"
        )
    return ImagePart(path) if kind == "image" else AudioPart(path)


def _sniff(head: bytes) -> Literal["image", "audio"] | None:
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if (head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE") or head.startswith((b"fLaC", b"OggS", b"ID3")):
        return "audio"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "audio"
    return None
