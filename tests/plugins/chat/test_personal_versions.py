"""Dialogue answers a person from the person's own version, and everybody else from the shared one."""

from __future__ import annotations

import pytest
from support.dialogue import TASK, ask

from smallai_assistant import Assistant
from smallai_assistant.feedback import is_held_out
from smallai_assistant.learning.learner import CycleOptions

ANN = CycleOptions(audience="user:ann")


def learned(assistant: Assistant, options: CycleOptions) -> str:
    """The id of a version that serves: a tiny random model learns nothing, so the gate may refuse it."""
    report = assistant.learn(TASK, options)
    assert report.adapter_id is not None
    if not report.is_promoted:
        assistant.promote(report.adapter_id, force=True)
    return report.adapter_id


def rate_on_both_sides(assistant: Assistant) -> None:
    """Rates answers for ann until enough of them may be learned and judged by: a turn's random id decides its side."""
    n_rated = {True: 0, False: 0}
    number = 0
    while min(n_rated.values()) < 6:
        response = assistant.ask(f"Say something about {number}.", task=TASK, user_id="ann", options={"max_tokens": 4})
        if response.text:
            response.rate(good=number % 2 == 0)
            n_rated[is_held_out(response.turn.id)] += 1
        number += 1


def adapter_for(assistant: Assistant, user: str | None, question: str) -> str | None:
    options = {"max_tokens": 4, "use_memory": False}
    return assistant.ask(question, task=TASK, user_id=user, options=options).turn.adapter


@pytest.mark.slow
def test_a_scope_of_ones_own_comes_before_that_of_everyone(tiny: Assistant) -> None:
    for number in range(8):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
        tiny.teach(TASK, f"What is the color of my door {number}?", f"red {number}", source="ann", audience="user")
    tiny.teach(TASK, "What is the number of room 2?", "22", source="ann", audience="user")
    shared, own = learned(tiny, CycleOptions()), learned(tiny, ANN)
    asked = ("What is the number of room 2?", "What is the color of my door 1?", "What is the number of room 1?", "Hi?")
    assert [adapter_for(tiny, "ann", question) for question in asked] == [own, own, shared, None]
    for user in ("bob", None):
        assert [adapter_for(tiny, user, question) for question in asked] == [shared, None, shared, None]
    why = tiny.session("ann").send(asked[1], task=TASK, options={"max_tokens": 4, "use_memory": False}).why()
    assert why.adapter == own
    tiny.rollback(TASK, audience="user:ann")
    assert [adapter_for(tiny, "ann", question) for question in asked] == [shared, None, shared, None]


@pytest.mark.slow
def test_a_style_of_ones_own_leaves_shared_knowledge(tiny: Assistant) -> None:
    for number in range(8):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
    shared = learned(tiny, CycleOptions())
    rate_on_both_sides(tiny)
    own = learned(tiny, ANN)
    assert adapter_for(tiny, "ann", "What is the number of room 1?") == shared
    assert adapter_for(tiny, "ann", "Hello?") == own
    assert adapter_for(tiny, "bob", "Hello?") is None
    assert ask(tiny, "Hello?", max_tokens=4).turn.adapter is None
