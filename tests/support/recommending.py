"""Asks the recommender, reads its answers and tells it what users did."""

from __future__ import annotations

import threading
from typing import Any, Self

from smallai_assistant import Assistant, Feedback, ItemPart, Response

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


def give(assistant: Assistant, user: str | None, **said: Any) -> str:
    """Gives one feedback for everyone on a new answer, and returns what it changed."""
    turn = ask(assistant, user=user, k=5).turn
    receipt = assistant.give_feedback(Feedback(turn.id, **{"source": user or "local", "audience": "everyone", **said}))
    assert receipt.notices == ()
    return receipt.effect.removeprefix("For everyone: ")


class ObservedLock:
    """A lock that tells when somebody wants it a second time.

    Attributes:
        is_waited_for: set as soon as somebody tries to acquire the lock while it is held.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_waited_for = threading.Event()

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        if self._lock.locked():
            self.is_waited_for.set()
        return self._lock.acquire(*args, **kwargs)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
