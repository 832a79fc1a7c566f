"""Checks that values share: numbers, times, ids, paths, and text that a database can store."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from smallai_assistant.errors import InputTooLarge, InvalidInput, UrlNotAllowed

# Audiences of feedback: all may profit from it, or its giver alone, or the members of a group.
EVERYONE, USER, _GROUP = "everyone", "user", "group:"
MAX_ID_CHARS = 512  # of ids that users and their catalogues choose, such as a URL
MAX_AUDIENCE_CHARS = 520  # `group:` or `user:` and such an id
# A clock of another machine may be ahead, and time zones are confused by hours; a day covers both. A later time would
# win over everything that is said until then.
MAX_AHEAD = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# One slash is enough: pathlib shortens "http://x" to "http:/x". A scheme has at least two letters, so that the drive
# of a Windows path ("C:/x") is not taken for one.
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:/|data:|file:)")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises InvalidInput unless `low <= value <= high`. NaN never passes."""
    # A bool is an int in Python, but `max_tokens = true` is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise InvalidInput(f"{name} must be a number, not {shown(value)}")
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {shown(value)}", hint=f"give {low:g} to {high:g}")


def is_finite(value: float) -> bool:
    """Whether a number fits a double: no NaN, no infinity, and no whole number of four hundred digits."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def canonical_key(name: str, value: str, limit: int = MAX_ID_CHARS) -> str:
    """Returns the one form of a key that people type: a label, or the id of a user, an item or a source.

    Two spellings that look alike are one key. Composed and decomposed accents are composed (Unicode's NFC), space at
    the ends is removed, and each run of inner white space becomes one space. Case is kept. Idempotent.

    Raises:
        InvalidInput: it is not text, is blank, or holds NUL or half a surrogate pair.
        InputTooLarge: it has more than `limit` characters.
    """
    check_storable(name, value, limit)
    key = fold_key(value)
    if not key:
        raise InvalidInput(f"{name} is empty")
    check_storable(name, key, limit)  # NFC makes some characters longer
    return key


def fold_key(value: str) -> str:
    """The form of `canonical_key` without its checks, to look a key up."""
    # Spaces first: NFC makes one kind of space of another (U+2000 of U+2002), and no new space.
    return unicodedata.normalize("NFC", " ".join(value.split()))


def audience_of_user(user_id: str | None) -> str:
    """The audience that one person is; None for whoever uses the assistant without a name."""
    return f"{USER}:{user_id or ''}"


def audience_of_group(name: str) -> str:
    """The audience that the members of a group are."""
    return f"{_GROUP}{name}"


def checked_audience(value: str) -> str:
    """Returns the audience in its one form.

    Raises:
        InvalidInput: it is not an audience.
    """
    if value in (USER, EVERYONE):
        return value
    if isinstance(value, str) and value.startswith(_GROUP):
        return audience_of_group(canonical_key("group", value.removeprefix(_GROUP)))
    raise InvalidInput(f"audience is {shown(value)}", hint=f"give {USER}, {EVERYONE} or {_GROUP}NAME")


def is_one_person(audience: str) -> bool:
    """Whether an audience is one person."""
    return audience.startswith(f"{USER}:")


def canonical_audience(value: str) -> str:
    """Returns the key of an audience, as `JudgedTurn.audience` says it: `everyone`, `group:NAME` or `user:ID`.

    Raises:
        InvalidInput: it is not one.
    """
    if not isinstance(value, str) or not value.startswith(f"{USER}:"):
        if value == USER:
            raise InvalidInput("the audience user names no person", hint=f"give {USER}:ID")
        return checked_audience(value)
    user_id = value.removeprefix(f"{USER}:")
    return audience_of_user(canonical_key("user_id", user_id) if user_id else None)


def member_of(audience: str) -> tuple[str | None, tuple[str, ...]]:
    """The user id and the groups of somebody who belongs to an audience."""
    kind, _, name = audience.partition(":")
    return (name or None) if kind == USER else None, (name,) if kind == _GROUP.rstrip(":") else ()


def described(audience: str) -> str:
    """An audience in words: `everyone`, `ann alone`, `the group berlin`."""
    if audience == EVERYONE:
        return EVERYONE
    name = audience.partition(":")[2]
    return f"{name or 'whoever gives no name'} alone" if is_one_person(audience) else f"the group {name}"


def how_personal(audience: str) -> tuple[int, str]:
    """Sorts audiences: everyone, then groups, then persons."""
    return (0 if audience == EVERYONE else 2 if is_one_person(audience) else 1), audience


def audiences_of(user_id: str | None, groups: Iterable[str]) -> frozenset[str]:
    """All audiences that a person belongs to."""
    return frozenset({EVERYONE, audience_of_user(user_id), *map(audience_of_group, groups)})


def checked_path(path: Path | str) -> Path:
    """Returns the path.

    Raises:
        UrlNotAllowed: it is a web address.
        InvalidInput: it holds NUL.
    """
    text = str(path)
    if _URL.match(text):
        raise UrlNotAllowed(f"{text!r} is an address, not a path")
    if "\0" in text:
        raise InvalidInput("a path holds a NUL character")
    return Path(path)


def check_time(name: str, value: datetime) -> datetime:
    """Returns a time in UTC, exactly as the database gives it back. A time without a zone is local.

    Raises:
        InvalidInput: it is not a time, or a database cannot give it back: near the years 1 and 9999, a zone moves a
            time out of the calendar.
    """
    if not isinstance(value, datetime):
        raise InvalidInput(f"{name} must be a time, not {shown(value)}")
    try:
        return datetime.fromtimestamp(value.timestamp(), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{name} is {value!s}, which is outside of the calendar") from error


def check_said(name: str, value: datetime, now: datetime) -> None:
    """Checks that something can have been said at this time.

    Raises:
        InvalidInput: it is before 1970 or more than a day after `now`.
    """
    if not _EPOCH <= value <= now + MAX_AHEAD:
        when = "before 1970" if value < _EPOCH else "in the future"
        raise InvalidInput(f"{name} is {value.isoformat()}, which is {when}", hint="check the clock that wrote it")


def check_storable(name: str, value: str, limit: int) -> None:
    """Checks that every database can store `value`.

    Raises:
        InvalidInput: it is not text, or holds NUL or half a surrogate pair.
        InputTooLarge: it has more than `limit` characters.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {shown(value)}")
    if len(value) > limit:
        raise InputTooLarge(f"{name} has {len(value):,} characters, {limit:,} are allowed")
    # PostgreSQL refuses NUL in text, and half a surrogate pair cannot be encoded as UTF-8.
    try:
        value.encode()
        is_whole = True
    except UnicodeEncodeError:
        is_whole = False
    if "\0" in value or not is_whole:
        raise InvalidInput(f"{name} holds a character that no database stores (NUL or half a surrogate pair)")


def check_texts(value: Any) -> None:
    """Checks that each field of a dataclass that is declared as text holds text.

    Raises:
        InvalidInput: one does not.
    """
    for field in fields(value) if is_dataclass(value) else ():
        found = getattr(value, field.name)
        if field.type == "str" and not isinstance(found, str):
            raise InvalidInput(f"the {field.name} of a {type(value).__name__} is {shown(found)}", hint="give text")


def shown(value: object) -> str:
    """A wrong value in a message: its beginning, because it may be megabytes or nested a thousand times."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write a whole number of 5,000 digits
        return f"a {type(value).__name__} that cannot be written"
    return text if len(text) <= 80 else f"{text[:77]}..."
