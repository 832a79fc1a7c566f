"""Whole learning cycles over clicks on pairs of films, without an embedding model."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from support.recommend_pairs import FILMS, clicks, imported, pairs_of_choices
from support.recommending import TASK, ask, ids_of

from smallai_assistant import Assistant, Feedback, Interaction, errors
from smallai_assistant.learning.learner import CycleOptions
from smallai_recommend.task import Recommendation


@pytest.fixture
def cinema(tmp_path: Path) -> Iterator[Assistant]:
    """An assistant without an embedding model."""
    with Assistant(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu") as opened:
        opened.items.add_items(FILMS)
        opened.items.add_interactions(imported())
        yield opened


def give_clicks(assistant: Assistant, n: int = 60) -> None:
    turns: dict[str, str] = {}
    given = []
    for second, (user, item) in enumerate(pairs_of_choices(n)):
        if user not in turns:
            turns[user] = ask(assistant, user=user, k=1).turn.id
        when = datetime.fromtimestamp(1e6 + second, UTC)
        given.append(Feedback(turns[user], signal="click", item=item, source=user, created_at=when))
    assistant.feedback.add_all(given)


def test_learned_weights_serve_and_can_be_rolled_back(cinema: Assistant) -> None:
    give_clicks(cinema)
    before = ids_of(ask(cinema, user="u1", k=5))
    report = cinema.learn(TASK)
    assert report.is_promoted, report.reasons
    assert report.metric == "NDCG@10"
    assert {part.name for part in report.slices} == {"new feedback"}
    assert report.retired_ids == ()  # the item of a retired click would be recommended again
    response = ask(cinema, user="u1", k=60)
    assert response.details["adapter"] == report.adapter_id
    had = {item for user, item in pairs_of_choices(60) if user == "u1"}
    assert set(ids_of(response)) == {film.id for film in FILMS} - had
    turn = ask(cinema, user="someone", k=1).turn
    given = cinema.give_feedback(Feedback(turn.id, signal="click", item="a7", source="someone")).feedback
    assert "b7" in ids_of(ask(cinema, user="someone", k=3))

    cinema.undo_feedback(given.id)
    assert cinema.rollback(TASK) is None
    response = ask(cinema, user="u1", k=5)
    assert response.details["adapter"] is None
    assert ids_of(response) == before


def test_the_gate_refuses_random_clicks(cinema: Assistant) -> None:
    random = np.random.default_rng(5)
    for user in range(40):
        turn = ask(cinema, user=f"u{user}", k=1).turn
        for item in random.permutation(len(FILMS))[:4]:
            cinema.give_feedback(Feedback(turn.id, signal="click", item=FILMS[item].id, source=f"u{user}"))
    report = cinema.learn(TASK)
    assert not report.is_approved
    assert cinema.adapters.champion_id(TASK) is None


def test_what_the_import_taught_is_nothing_new(cinema: Assistant) -> None:
    choices = pairs_of_choices(400, seed=1)
    cinema.items.add_interactions(
        Interaction(f"before {user}", item, at=1e5 + second) for second, (user, item) in enumerate(choices)
    )
    give_clicks(cinema, 200)
    report = cinema.learn(TASK)
    assert report.outcome == "nothing_new", report.reasons
    assert "users without feedback" in {found.name for found in report.slices}
    assert cinema.adapters.champion_id(TASK) is None
    # Nothing is given back, and nothing is tried again by itself.
    (status,) = cinema.schedule.status(TASK)
    assert status.last is not None
    assert (status.last.outcome, status.n_new) == ("nothing_new", 0)


def test_one_user_can_have_a_cycle(cinema: Assistant) -> None:
    turn = ask(cinema, k=1).turn
    for second, item in enumerate(film.id for film in FILMS[:16]):
        when = datetime.fromtimestamp(1e6 + second, UTC)
        cinema.give_feedback(Feedback(turn.id, signal="click", item=item, created_at=when))
    report = cinema.learn(TASK)
    assert (report.slices[0].n, report.training.n_new) == (4, 12)


def test_too_few_clicks_raise_not_enough_data(cinema: Assistant) -> None:
    give_clicks(cinema, 1)
    with pytest.raises(errors.NotEnoughData):
        cinema.learn(TASK)


def test_the_evaluation_does_not_see_the_fast_memory(cinema: Assistant) -> None:
    task = cinema.tasks[TASK]
    assert isinstance(task, Recommendation)
    judged_turns = clicks(20)
    examples = task.examples(judged_turns)
    alone = task.evaluate(examples, None, cinema.models)
    task.rebuild(judged_turns)
    assert ids_of(ask(cinema, user="u1", k=60))
    assert task.evaluate(examples, None, cinema.models) == alone
    task.rebuild([])


def test_a_cycle_without_imports_learns_from_clicks_alone(tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu") as opened:
        opened.items.add_items(FILMS)
        give_clicks(opened)
        report = opened.learn(TASK, CycleOptions())
        assert report.is_promoted, report.reasons
        assert ask(opened, user="u1").details["adapter"] == report.adapter_id
