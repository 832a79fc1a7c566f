"""The whole plugin contract on one page. See docs/plugins.md for a worked example of each hook."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pluggy

from smallai_assistant.engines.base import Engine
from smallai_assistant.feedback import Adapter, Feedback
from smallai_assistant.task import Task
from smallai_assistant.types import Message, Turn

PROJECT = "smallai_assistant"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_tasks(register: Callable[[Task], None]) -> None:
    """At start: call `register(task)` for each task you bring."""


@hookspec
def register_engines(register: Callable[[Engine], None]) -> None:
    """At start: call `register(engine)` for each engine you bring."""


@hookspec(firstresult=True)
def choose_task(message: Message, candidates: Sequence[Task]) -> str | None:
    """Per turn, where no task was named and several accept the message: the name of one of `candidates`, or None
    to leave the choice to others."""


@hookspec
def turn_finished(turn: Turn) -> None:
    """After a turn is stored. Observers only: what it raises is logged and dropped."""


@hookspec
def feedback_given(feedback: Feedback, turn: Turn) -> None:
    """After a feedback is stored, before the task learns from it. Observers only."""


@hookspec(firstresult=True)
def approve_adapter(candidate: Adapter, champion: Adapter | None) -> bool | None:
    """After the evaluation: the figures are in `candidate.report`. True or False overrules the gate, None leaves the
    decision to others and at last to the gate."""


@hookspec
def adapter_promoted(adapter: Adapter | None, previous: Adapter | None) -> None:
    """After a swap or a rollback; None is the bare base. Observers only."""
