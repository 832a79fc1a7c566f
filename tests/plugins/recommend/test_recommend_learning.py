"""What one feedback changes in the next answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from support.recommending import ANYTHING, TASK, ask, codes, give, ids_of, items_of

from smallai_assistant import Assistant, AssistantConfig, Feedback, Interaction, Item
from smallai_assistant.cli.demo_data import READER, books, readings
from smallai_recommend.index import Index


def place(assistant: Assistant, user: str | None, item: str) -> int:
    return ids_of(ask(assistant, user=user, k=100)).index(item)


def test_a_click_moves_the_next_list(own_shop: Assistant) -> None:
    before = ids_of(ask(own_shop, user="newcomer", k=30))
    effect = give(own_shop, "newcomer", signal="click", item="study")
    assert effect == "You clicked “A Study in Scarlet”: it and what goes with it count for more from now on."
    response = ask(own_shop, user="newcomer", k=30)
    after = ids_of(response)
    assert response.details["cold_start"] is False
    assert "study" in before
    assert "study" not in after  # consumed
    assert after.index("hound") < before.index("hound")
    assert after.index("hound") < 5
    assert any("because you liked A Study in Scarlet" in item.why for item in items_of(response)[:5])
    assert len(own_shop.items.interactions()) == len(readings())  # feedback is not copied to the interactions


def test_a_skip_counts_a_little_for_others(own_shop: Assistant) -> None:
    first = ids_of(ask(own_shop, user=READER, k=1))[0]
    stranger = place(own_shop, "stranger", first)
    score = {item.id: item.score for item in items_of(ask(own_shop, user="stranger", k=30))}[first]
    assert "count for less" in give(own_shop, READER, signal="skip", item=first)
    after = ids_of(ask(own_shop, user=READER, k=30))
    assert after.index(first) > 0
    others = {item.id: item.score for item in items_of(ask(own_shop, user="stranger", k=30))}[first]
    assert score - 1.0 < others < score
    assert abs(place(own_shop, "stranger", first) - stranger) < 8


def test_a_disliked_item_comes_only_if_asked_for(own_shop: Assistant) -> None:
    first = ids_of(ask(own_shop, user=READER, k=1))[0]
    assert "you will not see it again" in give(own_shop, READER, is_good=False, item=first)
    assert first not in ids_of(ask(own_shop, user=READER, k=100))
    assert first in ids_of(ask(own_shop, user=READER, k=100, include_consumed=True))
    assert first in ids_of(ask(own_shop, user="stranger", k=100))


def test_a_disliked_answer_is_followed_by_another(own_shop: Assistant) -> None:
    response = ask(own_shop, user=READER, k=3)
    assert response.rate(good=False).effect.startswith("For you alone: You did not like this answer")
    assert ids_of(ask(own_shop, user=READER, k=3)) != ids_of(response)


def test_a_correction_is_a_choice(own_shop: Assistant) -> None:
    response = ask(own_shop, user="newcomer", k=3)
    assert "“A Study in Scarlet”" in response.rate(correction="a study in scarlet").effect
    assert "hound" in ids_of(ask(own_shop, user="newcomer", k=5))
    assert "is not in the catalogue" in response.rate(correction="The Phone Book").effect
    own_shop.teach(TASK, "a tale of the sea", "Moby-Dick")


def test_a_session_without_a_user_has_a_profile(own_shop: Assistant) -> None:
    session = own_shop.session()
    turn = session.send(ANYTHING, task=TASK).turn
    assert turn.details["cold_start"] is True
    own_shop.give_feedback(Feedback(turn.id, signal="click", item="study"))
    again = session.send(ANYTHING, task=TASK)
    assert again.details["cold_start"] is False
    assert "study" not in ids_of(again)
    assert ask(own_shop).details["cold_start"] is True


def test_feedback_survives_restarts_undo_and_erasure(config: AssistantConfig) -> None:
    def lists(assistant: Assistant) -> list[list[str]]:
        return [ids_of(ask(assistant, user=user, k=30)) for user in ("newcomer", READER, None)]

    with Assistant(config) as opened:
        opened.items.add_items(books())
        opened.items.add_interactions(readings())
        before = lists(opened)
        turn = ask(opened, user="newcomer").turn
        clicked = opened.give_feedback(Feedback(turn.id, signal="click", item="study", source="newcomer", key="1"))
        assert not opened.give_feedback(Feedback(turn.id, signal="click", item="study", key="1")).is_new
        skipped = opened.give_feedback(Feedback(turn.id, signal="skip", item="pride", source="newcomer"))
        learned = lists(opened)
        assert learned != before
    with Assistant(config) as opened:
        assert lists(opened) == learned
        opened.undo_feedback(clicked.feedback.id)
        opened.erase_feedback([skipped.feedback.id])
        assert lists(opened) == before


def test_an_unknown_item_waits_until_it_is_imported(own_shop: Assistant) -> None:
    assert "is not in the catalogue" in give(own_shop, "newcomer", signal="click", item="later")
    response = ask(own_shop, user="newcomer", k=40)
    assert response.details["cold_start"] is True
    own_shop.items.add_items([Item("later", "Later")])
    response = ask(own_shop, user="newcomer", k=40)
    assert response.details["cold_start"] is False
    assert "later" not in ids_of(response)


def test_an_import_makes_an_unknown_item_count(own_shop: Assistant, own_index: Callable[[], Index]) -> None:
    turn = ask(own_shop, user="newcomer").turn
    own_shop.give_feedback(Feedback(turn.id, signal="click", item="later", source="newcomer"))
    own_shop.items.add_interactions([Interaction("ada", "later")])
    assert ask(own_shop, user="newcomer").details["cold_start"] is False
    own_shop.give_feedback(Feedback(turn.id, signal="stars", value=5.0, item="later", source="newcomer"))
    assert ask(own_shop, user="newcomer").details["cold_start"] is False
    assert own_index().stats.users["newcomer"].strengths == [1.5]


def test_feedback_and_imports_go_together(own_shop: Assistant, own_index: Callable[[], Index]) -> None:
    give(own_shop, "newcomer", signal="click", item="study")
    now = datetime.now(UTC).timestamp()
    own_shop.items.add_interactions(
        [Interaction("newcomer", "moby", at=5.0), Interaction("newcomer", "hound", at=now + 9)]
    )
    left = ids_of(ask(own_shop, user="newcomer", k=40))
    assert not {"study", "moby", "hound"} & set(left)
    index = own_index()
    history = [index.stats.item_ids[item] for item in index.stats.users["newcomer"].items]
    assert history == ["moby", "study", "hound"]
    assert index.stats.n_interactions == len(readings()) + 3


def test_nonsense_feedback_does_no_harm(own_shop: Assistant) -> None:
    turn = ask(own_shop, user=READER).turn
    for said in (
        {"correction": "%_!\\" * 5_000},
        {"item": "no such \U0001f3ac", "signal": "click"},
        {"item": "time", "signal": "dwell", "value": 0.0},
        {"comment": "x"},
        {"signal": "stars", "value": 1.0},
    ):
        assert own_shop.give_feedback(Feedback(turn.id, **said)).notices == ()
    assert items_of(ask(own_shop, user=READER))


def test_it_learns_while_answers_are_made(own_shop: Assistant) -> None:
    turn = ask(own_shop, user=READER).turn
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(15):
                if number % 2:
                    own_shop.give_feedback(
                        Feedback(turn.id, signal="click" if n % 3 else "skip", item=books()[n].id, source=f"s{number}")
                    )
                else:
                    assert codes(ask(own_shop, user=READER, k=3)) <= {"nothing_left"}
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    left = set(ids_of(ask(own_shop, user=READER, k=40)))
    clicked = {book.id for n, book in enumerate(books()[:15]) if n % 3}
    assert not left & clicked
