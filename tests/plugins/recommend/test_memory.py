"""The fast memory depends on which feedback there is, not on how it arrived. No model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.recommend_feedback import (
    FILMS,
    STORED,
    assert_same_state,
    find,
    index_of,
    judged_turn_of,
    state_of,
)

from smallai_assistant import Interaction, Item, JudgedTurn
from smallai_recommend.index import Index
from smallai_recommend.interactions import InteractionStats, choice_of
from smallai_recommend.memory import MAX_REACTIONS, FeedbackMemory
from smallai_recommend.ranking import rank

USERS = ("u1", "u2", "new", "other")
SHOWN = {"t1": "ab", "t2": "", "t3": "abc"}

clicked = {"signal": "click"}
liked = {"is_good": True}

said_of_item = st.one_of(
    st.just(clicked),
    st.just({"signal": "skip"}),
    st.builds(lambda seconds: {"signal": "dwell", "value": seconds}, st.sampled_from([1.0, 30.0, 500.0])),
    st.builds(lambda stars: {"signal": "stars", "value": float(stars)}, st.integers(1, 5)),
    st.builds(lambda is_good: {"is_good": is_good}, st.booleans()),
)


@dataclass(frozen=True)
class Given:
    """A feedback. `second` is its time; `rank` orders its id among feedback of the same second."""

    user: str
    item: str | None
    turn: str
    said: dict[str, Any]
    second: int
    rank: int = 0
    source: str | None = None

    def judged_turn(self, number: int) -> JudgedTurn:
        said = self.said if self.item is None else {**self.said, "item": self.item}
        # The imports end at 59 s: feedback lies among them and after them.
        return judged_turn_of(
            self.user, at=57.0 + self.second, turn_id=self.turn, shown=SHOWN[self.turn], id=f"{self.rank} {number}",
            source=self.source or self.user, **said
        )  # fmt: skip


who = st.sampled_from(USERS)
which = st.sampled_from("abcx")  # x is not in the catalogue
turn = st.sampled_from(sorted(SHOWN))
second = st.integers(0, 4)
source = st.sampled_from([None, "local", "robot"])
of_item = st.builds(Given, who, which, turn, said_of_item, second, st.integers(0, 9), source)
of_answer = st.builds(
    Given, who, st.none(), turn, st.builds(lambda is_good: {"is_good": is_good}, st.booleans()), second,
    st.integers(0, 9), source
)  # fmt: skip
feedback = st.one_of(of_item, of_item, of_answer)
undo = st.integers(0, 30)  # the number of the feedback that is undone


def fed(judged_turns: Sequence[JudgedTurn]) -> Index:
    """An index whose memory was given the feedback one by one."""
    memory = FeedbackMemory(find)
    index = index_of(memory)
    for number, judged_turn in enumerate(judged_turns):
        memory.add(judged_turn)
        if number % 2:
            follow(index)  # not after each: several changes at once are another case
    follow(index)
    return index


def rebuilt(judged_turns: Sequence[JudgedTurn]) -> Index:
    """An index that counted everything from scratch."""
    memory = FeedbackMemory(find)
    memory.replace(judged_turns)
    index = index_of(memory)
    index.rebuild(STORED)
    return index


def follow(index: Index) -> None:
    if not index.take_feedback():
        index.rebuild(STORED)


def assert_all_orders_agree(judged_turns: Sequence[JudgedTurn]) -> None:
    expected = state_of(rebuilt(judged_turns), USERS)
    by_id = sorted(judged_turns, key=lambda judged_turn: judged_turn.feedback.id)
    twice = [*judged_turns, *judged_turns[::2]]
    for order in (judged_turns, judged_turns[::-1], by_id, twice):
        assert_same_state(state_of(fed(order), USERS), expected)
    assert_same_state(state_of(rebuilt(twice[::-1]), USERS), expected)


@settings(deadline=None)
@given(rows=st.lists(feedback, max_size=20))
def test_learning_one_by_one_equals_a_rebuild(rows: list[Given]) -> None:
    assert_all_orders_agree([row.judged_turn(number) for number, row in enumerate(rows)])


@pytest.mark.parametrize(
    "rows",
    [
        # The like belongs to the choice of t2, not to the later choice of the same item.
        [Given("u2", "a", "t2", clicked, 2), Given("u2", "a", "t1", clicked, 3), Given("u2", "a", "t2", liked, 4)],
        # The same, if both choices have the same time.
        [
            Given("u2", "a", "t2", clicked, 3, rank=2),
            Given("u2", "a", "t1", clicked, 3, rank=1),
            Given("u2", "a", "t2", liked, 4),
        ],
        # The like arrives last, but is the first signal of the choice: it decides time and public amount.
        [Given("u2", "a", "t2", clicked, 3), Given("u2", "b", "t2", clicked, 3), Given("u2", "a", "t2", liked, 2)],
        # The skip arrives last, but the click is the last word.
        [Given("u2", "a", "t2", clicked, 3), Given("u2", "a", "t1", {"signal": "skip"}, 2)],
        # The robot's second choice arrives before its first one.
        [Given("u1", "a", "t1", clicked, 4, source="robot"), Given("u2", "a", "t1", liked, 3, source="robot")],
        # Two choices of the same second arrive against the order of their ids.
        [Given("new", "a", "t1", clicked, 3, rank=2), Given("new", "b", "t1", clicked, 3, rank=1)],
        # The rating of an answer gives several signals of the same time.
        [Given("u1", "b", "t1", clicked, 3), Given("u1", None, "t1", {"is_good": False}, 3)],
        # A choice has the time of an import of the same user.
        [Given("u1", "a", "t1", clicked, 0), Given("u1", "b", "t1", clicked, 0)],
    ],
    ids=["stronger", "stronger, same second", "first signal", "last word", "repetition", "same second", "rated answer",
         "import"],
)  # fmt: skip
def test_counterexamples_of_order_of_arrival(rows: list[Given]) -> None:
    assert_all_orders_agree([row.judged_turn(number) for number, row in enumerate(rows)])


@settings(deadline=None)
@given(steps=st.lists(st.one_of(feedback, feedback, undo, st.just("follow")), max_size=30))
@example(steps=[Given("u2", "a", "t2", clicked, 1), "follow", Given("u2", "a", "t2", liked, 2), 1])
def test_undone_feedback_leaves_no_trace(steps: list[Given | int | str]) -> None:
    memory = FeedbackMemory(find)
    index = index_of(memory)
    kept: list[JudgedTurn] = []
    for number, step in enumerate(steps):
        if isinstance(step, Given):
            kept.append(step.judged_turn(number))
            memory.add(kept[-1])
        elif step == "follow":
            follow(index)
        elif isinstance(step, int) and step < len(kept):
            del kept[step]
            memory.replace(kept)
    follow(index)
    assert_same_state(state_of(index, USERS), state_of(rebuilt(kept), USERS))


# -- together with a store that changes --


@dataclass
class FakeStore:
    """The part of the host's `ItemStore` that an index reads; the real one takes milliseconds per change."""

    catalogue: dict[str, Item] = field(default_factory=dict)
    log: list[Interaction] = field(default_factory=list)
    revisions: tuple[int, int, int] = (0, 0, 0)

    def items(self) -> list[Item]:
        return [self.catalogue[name] for name in sorted(self.catalogue)]

    def interactions(self, *, after: int = 0) -> list[Interaction]:
        return sorted(self.log[after:], key=lambda row: row.at)

    def revision(self) -> tuple[int, int, int]:
        return self.revisions

    def toggle(self, name: str) -> None:
        """Adds an item, or removes it if it is there."""
        if self.catalogue.pop(name, None) is None:
            self.catalogue[name] = Item(name, f"Title {name}")
        self.revisions = (self.revisions[0] + 1, *self.revisions[1:])

    def add(self, row: Interaction) -> None:
        self.log.append(row)
        self.revisions = (self.revisions[0], self.revisions[1] + 1, self.revisions[2])


