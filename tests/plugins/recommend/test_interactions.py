"""The statistics of interactions. No model is loaded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interactions import log_of, random_log

from smallai_assistant import Interaction
from smallai_recommend import interactions as module
from smallai_recommend.interactions import LAGS, TREND_S, Choice, InteractionStats, strength

interactions = st.builds(
    Interaction,
    user=st.sampled_from(["ada", "bob", "cleo"]),
    item=st.sampled_from("abcdef"),
    weight=st.sampled_from([1e-6, 0.5, 1.0, 5.0, 1000.0]),
    at=st.integers(0, 5).map(lambda day: 86_400.0 * day),
)


@settings(deadline=None)  # the first call imports scipy
@given(log=st.lists(interactions, max_size=60), share=st.floats(0, 1))
def test_appending_equals_counting_all_at_once(log: list[Interaction], share: float) -> None:
    log.sort(key=lambda row: row.at)
    whole = InteractionStats.of(log)
    n_first = round(share * len(log))
    grown = InteractionStats.of(log[:n_first])
    assert all(grown.append(row) for row in log[n_first:])

    assert grown.item_ids == whole.item_ids
    assert grown.users == whole.users
    assert grown.n_interactions == whole.n_interactions == len(log)
    assert grown.newest_at == whole.newest_at
    np.testing.assert_allclose(grown.popularity, whole.popularity, rtol=1e-12)
    np.testing.assert_allclose(grown.trend(6 * 86_400.0), whole.trend(6 * 86_400.0), rtol=1e-9)
    every = range(whole.n_items)
    np.testing.assert_allclose(grown.transitions_from(every), whole.transitions_from(every), rtol=1e-4, atol=1e-9)


def test_transitions_follow_their_definition() -> None:
    log = random_log(300, n_users=4, n_items=12)
    whole = InteractionStats.of(log)
    counts = np.zeros((whole.n_items, whole.n_items))
    for history in whole.users.values():
        for later, end in enumerate(history.items):
            for earlier in range(max(0, later - LAGS), later):
                start = history.items[earlier]
                if start != end:
                    fade = np.exp(-(later - earlier - 1) / module.LAG_SCALE)
                    count = fade * history.counts[earlier] * history.counts[later]
                    counts[start, end] += count
                    counts[end, start] += module.BACKWARD * count
    shrunk = counts / (counts.sum(1, keepdims=True) + module.SHRINKAGE)
    shrunk /= (counts.sum(0) + module.SHRINKAGE) ** module.COMMONNESS
    np.testing.assert_allclose(whole.transitions_from(range(whole.n_items)), shrunk, rtol=1e-4)
    assert counts.max() > 0


def test_a_late_choice_is_refused_without_changes() -> None:
    log = log_of(("ada", "a"), ("bob", "b"), ("ada", "c"))
    one = InteractionStats.of(log)
    assert not one.append(Interaction("ada", "new", at=1.5))
    other = InteractionStats.of(log)
    assert (one.item_ids, one.users, one.n_interactions) == (other.item_ids, other.users, 3)
    assert one.append(Interaction("bob", "new", at=2.5))  # not earlier than bob's newest


def test_neither_weight_nor_repetition_outweighs_others() -> None:
    assert strength(1.0) == 1.0
    assert 0 < strength(1e-6) < 1e-5
    assert strength(1000.0) < 2
    spam = [Interaction("robot", item, 1000.0, at=float(second)) for second in range(500) for item in "xy"]
    crowd = [Interaction(f"u{n}", item, at=600.0) for n in range(4) for item in "ab"]
    found = InteractionStats.of([*spam, *crowd])
    popularity = dict(zip(found.item_ids, found.popularity, strict=True))
    assert popularity["a"] == 4.0
    assert popularity["x"] < popularity["a"]
    assert found.users["robot"].strengths[-1] == strength(1000.0)  # its own choices count in full for itself


def test_the_trend_fades_with_age() -> None:
    found = InteractionStats.of([Interaction("ada", "old", at=0.0), Interaction("bob", "new", at=TREND_S)])
    old, new = found.trend(TREND_S)
    assert new == pytest.approx(1.0)
    assert old == pytest.approx(np.exp(-1))
    assert found.trend(0.0)[1] == pytest.approx(1.0)  # a clock that is behind increases nothing


def test_a_choice_that_does_not_count_for_others_leaves_no_trace_for_them() -> None:
    stats = InteractionStats.of([Interaction("ada", "a", at=10.0), Interaction("bob", "b", at=20.0)])
    before = stats.sums
    assert stats.append(Choice("cem", "a", 1.0, 1e9, share=0.0))
    assert (stats.sums == before).all()
    assert stats.newest_at == 20.0
    assert [stats.item_ids[item] for item in stats.users["cem"].items] == ["a"]
