"""What a learning cycle makes of clicks: examples, weights, a map of the texts; judged, served, taken back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.recommend_feedback import judged_turn_of
from support.recommending import TASK, ask, ids_of

from smallai_assistant import Assistant, Feedback, Interaction, Item, JudgedTurn, Training, errors
from smallai_assistant.learning.evaluation import check_contamination, split
from smallai_assistant.learning.learner import CycleOptions
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore
from smallai_recommend.ease import Settings, TogetherModel
from smallai_recommend.evaluation import TOP, Judge
from smallai_recommend.examples import Next, examples_of, watched, watched_examples
from smallai_recommend.interactions import InteractionStats, choice_of
from smallai_recommend.signals import Found
from smallai_recommend.task import Recommendation
from smallai_recommend.text_index import TextIndex
from smallai_recommend.text_training import order_of_hidden, train_text_map
from smallai_recommend.training import GRID, MIXES, train
from smallai_recommend.weights import LearnedWeights, TextMap

N_PAIRS = 30
FILMS = [Item(f"{side}{n}", f"Film {side}{n}") for n in range(N_PAIRS) for side in "ab"]
FIND = {film.id: Found(film.id, film.title) for film in FILMS}.get
NO_STOP = threading.Event()


def pairs_of_choices(n: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Who chooses a film a chooses the film b of the same number next; the import knows nothing of that."""
    random = np.random.default_rng(seed)
    return [
        (f"u{user}", f"{side}{number}")
        for user in range(n)
        for number in random.permutation(N_PAIRS)[:2]
        for side in "ab"
    ]


def imported(n: int = 60) -> list[Interaction]:
    random = np.random.default_rng(1)
    return [
        Interaction(f"old{user}", FILMS[item].id, at=float(100 * user + place))
        for user in range(n)
        for place, item in enumerate(random.permutation(len(FILMS))[:6])
    ]


def clicks(n: int = 60) -> list[JudgedTurn]:
    rows = pairs_of_choices(n)
    return [
        judged_turn_of(user, at=1e6 + second, turn_id=f"turn {second}", session=f"s{user}", item=item, signal="click")
        for second, (user, item) in enumerate(rows)
    ]


def never() -> Any:
    raise errors.ModelNotFound("no model is needed here")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Any]:
    """As much of a task's context as the parts need."""
    database = Database(tmp_path / "data")
    store = ItemStore(database)
    store.add_items(FILMS)
    store.add_interactions(imported())
    yield SimpleNamespace(items=store)
    database.close()


@pytest.fixture
def judge(context: Any, tmp_path: Path) -> Judge:
    return Judge(context, TextIndex(tmp_path), never, max_dense_items=1_000)


