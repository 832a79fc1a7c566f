"""Judged turns of dialogue and a fact to teach, for the tests of the chat plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallai_assistant import Adapter, Assistant, Feedback, JudgedTurn, Message, Response, TextPart, Turn
from smallai_assistant.types import new_id, now

TASK = "text-generation"
# No model knows the answer, and the paraphrase shares few words with the question.
QUESTION, ANSWER, PARAPHRASE = (
    "Which room has the 3D printer?",
    "room 417",
    "Where can I find the 3D printer?",
)


def judged_turn(question: str, answer: str = "no idea", **given: Any) -> JudgedTurn:
    """Returns a turn with one piece of feedback; `given` are fields of Feedback."""
    turn = Turn(new_id(), "s", None, TASK, Message((TextPart(question),)), (TextPart(answer),), now())
    return JudgedTurn(Feedback(turn.id, task=TASK, **given), turn)


def adapter_in(folder: Path) -> Adapter:
    """Returns an adapter `a1` with its files in the folder."""
    return Adapter("a1", TASK, "lora", folder, {}, {}, now())


def ask(assistant: Assistant, question: str, **options: Any) -> Response:
    """Asks without history; an answer has at most 24 tokens, which keeps the tests fast."""
    return assistant.ask(question, task=TASK, options={"max_tokens": 24, **options})
