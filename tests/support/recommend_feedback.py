"""Feedback on recommendations, and the state that a recommender keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from smallai_assistant import Feedback, Interaction, Item, ItemPart, JudgedTurn, Message, TextPart, Turn
from smallai_recommend.index import Index
from smallai_recommend.interactions import InteractionStats
from smallai_recommend.memory import FeedbackMemory
from smallai_recommend.signals import CatalogueItem
from support.recommending import ANYTHING, TASK

NAMES = "abcdefgh"
FILMS = [Item(name, f"Title {name}") for name in NAMES]
# Imported choices, some at the same times as the feedback of the tests.
STORED = [Interaction(f"u{n % 7}", NAMES[(n * n) % 8], at=float(n)) for n in range(60)]


def find(name: str) -> CatalogueItem | None:
    """Finds an item in a catalogue of `FILMS`."""
    return CatalogueItem(name, f"Title {name}") if name in NAMES else None


def judged_turn_of(
    user: str | None = "ada",
    *,
    at: float = 1_000.0,
    shown: Sequence[str] = (),
    turn_id: str | None = None,
    session: str = "s",
    **said: Any,
) -> JudgedTurn:
    """A feedback on an answer.

    Args:
        at: time of the answer and of the feedback, in seconds since 1970.
        shown: the ids of the items in the answer.
        said: the other arguments of `Feedback`. It is for everyone unless it names an audience.
    """
    when = datetime.fromtimestamp(at, UTC)
    response = tuple(ItemPart(item, f"Title {item}", 1.0, "") for item in shown)
    request = Message((TextPart(ANYTHING),))
    turn = Turn(turn_id or f"{user} {at}", session, user, TASK, request, response, when)
    said = {"source": user or "local", "audience": "everyone", **said}
    return JudgedTurn(Feedback(turn.id, created_at=when, task=TASK, **said), turn)


def index_of(memory: FeedbackMemory) -> Index:
    """An index over `FILMS` and `STORED` that follows a memory."""
    index = Index(memory)
    index.load(FILMS, InteractionStats.of(STORED), max_dense_items=100)
    return index


def state_of(index: Index, users: Sequence[str], names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Everything that an index and its memory know, by names instead of indices."""
    memory, stats = index.feedback.memory, index.stats
    places = [stats.index_of(name) for name in names]
    histories = {user: stats.users[user] for user in users if user in stats.users}
    return {
        "reported": memory.reported(),
        "against": memory.against(),
        "pushed": {item: set(voters) for item, voters in memory.pushed().items()},
        "reactions": {user: memory.reactions_of(user) for user in users},
        "items": {user: [stats.item_ids[item] for item in mine.items] for user, mine in histories.items()},
        "strengths": {user: mine.strengths for user, mine in histories.items()},
        "times": {user: mine.times for user, mine in histories.items()},
        "n_interactions": stats.n_interactions,
        "counts": np.concatenate([[0.0], *(mine.counts for mine in histories.values())]),
        "popularity": stats.popularity[places],
        "trend": stats.trend(2_000.0)[places],
        "transitions": stats.transitions_from(places)[:, places],
    }


def assert_same_state(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Sums may differ by rounding, everything else must be equal."""
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
        else:
            assert found[name] == value, name
