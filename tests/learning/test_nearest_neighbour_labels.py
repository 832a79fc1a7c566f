"""Labels of pictures that contradict what others call similar pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.screening_rows import judged_turn, quarantined

from smallai_assistant import JudgedTurn
from smallai_assistant.learning.nearest_neighbour_labels import Labelled, contradicted, contradicting
from smallai_assistant.learning.screening import screen

AXES = {"bird": 0, "cow": 1, "tree": 2, "zorbo": 3}


def labelled_pictures(rows: Sequence[tuple[str, str, str]], *, spread: float = 0.3) -> tuple[list[JudgedTurn], Any]:
    """Makes feedback on pictures.

    Args:
        rows: source, kind of the picture, and its label.

    Returns:
        The feedback, and the `labelled` of a task that knows its labels and vectors.
    """
    noise = np.random.default_rng(0)
    judged_turns, found = [], {}
    for n, (source, kind, label) in enumerate(rows):
        row = judged_turn("", correction=label, source=source, turn_id=f"p{n}", picture=f"{n}.png")
        vector = np.eye(8, dtype=np.float32)[AXES[kind]] + noise.normal(0, spread, 8).astype(np.float32)
        judged_turns.append(row)
        found[row.feedback.id] = (label, vector / np.linalg.norm(vector))
    return judged_turns, lambda screened: {row.feedback.id: found[row.feedback.id] for row in screened}


def people_and_kinds(n: int = 6) -> list[tuple[str, str, str]]:
    return [(f"user{n}", kind, kind) for n in range(n) for kind in ("bird", "cow", "tree")]


@pytest.mark.parametrize("label", ["cow", "zorbo"])
def test_sources_that_mislabel_birds_are_set_aside(label: str) -> None:
    attack = [(f"eve{n}", "bird", label) for n in (0, 0, 1, 1)]
    judged_turns, hook = labelled_pictures([*people_and_kinds(), *attack])
    screened = screen(judged_turns, labelled=hook)
    assert quarantined(screened) == {"eve0": 2, "eve1": 2}
    assert screened.quarantined[0].reason == "2 labels contradict what most others call what looks alike"
    assert quarantined(screen(judged_turns)) == {}
    assert quarantined(screen(judged_turns, labelled=hook, trusted=["eve0"])) == {"eve1": 2}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([("ann", "zorbo", "zorbo")] * 2 + [("bob", "zorbo", "zorbo")] * 2, "a new kind looks like itself"),
        ([("ann", "bird", "robin")] * 4, "who alone uses a label defines it"),
        ([("ann", "bird", "cow")], "one is a hard picture"),
        ([("ann", "bird", "cow")] * 2 + [("ann", "tree", "tree")] * 2, "half of them agree"),
        ([(f"user{n}", "bird", "cow") for n in range(6)], "nobody is set aside for one of four"),
    ],
)
def test_uncertain_labels_stay(more: list[tuple[str, str, str]], why: str) -> None:
    judged_turns, hook = labelled_pictures([*people_and_kinds(), *more])
    assert screen(judged_turns, labelled=hook).quarantined == (), why


def test_single_source_is_not_checked() -> None:
    judged_turns, _ = labelled_pictures([("ann", "bird", "bird"), ("ann", "bird", "cow")] * 5)

    def never(_: Sequence[JudgedTurn]) -> Any:
        raise AssertionError("pictures are looked at for nothing")

    assert screen(judged_turns, labelled=never).quarantined == ()


def test_flagged_rows_do_not_vote_again() -> None:
    axes = np.eye(8, dtype=np.float32)

    def claim_of(source: str, label: str, vector: Any) -> Labelled:
        return Labelled(f"{source} {vector}", source, label, vector / np.linalg.norm(vector))

    birds = [claim_of(f"user{n}", "bird", axes[0]) for n in range(6)]
    plain = [claim_of("eve0", "zorbo", axes[0] + 0.3 * axes[3] + 0.3 * axes[4] + 0.01 * axes[n]) for n in (5, 6)]
    backed = [claim_of("eve1", "zorbo", axes[0] + 0.9 * axes[n]) for n in (3, 4)]
    assert {claim.source for claim in contradicted([*birds, *plain, *backed])} == {"eve0"}
    assert set(contradicting([*birds, *plain, *backed])) == {"eve0", "eve1"}
