"""Which feedback a version for everyone may learn."""

from __future__ import annotations

from typing import Any

import pytest

from smallai_assistant import AudioPart, Feedback, ImagePart, JudgedTurn, LabelPart, Message, TextPart, Turn
from smallai_assistant.learning.agreement import shared_feedback
from smallai_assistant.types import Part, new_id, now


def said(user: str | None, part: Part, response: tuple[Part, ...] = (), **given: Any) -> JudgedTurn:
    turn = Turn(new_id(), "s", user, "t", Message((part,)), response, now())
    return JudgedTurn(Feedback(turn.id, task="t", source=user or "local", **given), turn)


def kept(rows: list[JudgedTurn], min_people: int = 3) -> list[JudgedTurn]:
    return list(shared_feedback(rows, min_people=min_people).judged_turns)


@pytest.mark.parametrize(
    ("make", "is_agreed"),
    [
        (lambda user: said(user, TextPart("Where?"), correction="Here."), True),
        (lambda user: said(user, TextPart(f"Where, {user}?"), correction="Here."), False),
        (lambda user: said(user, TextPart("Where?"), correction=f"With {user}."), False),
        (lambda user: said(user, ImagePart(data=user.encode()), (LabelPart("cat", 1, 0.5),), correction="Lynx"), True),
        (lambda user: said(user, AudioPart(data=user.encode()), correction="See you at Envoyce"), True),
        (lambda user: said(user, TextPart("Where?"), (TextPart("There."),), is_good=True), True),
        (lambda user: said(user, TextPart("Where?"), (TextPart(user),), is_good=True), False),
        (lambda user: said(user, TextPart("a film"), signal="click", item="heat"), True),
        (lambda user: said(user, TextPart("a film"), signal="click", item=user), False),
    ],
)
def test_three_people_who_say_the_same_agree(make: Any, is_agreed: bool) -> None:
    rows = [make(user) for user in ("ann", "bob", "cem")]
    assert kept(rows) == (rows if is_agreed else [])
    assert kept(rows[:2]) == []


def test_one_person_who_says_it_three_times_does_not_agree_with_others() -> None:
    assert kept([said("ann", TextPart("Where?"), correction="Here.") for _ in range(3)]) == []


def test_who_is_not_one_person_does_not_count() -> None:
    rows = [said("ann", TextPart("Where?"), correction="Here.", audience=f"group:{name}") for name in "abc"]
    assert kept(rows) == []


def test_what_is_for_everyone_is_kept_in_order() -> None:
    rows = [
        said(None, TextPart("a"), correction="1"),
        said("ann", TextPart("b"), correction="2"),
        said("ann", TextPart("c"), correction="3", audience="everyone"),
    ]
    found = shared_feedback(rows, min_people=3)
    assert found.judged_turns == (rows[0], rows[2])
    assert (found.n_personal, found.agreements) == (1, ())


def test_the_agreement_names_people_and_rows() -> None:
    rows = [said(user, TextPart("Where?"), correction="Here.") for user in ("cem", "ann")]
    (agreement,) = shared_feedback(rows, min_people=2).agreements
    assert agreement.people == ("user:ann", "user:cem")
    assert agreement.feedback_ids == tuple(row.feedback.id for row in rows)
