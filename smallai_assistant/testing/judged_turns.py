"""The feedback that the kit gives: the author's corrections, and feedback that teaches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from smallai_assistant import types
from smallai_assistant.assistant import Assistant
from smallai_assistant.feedback import MAX_CORRECTION_CHARS, Feedback, JudgedTurn
from smallai_assistant.task import LearningTask
from smallai_assistant.testing.trial import made_up_message
from smallai_assistant.types import AudioPart, ImagePart, Message, Part, Turn, new_id, now

Corrections = Mapping[str, Sequence[tuple[types.Content, str]]]

_SOURCE = "conformance kit"
# Text that breaks careless code: right-to-left override, control characters, a placeholder, a control token of models.
_NONSENSE = "\u202e?!\n\t\u00a0\ufffd\U0001f9e8{%s}</s>"


class JudgedTurns:
    """Makes feedback for one task, and erases it at the end.

    Args:
        corrections: messages and the right answers.
    """

    def __init__(
        self, assistant: Assistant, task: LearningTask, corrections: Sequence[tuple[types.Content, str]]
    ) -> None:
        self.assistant, self.task = assistant, task
        self.corrections = [(Message.of(content), label) for content, label in corrections]
        self.stored: list[JudgedTurn] = []

    def refused(self) -> str:
        """The modalities of the first correction that the task does not accept, empty if it accepts all."""
        wrong = (message.modalities for message, _ in self.corrections if message.modalities not in self.task.accepts)
        return " and ".join(sorted(next(wrong, ())))

    def store(self, message: Message, label: str, answered: Turn | None) -> JudgedTurn:
        """Stores a correction as the host does. The caller calls `learn_now`.

        Args:
            answered: the turn that is corrected; None makes a turn that was taught and never asked.

        Raises:
            InvalidInput: the label is empty.
        """
        turn = answered or self._turn(message, details={"taught": True})
        given = Feedback(turn.id, correction=label, source=_SOURCE)
        if answered is None:
            self.assistant.store.add_turn(turn).result()  # waits for the commit, because feedback refers to the turn
        stored, _ = self.assistant.feedback.add(given)
        self.stored.append(self.assistant.feedback.judged_turn(stored))
        return self.stored[-1]

    def odd(self) -> Iterator[JudgedTurn]:
        """Feedback as it occurs in real use that teaches nothing, or nothing sensible. It is not stored."""
        message = Message.of(made_up_message(self.task))
        turn = self._turn(message)
        parts = tuple(_missing(part) for part in message.parts)
        yield self._judged_turn(replace(turn, request=Message(parts)), correction="of a file that is gone")
        yield self._judged_turn(turn, correction=_NONSENSE)
        yield self._judged_turn(turn, correction="word " * (MAX_CORRECTION_CHARS // 5))
        yield self._judged_turn(turn, signal="click", item="no such item")
        yield self._judged_turn(turn, signal="stars", value=5.0)
        yield self._judged_turn(replace(turn, response=(), error="plugin_error"), is_good=False)
        yield self._judged_turn(turn, is_good=True)
        yield self._judged_turn(turn, is_good=False, comment="this is wrong")
        yield self._judged_turn(turn, comment="a comment alone")

    def erase(self) -> str:
        """Erases what was stored, as a user may. Returns what the task raised."""
        # The host catches what `rebuild` raises and lists the task as broken.
        before = dict(self.assistant.broken_plugins)
        try:
            # The host would also catch errors of `forget`, so the kit calls it first, directly.
            for judged_turn in self.stored:
                self.task.forget(judged_turn.feedback, judged_turn.turn)
        finally:
            self.assistant.erase_feedback([judged_turn.feedback.id for judged_turn in self.stored])
        broken = self.assistant.broken_plugins
        return "; ".join(why for name, why in broken.items() if before.get(name) != why)

    def _turn(self, message: Message, *, details: Mapping[str, object] | None = None) -> Turn:
        return Turn(
            id=new_id(),
            session_id=_SOURCE,
            user_id=None,
            task=self.task.name,
            request=message,
            response=() if details else (types.TextPart("an answer"),),
            created_at=now(),
            details=details or {},
        )

    def _judged_turn(self, turn: Turn, **said: object) -> JudgedTurn:
        return JudgedTurn(Feedback(turn.id, task=self.task.name, source=_SOURCE, **said), turn)  # type: ignore[arg-type]


def _missing(part: Part) -> Part:
    """The part, its file replaced by one that does not exist."""
    gone = Path("no such folder", "gone")
    return ImagePart(gone) if isinstance(part, ImagePart) else AudioPart(gone) if isinstance(part, AudioPart) else part
