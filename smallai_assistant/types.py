"""The frozen values that flow through the assistant: parts, message, request, turn, notice.

Values that users make (messages, files, items, interactions) check themselves, so later code can rely on them.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from smallai_assistant import file_formats
from smallai_assistant.errors import InputTooLarge, InvalidInput
from smallai_assistant.validation import (
    audiences_of,
    canonical_key,
    check_range,
    check_storable,
    check_texts,
    checked_path,
)

Modality = Literal["text", "image", "audio"]

# Limits that keep one request from filling memory or the database. They are far above real use: a million characters
# is a long novel, 64 MiB a large photo, 2 GiB more than ten hours of 16-bit mono sound.
MAX_TEXT_CHARS = 1_000_000
MAX_IMAGE_BYTES = 64 * 2**20
MAX_AUDIO_BYTES = 2 * 2**30
MAX_ITEM_CHARS = 20_000

# Four stars are a plain choice. The other weights are set by judgement, not fitted.
_STAR_WEIGHTS = {1: -3.0, 2: -1.0, 3: 3 / 17, 4: 1.0, 5: 3.0}


def new_id() -> str:
    """A random 32-digit hexadecimal id."""
    return uuid.uuid4().hex


def now() -> datetime:
    """The current time in UTC, as an aware datetime."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text. In a stream it is a delta: append it to the text parts that came before."""

    text: str


@dataclass(frozen=True, slots=True)
class _FilePart:
    """A file, given either by its path or by its content."""

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError("give exactly one of path and data")
        if self.path is not None:
            object.__setattr__(self, "path", checked_path(self.path))  # the usual way to set a field of a frozen class

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
        return file_formats.read_file(self.path, limit_bytes)


@dataclass(frozen=True, slots=True)
class ImagePart(_FilePart):
    """A picture: the path or the bytes of an encoded file, such as PNG or JPEG."""

    def read(self) -> bytes:
        """Reads the encoded file, at most 64 MiB.

        Raises:
            InvalidInput: the file is missing, is a folder, or cannot be read.
            InputTooLarge: the file is over the limit.
        """
        return self._read(MAX_IMAGE_BYTES)

    @staticmethod
    def format_of(data: bytes, *, name: str = "<bytes>") -> str:
        """The format by the first bytes: `png`, `jpeg`, `webp` or `gif`.

        Raises:
            InvalidImage: it is of another format, which the message names.
        """
        return file_formats.checked_format(data, "image", name)


@dataclass(frozen=True, slots=True)
class AudioPart(_FilePart):
    """A recording: the path or the bytes of an encoded file, such as WAV or MP3."""

    def read(self) -> bytes:
        """Reads the encoded file, at most 2 GiB.

        Raises:
            InvalidInput: the file is missing, is a folder, or cannot be read.
            InputTooLarge: the file is over the limit.
        """
        return self._read(MAX_AUDIO_BYTES)

    @staticmethod
    def format_of(data: bytes, *, name: str = "<bytes>") -> str:
        """The format by the first bytes: `wav`, `flac`, `ogg`, `mp3`, `aac`, `mov` (MP4, M4A) or `matroska` (WebM).

        Raises:
            InvalidAudio: it is of another format, which the message names.
        """
        return file_formats.checked_format(data, "audio", name)


