"""The hooks of the learning cycle: who may overrule the gate, and who is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.scripted_learner import DRINKS, NAME, PLANTS, Dictionary, Knobs, learn, open_assistant, served_by, teach

from smallai_assistant import Adapter, Feedback, Turn, errors, hookimpl
from smallai_assistant.learning.evaluation import Reason, ReasonKind
from smallai_assistant.learning.report import CycleReport


class Approver:
    """Decides as it is told and records what it was asked."""

    def __init__(self, decision: Any) -> None:
        self.decision = decision
        self.asked: list[tuple[Adapter, Adapter | None]] = []

    @hookimpl
    def approve_adapter(self, candidate: Adapter, champion: Adapter | None) -> Any:
        self.asked.append((candidate, champion))
        if isinstance(self.decision, BaseException):
            raise self.decision
        return self.decision


@pytest.mark.parametrize(("decision", "n_forgotten"), [(False, 0), (True, 3), (None, 0), (None, 3)])
def test_hook_approve_adapter(tmp_path: Path, decision: bool | None, n_forgotten: int) -> None:
    plugin = Approver(decision)
    with open_assistant(tmp_path, Dictionary(knobs=Knobs(n_forgotten=n_forgotten)), plugin) as assistant:
        teach(assistant, DRINKS)
        report = assistant.learn(NAME)
        candidate, champion = plugin.asked[0]
        assert champion is None
        assert candidate.id == report.adapter_id
        assert [row["name"] for row in candidate.report["slices"]] == ["new feedback", "numbers"]
        expected = decision if decision is not None else n_forgotten == 0
        assert report.is_approved == report.is_promoted == expected
        assert served_by(assistant) == (report.adapter_id if expected else None)
        if decision is not None:
            word = "approved" if decision else "refused"
            assert report.reasons[0] == Reason(ReasonKind(f"plugin_{word}"), plugin="Approver")
            assert str(report.reasons[0]) == f"the plugin Approver {word} it"
        stored = assistant.adapters.get(report.adapter_id).report
        assert stored["reasons"] == [str(reason) for reason in report.reasons]
        assert CycleReport.from_json(stored).reasons == report.reasons


@pytest.mark.parametrize("decision", [RuntimeError("no"), "yes", KeyboardInterrupt()])
def test_failing_approver_approves_nothing(tmp_path: Path, decision: Any) -> None:
    with open_assistant(tmp_path, None, Approver(decision)) as assistant:
        teach(assistant, DRINKS)
        with pytest.raises(errors.PluginError, match="approve_adapter"):
            assistant.learn(NAME)
        assert served_by(assistant) is None
        assert assistant.adapters.versions(NAME) == []


def test_hook_adapter_promoted(tmp_path: Path) -> None:
    heard: list[tuple[str | None, str | None]] = []

    class Observer:
        @hookimpl
        def adapter_promoted(self, adapter: Adapter | None, previous: Adapter | None) -> None:
            heard.append((adapter and adapter.id, previous and previous.id))
            raise RuntimeError("an observer that fails disturbs nobody")

    with open_assistant(tmp_path, None, Observer()) as assistant:
        first = learn(assistant, DRINKS)
        second = learn(assistant, PLANTS)
        assistant.rollback(NAME)
        assistant.rollback(NAME)
    assert heard == [(first, None), (second, first), (first, second), (None, first)]


def test_hook_feedback_given(tmp_path: Path) -> None:
    heard: list[tuple[Feedback, Turn]] = []

    class Observer:
        @hookimpl
        def feedback_given(self, feedback: Feedback, turn: Turn) -> None:
            heard.append((feedback, turn))
            raise RuntimeError("an observer that fails disturbs nobody")

    with open_assistant(tmp_path, None, Observer()) as assistant:
        response = assistant.ask("what is tea", task=NAME)
        receipt = response.rate(correction="a drink")
        assert receipt.effect
    assert heard == [(receipt.feedback, response.turn)]  # at the latest when the assistant is closed
