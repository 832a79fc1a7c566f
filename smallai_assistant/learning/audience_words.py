"""What messages say of an audience. `validation.described` has its words."""

from __future__ import annotations

import shlex

from smallai_assistant.validation import EVERYONE, described


def option_for(audience: str) -> str:
    """The option that a command needs to mean this audience, with a space before it; empty for everyone."""
    return "" if audience == EVERYONE else f" --audience {shlex.quote(audience)}"


def for_whom(audience: str) -> str:
    """` for ann alone`, with a space before it; empty for everyone."""
    return "" if audience == EVERYONE else f" for {described(audience)}"


def below(audience: str) -> str:
    """What serves an audience that has no version of its own."""
    return "the bare model" if audience == EVERYONE else "what serves everyone"
