"""Checks that values share: numbers in a range, ids, and text that every database can store."""

from __future__ import annotations

import math

from smallai_assistant.errors import InputTooLarge, InvalidInput


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises InvalidInput unless `low <= value <= high`. NaN never passes."""
    # A bool is an int in Python, but `max_tokens = true` is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInput(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value!r}", hint=f"give {low:g} to {high:g}")


def check_key(name: str, value: str) -> None:
    """Raises InvalidInput unless `value` is an id: a text of 1 to 512 characters that is not blank."""
    check_storable(name, value, 512)
    if not value.strip():
        raise InvalidInput(f"{name} is empty")


def check_storable(name: str, value: str, limit: int) -> None:
    """Checks that every database can store `value`.

    Raises:
        InvalidInput: it is not text, or holds NUL or half a surrogate pair.
        InputTooLarge: it has more than `limit` characters.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {value!r}")
    if len(value) > limit:
        raise InputTooLarge(f"{name} has {len(value):,} characters, {limit:,} are allowed")
    # PostgreSQL refuses NUL in text, and half a surrogate pair cannot be encoded as UTF-8.
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidInput(f"{name} holds a character that no database stores (NUL or half a surrogate pair)")