@dataclass(frozen=True, slots=True)
class LabelPart:
    """One class of a picture, or another label, with its probability in [0, 1].

    `id` is the model's class index, -1 for a label that the user named.
    """

    label: str
    id: int
    score: float


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """A stretch of speech and its words. Times are seconds from the start of the recording."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class ItemPart:
    """A recommended item and the reason, in one sentence. Its score compares it with the items of the same answer."""

    id: str
    title: str
    score: float
    why: str


Part = TextPart | ImagePart | AudioPart | LabelPart | SegmentPart | ItemPart


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be recommended.

    Args:
        id: unique, 1 to 512 characters; spellings that look alike are one id.
        title: the name that people see.
        text: the description; the recommender reads title and text.
        metadata: anything else, as JSON values; the recommender ignores it.

    Raises:
        InvalidInput: the id is empty, or a text holds a character that no database stores.
        InputTooLarge: a text has more than 20,000 characters.
    """

    id: str
    title: str
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", canonical_key("item id", self.id))  # the way to set a field of a frozen class
        check_storable("title", self.title, MAX_ITEM_CHARS)
        check_storable("text", self.text, MAX_ITEM_CHARS)


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user chose an item, or was against it. Spellings of an id that look alike are one id.

    Args:
        weight: how strongly, from above 0 to 1000; from -1000 to below 0, the user was against the item.
        at: the time, in seconds since 1970 (UTC).

    Raises:
        InvalidInput: an id is empty, or a number is out of range.
    """

    user: str
    item: str
    weight: float = 1.0
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", canonical_key("user", self.user))
        object.__setattr__(self, "item", canonical_key("item", self.item))
        is_against = isinstance(self.weight, (int, float)) and self.weight < 0
        check_range("weight", self.weight, *((-1000.0, -1e-6) if is_against else (1e-6, 1000.0)))
        check_range("at", self.at, 0.0, 1e11)

    @staticmethod
    def weight_of_stars(stars: float) -> float:
        """The weight of 1 to 5 stars, the same for an imported rating and for feedback: below 3 they count against."""
        check_range("stars", stars, 1.0, 5.0)
        # Two and a half stars are near to three, but they are a complaint.
        return _STAR_WEIGHTS[min(2, round(stars)) if stars < 3.0 else round(stars)]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know about an answer: a fallback, a cut, a plugin that was left out.

    Args:
        code: stable snake_case, for programs, such as `cpu_fallback`.
        text: one plain sentence, for people.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Details:
    """Facts about an answer that are not part of its content, as JSON values.

    A task may yield several; the later value of a key wins. Known keys are `model`, `adapter`, `language`,
    `stop_reason` (str), `n_prompt_tokens`, `n_completion_tokens` (int), `duration_s` (float) and `cold_start` (bool).
    """

    values: Mapping[str, Any]


StreamItem = Part | Notice | Details


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said. Making one without parts raises InvalidInput."""

    parts: tuple[Part, ...]
    role: Literal["user", "assistant"] = "user"

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidInput("a message needs at least one part")
        for part in self.parts:
            check_texts(part)

    @classmethod
    def of(cls, content: Content) -> Message:
        """Makes a message of everything that `Session.send` accepts.

        A `str` is always text, never a path. A `Path` is a picture or a recording; its first bytes decide which, and
        its suffix if they do not tell.

        Raises:
            InvalidInput: the content is empty, or a file is neither a picture nor a recording.
            InputTooLarge: the text has more than 1,000,000 characters.
            UrlNotAllowed: a path is a web address.
            TypeError: the content has another type.
        """
        if isinstance(content, Message):
            message = content
        elif isinstance(content, Sequence) and not isinstance(content, str):
            message = cls(tuple(_part_of(piece) for piece in content))
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
        """All text parts, joined without a separator because they may be deltas."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def modalities(self) -> frozenset[Modality]:
        """The kinds of input in the message. Blank text counts only if the message has no other part."""
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

    Attributes:
        response: the parts of the answer; adjacent text deltas are joined to one part.
        model: the name of the model that answered, None if the task used none.
        adapter: the id of the adapter that answered, None for the bare model.
        timings: seconds: `route_s`, `first_part_s` and `total_s`.
        error: the code of the error that ended the answer early, such as `cancelled`; None if it is complete.
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
        history: the session's earlier turns, of all tasks, oldest first.
        options: an instance of the task's `options_type`: the configuration and the options of the call, checked.
        user_id, groups: who asks, None if nobody was named, and the groups of that person.
        is_bare: whether it asks what would be said if nothing had been learned.
        cancel: set when the caller no longer wants the answer; check it between steps.
    """

    message: Message
    history: tuple[Turn, ...]
    options: Any
    session_id: str
    user_id: str | None = None
    groups: tuple[str, ...] = ()
    is_bare: bool = False
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def audiences(self) -> frozenset[str]:
        """What the asker belongs to. Feedback may be used if its `JudgedTurn.audience` is among them."""
        return frozenset() if self.is_bare else audiences_of(self.user_id, self.groups)


def _part_of(content: str | Path | Part) -> Part:
    if isinstance(content, (TextPart, ImagePart, AudioPart, LabelPart, SegmentPart, ItemPart)):
        return content
    if isinstance(content, str):
        return TextPart(content)
    if isinstance(content, Path):
        return file_part(content)
    raise TypeError(f"content must be str, Path, a part, a list of them or a Message, not {type(content).__name__}")


def file_part(path: Path) -> ImagePart | AudioPart:
    """Makes the part for a file. Its first bytes decide the kind, and its suffix if they do not tell.

    Raises:
        InvalidInput: the file cannot be read, or is neither a picture nor a recording.
        UrlNotAllowed: the path is a web address.
    """
    path = checked_path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe may never end
            raise InvalidInput(f"{path}: a pipe or a device", hint="give the path of a file")
        with path.open("rb") as file:
            head = file.read(file_formats.HEAD_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{path}: {reason}", hint="give the path of a file") from error
    modality = file_formats.modality_of(head, path.suffix)
    if modality is None:
        raise InvalidInput(f"{path}: neither a picture nor a recording", hint=file_formats.WHAT_IS_READ)
    return ImagePart(path) if modality == "image" else AudioPart(path)
