"""What learning tasks of the tests make of corrections."""

from __future__ import annotations

from collections.abc import Sequence

from smallai_assistant import Example, JudgedTurn


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """Returns an example for each corrected text: the question, and the correction as its answer."""
    return [
        Example(
            id=judged_turn.feedback.id,
            prompt=judged_turn.turn.request.text,
            expected=judged_turn.feedback.correction,
            split_key=judged_turn.turn.request.text,
            feedback_ids=(judged_turn.feedback.id,),
        )
        for judged_turn in judged_turns
        if judged_turn.feedback.correction and judged_turn.turn.request.text
    ]
