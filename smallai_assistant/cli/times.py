"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def local_time(at: datetime | float) -> str:
    """A time in the local zone, to the minute.

    Args:
        at: an aware time, or seconds since 1970.
    """
    try:
        found = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
        return found.astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # the local zone moves it out of the calendar
        return "at no time"