bought = st.builds(Interaction, user=who, item=which, at=second.map(lambda number: 57.0 + number))
Change = Callable[[FakeStore], None]
change: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda name: lambda store: store.toggle(name), which),
    st.builds(lambda row: lambda store: store.add(row), bought),
)  # fmt: skip


@settings(deadline=None)
@given(steps=st.lists(st.one_of(feedback, feedback, change, st.just("follow")), max_size=25))
@example(
    # An item is removed whose choice is counted, and then becomes stronger.
    steps=[
        Given("u1", "b", "t1", clicked, 0),
        lambda store: store.toggle("b"),
        "follow",
        lambda store: store.toggle("b"),
        Given("u1", "b", "t1", {"signal": "dwell", "value": 500.0}, 1),
    ]
)
def test_an_index_equals_one_made_later(steps: list[Given | Change | str]) -> None:
    store, memory = FakeStore(), FeedbackMemory(find)
    context: Any = SimpleNamespace(items=store)
    index = Index(memory)
    for number, step in enumerate(steps):
        if isinstance(step, Given):
            memory.add(step.judged_turn(number))
        elif step == "follow":
            index.refresh(context)
        elif callable(step):
            step(store)
    index.refresh(context)
    later = Index(memory)
    later.refresh(context)
    assert set(index.catalogue.titles.values()) == set(later.catalogue.titles.values())
    assert_same_state(state_of(index, USERS, "abcx"), state_of(later, USERS, "abcx"))


