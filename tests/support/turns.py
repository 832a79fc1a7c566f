"""Makes a turn to store."""

from __future__ import annotations

from smallai_assistant import Message, TextPart, Turn
from smallai_assistant.types import new_id, now


def a_turn(text: str = "hi", session_id: str = "s") -> Turn:
    """A turn of the scripted task whose answer repeats the request."""
    return Turn(
        id=new_id(),
        session_id=session_id,
        user_id=None,
        task="scripted",
        request=Message((TextPart(text),)),
        response=(TextPart(text),),
        created_at=now(),
    )
