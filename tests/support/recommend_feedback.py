"""A recommendation and what a user said of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from smallai_assistant import (
    Feedback,
    ItemPart,
    JudgedTurn,
    Message,
    TextPart,
    Turn,
)
from support.recommending import ANYTHING, TASK


def judged_turn_of(
    user: str | None = "ada",
    *,
    at: float = 1_000.0,
    shown: Sequence[str] = (),
    turn_id: str | None = None,
    session: str = "s",
    **said: Any,
) -> JudgedTurn:
    when = datetime.fromtimestamp(at, UTC)
    response = tuple(ItemPart(item, f"Title {item}", 1.0, "") for item in shown)
    request = Message((TextPart(ANYTHING),))
    turn = Turn(turn_id or f"{user} {at}", session, user, TASK, request, response, when)
    source = said.pop("source", user or "local")
    return JudgedTurn(Feedback(turn.id, source=source, created_at=when, task=TASK, **said), turn)