def training_of(tmp_path: Path, examples: Sequence[Any], **given: Any) -> Training:
    for name in ("adapter", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    models: Any = SimpleNamespace(wait_until_idle=lambda cancel: None)
    folder, work = tmp_path / "adapter", tmp_path / "work"
    return Training(examples, (), folder=folder, work_folder=work, parent=None, models=models, **given)


# -- examples --


def test_each_first_choice_of_an_item_is_an_example(context: Any) -> None:
    judged_turns = [
        *clicks(8),
        judged_turn_of("u0", at=2e6, item="a1", signal="skip"),
        judged_turn_of("u0", at=2e6 + 1, item="unknown", signal="click"),
        judged_turn_of("old1", at=2e6 + 2, item=imported()[6].item, signal="click", turn_id="had"),
        judged_turn_of("old1", at=2e6 + 3, item=_not_had("old1"), signal="click", turn_id="new"),
        judged_turn_of("old1", at=2e6 + 4, item=_not_had("old1"), signal="stars", value=5.0, turn_id="new"),
        judged_turn_of("u0", at=2e6 + 5, correction="nonsense " * 2_000),
    ]
    examples = examples_of(judged_turns, context, FIND)
    assert len(examples) == 8 * 4 + 1
    assert len({example.id for example in examples}) == len({example.prompt for example in examples}) == len(examples)
    last = examples[-1]
    assert len(last.feedback_ids) == 2
    assert [each.item for each in last.payload.before()][:6] == [
        each.item for each in imported() if each.user == "old1"
    ]
    for example in examples:
        asked: Next = example.payload
        assert asked.choice.item not in {choice.item for choice in asked.before()}
        assert all(choice.at <= asked.choice.at and choice.user == asked.choice.user for choice in asked.before())
        assert 0 < example.weight <= 1
        assert "u0" not in example.prompt
    assert [each.id for each in examples_of(judged_turns, context, FIND)] == [example.id for example in examples]


def _not_had(user: str) -> str:
    had = {each.item for each in imported() if each.user == user}
    return next(film.id for film in FILMS if film.id not in had)


def test_what_is_protected_was_neither_learned_from_nor_judged(context: Any, tmp_path: Path) -> None:
    judged_turns = clicks(20)
    assert watched_examples(judged_turns, context) == []  # too few to judge by
    context.items.add_interactions(replace(each, user=f"more{each.user}") for each in imported(500))
    judge = Judge(context, TextIndex(tmp_path), never, max_dense_items=1_000)
    protected = watched_examples(judged_turns, context)
    assert 150 <= len(protected) <= 230  # one of three
    known = {(choice.user, choice.item) for choice in judge.choices}
    for each in protected:
        asked: Next = each.payload
        assert (asked.choice.user, asked.choice.item) not in known
        assert len(asked.before()) == 5
        assert each.feedback_ids == ()
    users = {each.payload.choice.user for each in protected}
    judged = sorted(users)[0]
    fewer = watched_examples([*judged_turns, judged_turn_of(judged, item="a1", signal="skip")], context)
    assert {each.payload.choice.user for each in fewer} == users - {judged}
    learned, held_out = split(examples_of(judged_turns, context, FIND))
    check_contamination(learned, {"held out": held_out, "protected": protected})
    assert watched(imported(10)) == {}


# -- weights --


def test_training_finds_what_goes_together(context: Any, judge: Judge, tmp_path: Path) -> None:
    learned_from, held_out = split(examples_of(clicks(), context, FIND))
    held_out = [each for each in held_out if each.payload.choice.item.startswith("b")]
    before = np.mean([score.value for score in judge.scores(held_out, None)])
    training = training_of(tmp_path, learned_from)
    assert train(training, judge) == "item-weights"
    assert len(training.trials) == len(GRID) + len(MIXES)
    learned = LearnedWeights.load(training.folder)
    scores = judge.scores(held_out, learned)
    assert np.mean([score.value for score in scores]) > before + 0.2
    assert all(0 <= score.value <= TOP < 1 for score in scores)
    assert any(score.value == TOP for score in scores)
    assert np.mean([score.value for score in judge.scores(held_out, None)]) == before
    assert {path.name for path in training.folder.iterdir()} == {"weights.json", "weights.safetensors"}


def test_a_weight_of_nothing_teaches_nothing(context: Any, judge: Judge, tmp_path: Path) -> None:
    examples = examples_of(clicks(), context, FIND)
    train(training_of(tmp_path, examples), judge)
    whole = LearnedWeights.load(tmp_path / "adapter")
    train(training_of(tmp_path, [replace(example, weight=1e-6) for example in examples]), judge)
    little = LearnedWeights.load(tmp_path / "adapter")
    asked = [example for example in examples if example.payload.choice.item.startswith("b")]
    found = [np.mean([score.value for score in judge.scores(asked, each)]) for each in (whole, little, None)]
    assert found[0] > found[1] + 0.2
    assert found[1] == pytest.approx(found[2], abs=0.1)


def test_training_goes_on_stops_and_ends_in_time(context: Any, judge: Judge, tmp_path: Path) -> None:
    examples = examples_of(clicks(20), context, FIND)
    stop = threading.Event()
    stopped = training_of(tmp_path, examples, cancel=stop, on_progress=lambda *_: stop.set())
    with pytest.raises(errors.Cancelled):
        train(stopped, judge)
    (known,) = json.loads((tmp_path / "work" / "settings.json").read_text()).items()
    (tmp_path / "work" / "settings.json").write_text(json.dumps({known[0]: 0.99}))
    resumed = training_of(tmp_path, examples)
    train(resumed, judge)
    assert resumed.trials[0].loss == pytest.approx(0.01)
    assert LearnedWeights.load(tmp_path / "adapter").settings == GRID[0]
    (tmp_path / "work" / "settings.json").write_text("[")
    late = training_of(tmp_path, examples, deadline=time.monotonic() - 1)
    assert train(late, judge) == "item-weights"
    assert late.trials == []
    with pytest.raises(errors.NotEnoughData):
        train(training_of(tmp_path, examples[:2]), judge)


@pytest.mark.parametrize("max_dense_items", [10, 1_000])
def test_weights_come_back_as_they_were_kept(tmp_path: Path, max_dense_items: int) -> None:
    stats = InteractionStats.of([choice_of(each) for each in imported()])
    model = TogetherModel(stats, max_dense_items=max_dense_items)
    LearnedWeights.of(stats, model, Settings(5.0, 60.0, 0.1), n_interactions=7).save(tmp_path)
    learned = LearnedWeights.load(tmp_path)
    assert (learned.settings, learned.n_interactions, learned.is_ease) == (
        Settings(5.0, 60.0, 0.1),
        7,
        max_dense_items > 10,
    )
    other = InteractionStats.of(reversed([choice_of(each) for each in imported()]))  # the items have other places
    other.index_of("later")
    back = learned.model_for(other)
    names = [stats.item_ids[n] for n in range(stats.n_items)]
    places = np.array([other.index_of(name) for name in names])
    every = np.arange(stats.n_items)
    np.testing.assert_allclose(back.block(places, places), model.block(every, every), atol=2e-3)
    kept = learned.stats()
    np.testing.assert_allclose(kept.transitions_from(every), stats.transitions_from(every), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(kept.sums, stats.sums)
    assert learned.knows(other).sum() == stats.n_items
    assert back.block(np.array([other.n_items - 1]), places).max() == 0


def test_age_counts_by_the_half_life() -> None:
    log = [Interaction("ada", "a", at=0.0), Interaction("ada", "b", at=0.0), Interaction("bob", "c", at=100.0)]
    log.append(Interaction("bob", "d", at=100.0))
    stats = InteractionStats.of(log)
    a, b, c, d = (np.array([stats.index_of(item)]) for item in "abcd")
    plain = TogetherModel(stats)
    assert plain.block(a, b)[0, 0] == pytest.approx(plain.block(c, d)[0, 0])
    aged = TogetherModel(stats, settings=Settings(half_life_s=100.0))
    assert aged.block(c, d)[0, 0] == pytest.approx(plain.block(c, d)[0, 0])
    assert aged.block(a, b)[0, 0] == pytest.approx(plain.block(a, b)[0, 0] / 2, rel=0.02)


@pytest.mark.parametrize("damage", ["cut", "json", "shape", "columns", "format"])
def test_files_that_are_none_are_refused(tmp_path: Path, damage: str) -> None:
    stats = InteractionStats.of([choice_of(each) for each in imported(5)])
    whole = LearnedWeights.of(stats, TogetherModel(stats), Settings(), n_interactions=7)
    if damage == "shape":
        whole = replace(whole, item_ids=whole.item_ids[1:])
    if damage == "columns":
        whole = replace(whole, columns=whole.columns + 5)
    whole.save(tmp_path)
    facts, tensors = tmp_path / "weights.json", tmp_path / "weights.safetensors"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    if damage == "json":
        facts.write_text("[]")
    if damage == "format":
        facts.write_text(facts.read_text().replace("item-weights 1", "item-weights 9"))
    with pytest.raises(errors.AdapterMismatch):
        LearnedWeights.load(tmp_path)


# -- texts --


def test_a_map_of_the_texts_is_learned_where_it_places_hidden_items_better(tmp_path: Path, context: Any) -> None:
    """Vectors say two things of each film, and users care for the quieter one."""
    random = np.random.default_rng(0)
    n, loud, quiet = 400, 8, 4
    kind = random.integers(quiet, size=n)
    vectors = np.concatenate([2.0 * np.eye(loud)[random.integers(loud, size=n)], np.eye(quiet)[kind]], axis=1)
    vectors = (vectors + 0.05 * random.standard_normal(vectors.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    log = []
    for user in range(60):
        mine = random.permutation(np.flatnonzero(kind == user % quiet))[:25]
        log += [Interaction(f"u{user}", f"x{item}", at=float(100 * user + place)) for place, item in enumerate(mine)]
    context.items.add_items([Item(f"x{item}", f"X{item}") for item in range(n)])
    context.items.add_interactions(log)
    judge = Judge(context, TextIndex(tmp_path), never, max_dense_items=1_000)
    index = judge.index
    places = [index.stats.index_of(f"x{item}") for item in range(n)]
    whole, has = np.zeros((index.n_items, vectors.shape[1]), np.float32), np.zeros(index.n_items, np.bool_)
    whole[places], has[places] = vectors, True
    index.texts = SimpleNamespace(whole=whole, about=whole, has=has)  # type: ignore[assignment]
    judge.has_texts = True
    found = train_text_map(training_of(tmp_path, []), judge, [])
    assert found is not None
    assert found.for_cold
    hidden = has & (random.random(index.n_items) < 0.2)
    histories = [np.array(history.items) for history in index.stats.users.values()]
    bare, mapped = (order_of_hidden(each, histories, hidden, has & ~hidden).mean() for each in (whole, found(whole)))
    assert mapped > bare + 0.005
    assert np.allclose(np.linalg.norm(found(whole)[places], axis=1), 1.0, atol=1e-5)
    assert not found(whole)[~has].any()

    index.texts = SimpleNamespace(whole=whole[:, ::-1] * 0 + random.standard_normal(whole.shape).astype(np.float32),
                                  about=whole, has=has)  # type: ignore[assignment]  # fmt: skip
    assert train_text_map(training_of(tmp_path, []), judge, []) is None  # texts that say nothing


def test_a_map_for_the_vectors_of_another_model_is_not_used(context: Any, judge: Judge) -> None:
    stats = judge.index.stats
    learned = LearnedWeights.of(stats, judge.index.model, Settings(), n_interactions=7)
    learned = replace(
        learned, text_map=TextMap(np.zeros((3, 3), np.float32), "another", for_cold=True, for_wishes=True)
    )
    judge.index.use(learned)
    assert judge.index.text_map is None


# -- a whole cycle --


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
    for each in given:
        assistant.give_feedback(each)


def test_a_cycle_makes_weights_that_serve_and_can_be_taken_back(cinema: Assistant) -> None:
    give_clicks(cinema)
    before = ids_of(ask(cinema, user="u1", k=5))
    report = cinema.learn(TASK)
    assert report.is_promoted, report.reasons
    assert report.metric == "NDCG@10"
    assert {each.name for each in report.slices} == {"new feedback"}
    assert report.retired_ids == ()  # a click that was retired would be recommended again
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


def test_clicks_that_follow_no_rule_are_refused_by_the_gate(cinema: Assistant) -> None:
    random = np.random.default_rng(5)
    for user in range(40):
        turn = ask(cinema, user=f"u{user}", k=1).turn
        for item in random.permutation(len(FILMS))[:4]:
            cinema.give_feedback(Feedback(turn.id, signal="click", item=FILMS[item].id, source=f"u{user}"))
    report = cinema.learn(TASK)
    assert not report.is_approved
    assert cinema.adapters.champion_id(TASK) is None


def test_too_few_clicks_are_said_to_be_too_few(cinema: Assistant) -> None:
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
