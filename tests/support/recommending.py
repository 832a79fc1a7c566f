"""Asking the recommender and reading its answers."""

from __future__ import annotations

from typing import Any

from smallai_assistant import (
    Assistant,
    ItemPart,
    Response,
)

TASK = "recommendation"


ANYTHING = "recommend something"


def ask(assistant: Assistant, text: str = ANYTHING, user: str | None = None, **options: Any) -> Response:
    return assistant.ask(text, task=TASK, user_id=user, options=options)


def items_of(response: Response) -> list[ItemPart]:
    return [part for part in response.parts if isinstance(part, ItemPart)]


def ids_of(response: Response) -> list[str]:
    return [item.id for item in items_of(response)]


def codes(response: Response) -> set[str]:
    return {notice.code for notice in response.notices}
