"""Imported interactions that speak against their item, and how little a single recent choice says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import sparse
from support.recommending import ask, ids_of, items_of

from smallai_assistant import Assistant, AssistantConfig, Feedback, Interaction, Item
from smallai_recommend.dislikes import StoredDislikes
from smallai_recommend.ease import EaseModel
from smallai_recommend.interactions import InteractionStats, strength
from smallai_recommend.opinions import Support, weighed
from smallai_recommend.signals import REFUSED, STARS

KINDS = {"w": "a western with cowboys", "j": "a concert of cool jazz"}
YEAR = 365 * 86_400.0


@pytest.fixture
def club(config: AssistantConfig) -> Iterator[Assistant]:
    """Ten westerns and ten concerts, and ten members who choose six of one kind."""
    with Assistant(config) as opened:
        opened.items.add_items(
            Item(f"{kind}{n}", f"{kind.upper()} {n}", text) for n in range(10) for kind, text in KINDS.items()
        )
        opened.items.add_interactions(
            Interaction(f"member{user}", f"{'wj'[user % 2]}{(user + n) % 10}", at=YEAR + 60.0 * user + n)
            for user in range(10)
            for n in range(6)
        )
        yield opened


def rate(assistant: Assistant, user: str, item: str, stars: int, at: float) -> None:
    assistant.items.add_interactions([Interaction(user, item, Interaction.weight_of_stars(stars), at)])


def test_stars_mean_the_same_at_both_doors() -> None:
    assert [round(STARS[n], 9) for n in range(1, 6)] == [-1.5, -1.0, 0.3, 1.0, 1.5]
    assert all(strength(Interaction.weight_of_stars(n)) <= REFUSED for n in (1, 2))


def test_low_ratings_are_no_liking(club: Assistant) -> None:
    ids_of(ask(club, user="eva", k=3))  # the index exists: the ratings are appended
    for n in range(5):
        rate(club, "eva", f"w{n}", 1, 2 * YEAR + n)
    rate(club, "eva", "j0", 5, 2 * YEAR + 9)
    rate(club, "flo", "w0", 2, 2 * YEAR)
    appended = items_of(ask(club, user="eva", k=15))
    assert all(item.id.startswith("j") for item in appended[:8])
    assert not {f"w{n}" for n in range(5)} & {item.id for item in appended}
    assert not any("liked W" in item.why for item in appended)
    answer = ask(club, user="flo", k=20)
    assert answer.details["cold_start"]
    assert "w0" not in ids_of(answer)
    assert not any("liked" in item.why for item in items_of(answer))
    with Assistant(club.config) as again:  # counted at once
        assert ids_of(ask(again, user="eva", k=15)) == [item.id for item in appended]


def test_the_last_rating_decides(club: Assistant) -> None:
    rate(club, "eva", "w0", 1, 2 * YEAR)
    assert "w0" not in ids_of(ask(club, user="eva", k=20))
    rate(club, "eva", "w0", 5, 3 * YEAR)
    assert "liked W 0" in items_of(ask(club, user="eva", k=3))[0].why
    rate(club, "eva", "w0", 1, 2.5 * YEAR)  # arrives later, was said before
    assert "liked W 0" in items_of(ask(club, user="eva", k=3))[0].why
    rate(club, "eva", "w0", 2, 4 * YEAR)
    assert not any("liked W 0" in item.why for item in items_of(ask(club, user="eva", k=20)))


def test_feedback_after_a_low_rating_decides(club: Assistant) -> None:
    rate(club, "eva", "w0", 1, 2 * YEAR)
    turn = ask(club, user="eva", k=3).turn
    club.give_feedback(Feedback(turn.id, signal="stars", value=5, item="w0", source="eva"))
    assert any("liked W 0" in item.why for item in items_of(ask(club, user="eva", k=3)))


def test_dislikes_count_against_an_item_once_for_each_user() -> None:
    rows = [Interaction("a", "x", -3.0, 1.0), Interaction("a", "x", -3.0, 2.0), Interaction("b", "x", -0.1, 3.0)]
    stats = InteractionStats.of([Interaction("c", "x", at=0.0)])
    assert StoredDislikes.of(rows).against(stats) == pytest.approx([1.18])
    assert StoredDislikes.of([*rows, Interaction("a", "x", 1.0, 4.0)]).against(stats) == pytest.approx([0.18])


def test_what_was_disliked_counts_as_had(club: Assistant) -> None:
    for n in range(5):  # fans of jazz who also had a western, and were against it
        for item in ("j0", "j1", "w9"):
            rate(club, f"fan{n}", item, 1 if item == "w9" else 5, 2 * YEAR + n)
    stats = InteractionStats.of(club.items.interactions())
    assert stats.users["fan0"].counts == [1.5, 1.5, 1.0]
    assert stats.users["fan0"].strengths == [1.5, 1.5, -1.5]
    # A single dislike of somebody who likes much else is no reason, and turns nothing round.
    found = items_of(ask(club, user="fan0", k=20))
    assert found[0].id.startswith("j")
    assert "w9" not in {item.id for item in found}
    assert not any("liked W 9" in item.why for item in found)


def test_dislikes_speak_against_where_they_are_the_rule() -> None:
    def support(values: list[float], n_near: int) -> Support:  # n_near equal items say this together
        sums = np.array(values, dtype=np.float32)
        return Support(sums, np.maximum(sums, 0), np.square(np.maximum(sums, 0)) / n_near)

    liked, disliked = support([1.0, 0.0, 0.0], 5), support([0.2, 1.0, 1.0], 5)
    few = weighed(liked, disliked, share=0.1)
    assert few == pytest.approx([1.2, 1.0, 1.0])  # the user liked most: having had an item is what counts
    assert (weighed(liked, disliked, share=0.9)[1:] < 0).all()
    assert weighed(liked, disliked, share=0.5)[0] == pytest.approx(1.2)  # near the first item, most is liked
    assert weighed(support([0.0], 5), support([1.0], 50), share=0.1)[0] < 0  # many items near it, all disliked
    assert weighed(support([0.0], 5), support([1.0], 1), share=0.1)[0] == pytest.approx(1.0)  # one is no rule


def test_sparse_weights_give_the_same_support() -> None:
    weights = np.array([[0.0, 0.5, -0.2], [0.4, 0.0, 0.1], [0.0, 0.3, 0.0]], dtype=np.float32)
    items, amounts = np.array([0, 1, 2, 7]), np.array([1.0, 0.5, 2.0, 1.0], dtype=np.float32)
    dense = EaseModel.of_weights(weights, n_interactions=1, is_ease=True).support(items, amounts)
    rare = EaseModel.of_weights(sparse.csr_matrix(weights), n_interactions=1, is_ease=True).support(items, amounts)
    for one, other in zip(dense, rare, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_one_choice_after_quiet_years_moves_little(club: Assistant) -> None:
    club.items.add_interactions(
        Interaction(f"crowd{n}", f"w{item}", at=YEAR) for item in range(10) for n in range(2 * item)
    )
    before = ids_of(ask(club, k=10))
    club.items.add_interactions([Interaction("late", "w1", at=30 * YEAR)])
    after = ids_of(ask(club, k=10))
    assert after[:5] == before[:5]
    club.items.add_interactions([Interaction(f"new{n}", "w1", at=30 * YEAR + n) for n in range(60)])
    assert ids_of(ask(club, k=1)) == ["w1"]  # many recent choices do count


def test_a_german_wish_is_not_turned_round(club: Assistant) -> None:
    answer = ask(club, "bitte keinen Western", k=10)
    assert all(item.id.startswith("j") for item in items_of(answer))
    assert "words_not_understood" not in {notice.code for notice in answer.notices}


@pytest.mark.parametrize("wish", ["western olmasın", "ohne Gedöns"])
def test_an_answer_claims_no_match_for_unknown_words(club: Assistant, wish: str) -> None:
    answer = ask(club, wish, k=10)
    assert "words_not_understood" in {notice.code for notice in answer.notices}
    assert not any("matches" in item.why for item in items_of(answer))
    assert not answer.text.startswith("For “")
