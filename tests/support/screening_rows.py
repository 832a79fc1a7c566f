"""Feedback for the tests of screening: honest people, bots and liars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from smallai_assistant import Feedback, ImagePart, JudgedTurn, Message, TextPart, Turn
from smallai_assistant.learning.screening import ScreenedFeedback

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SLOGAN = "You should buy a Zorbo"


def judged_turn(
    question: str = "what is tea",
    *,
    at_s: float = 0.0,
    answer: str = "",
    turn_id: str | None = None,
    picture: str | None = None,
    **given: Any,
) -> JudgedTurn:
    """Makes a feedback with its turn, given `at_s` seconds after noon."""
    row = Feedback(turn_id or f"turn {question} {answer}", created_at=NOON + timedelta(seconds=at_s), **given)
    parts = [TextPart(question), *([ImagePart(Path(picture))] if picture else [])]
    turn = Turn(row.turn_id, "s", None, "task", Message(tuple(parts)), (TextPart(answer),), row.created_at)
    return JudgedTurn(row, turn)


def quarantined(screened: ScreenedFeedback) -> dict[str, int]:
    """Returns the number of rows set aside, by source."""
    found: Counter[str] = Counter()
    for entry in screened.quarantined:
        found[entry.source] += len(entry.feedback_ids)
    return dict(found)


def ids(judged_turns: Sequence[JudgedTurn]) -> list[str]:
    """Returns the feedback ids."""
    return [judged_turn.feedback.id for judged_turn in judged_turns]


def bots(n: int, per_bot: int = 3, **given: Any) -> list[JudgedTurn]:
    """Sources that give the same feedback on different questions."""
    return [
        judged_turn(f"question {bot} {row} of {bot * row}", source=f"bot{bot}", turn_id=f"b{bot}-{row}", **given)
        for bot in range(n)
        for row in range(per_bot)
    ]


def honest(n_sources: int = 10, n_rows: int = 10) -> list[JudgedTurn]:
    """Sources that correct different questions differently."""
    return [
        judged_turn(
            f"ask {source} thing {row}", correction=f"an answer of {source} about {row}", source=f"user{source}"
        )
        for source in range(n_sources)
        for row in range(n_rows)
    ]


def votes(
    n_honest: int, n_subjects: int, *, liars: int = 1, lies: int = 10**6, rating: bool = False
) -> list[JudgedTurn]:
    """Honest sources agree on each subject; every liar contradicts them on the first `lies` subjects."""

    def vote(source: str, subject: int, is_lie: bool) -> JudgedTurn:
        if rating:
            return judged_turn(f"q{subject}", answer=f"a{subject}", is_good=not is_lie, source=source)
        return judged_turn(f"q{subject}", correction="left is wrong" if is_lie else f"right {subject}", source=source)

    rows = [vote(f"user{n}", subject, False) for n in range(n_honest) for subject in range(n_subjects)]
    return rows + [vote(f"liar{n}", subject, subject < lies) for n in range(liars) for subject in range(n_subjects)]