# -- what it remembers --


def test_signals_of_one_answer_are_one_choice() -> None:
    memory = FeedbackMemory(find)
    for n, what in enumerate(
        (clicked, {"signal": "dwell", "value": 300.0}, {"signal": "stars", "value": 5.0}, clicked)
    ):
        memory.add(judged_turn_of(at=1_000.0 + n, turn_id="t", item="a", **what))
    (one,) = memory.reported()
    assert one.amount == 1.5
    assert len(one.feedback_ids) == 4
    index = index_of(memory)
    assert index.take_feedback()
    assert index.stats.n_interactions == len(STORED) + 1
    assert index.stats.users["ada"].counts == [1.0]


def test_the_last_word_on_an_item_counts() -> None:
    memory = FeedbackMemory(find)
    memory.add(judged_turn_of(item="a", is_good=False))
    assert memory.against() == {"a": 1.0}
    memory.add(judged_turn_of(item="a", is_good=True, at=1_001.0))
    assert memory.against() == {}
    assert memory.reactions_of("ada") == []
    memory.add(judged_turn_of(item="a", is_good=False, at=1_002.0))
    assert memory.reactions_of("ada") == [("a", -1.0)]


def test_only_the_newest_skips_count() -> None:
    memory = FeedbackMemory(find)
    for n in range(3 * MAX_REACTIONS):
        memory.add(judged_turn_of(item=f"i{n}", signal="skip", at=1_000.0 + n))
    assert len(memory.reactions_of("ada")) == MAX_REACTIONS
    assert memory.reactions_of("ada")[-1] == (f"i{3 * MAX_REACTIONS - 1}", -0.5)


def test_a_disliked_choice_counts_against_similar_items() -> None:
    log = [Interaction(f"u{n}", item, at=float(n)) for n in range(40) for item in ("ab" if n % 2 else "cd")]
    memory = FeedbackMemory(find)
    index = Index(memory)
    index.load(FILMS, InteractionStats.of(log), max_dense_items=100)
    memory.add(judged_turn_of(item="a", **clicked))
    assert index.take_feedback()
    b = index.stats.index_of("b")
    before = rank(index.snapshot(), "ada").scores[b]
    memory.add(judged_turn_of(item="a", is_good=False, at=1_001.0))
    assert index.take_feedback()
    assert rank(index.snapshot(), "ada").scores[b] < before - 1.0


def test_one_voter_counts_once_however_often() -> None:
    memory = FeedbackMemory(find)
    index = index_of(memory)
    before = index.stats.popularity[index.stats.index_of("a")]
    for n in range(200):  # one source, for many users
        item = "a" if n % 2 else "bcdefgh"[n % 7]
        memory.add(judged_turn_of(f"v{n}", item=item, source="robot", at=2_000.0 + n, **clicked))
        assert index.take_feedback()
    gained = index.stats.popularity[index.stats.index_of("a")] - before
    assert 1.0 <= gained < 1.65  # the sum of 1 / n² is pi² / 6


def test_the_smaller_of_two_bounds_holds() -> None:
    stats = InteractionStats.of([])
    for n in range(3):
        assert stats.append(choice_of(Interaction("ada", "a", at=float(n)))._replace(share=0.5))
    assert stats.users["ada"].counts == [0.5, 0.25, pytest.approx(1 / 9)]
