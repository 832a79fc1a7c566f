"""All hooks of a plugin on one page. docs/plugins.md has a worked example of each.

A plugin implements any of them with `@hookimpl`, and asks only for the arguments that it needs. The plugin that was
registered last is called first, so plugins given to `Assistant` come before installed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pluggy

from smallai_assistant.engines.base import Engine
from smallai_assistant.feedback import Adapter, Feedback
from smallai_assistant.task import Task
from smallai_assistant.types import Message, Turn

# pluggy finds hooks by this name, and installed plugins are found by the entry-point group with the same name.
PROJECT = "smallai_assistant"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_tasks(register: Callable[[Task], None]) -> None:
    """Called once at start. Call `register(task)` for each task that the plugin brings."""


@hookspec
def register_engines(register: Callable[[Engine], None]) -> None:
    """Called once at start. Call `register(engine)` for each engine that the plugin brings."""


@hookspec(firstresult=True)
def choose_task(message: Message, candidates: Sequence[Task]) -> str | None:
    """Called for a turn if the caller named no task and several tasks accept the message.

    Return the name of one of `candidates`, or None to leave the choice to other plugins and to the router. It must
    answer within 5 seconds.
    """


@hookspec
def turn_finished(turn: Turn) -> None:
    """Called after a turn is stored. It only observes: nothing waits for it, and an error is only logged.

    The three observing hooks run on one thread of the plugin, in the order of the events. A call that takes longer than
    30 seconds is listed as a fault, and further events are dropped until it ends.
    """


@hookspec
def feedback_given(feedback: Feedback, turn: Turn) -> None:
    """Called after feedback is stored. It only observes, as `turn_finished`.

    The task may have learned from it before.
    """


@hookspec(firstresult=True)
def approve_adapter(candidate: Adapter, champion: Adapter | None) -> bool | None:
    """Called after the evaluation of a new adapter. The figures are in `candidate.report`.

    True or False overrules the gate. None leaves the decision to other plugins and then to the gate. It must answer
    within 10 minutes.
    """


@hookspec
def adapter_promoted(adapter: Adapter | None, previous: Adapter | None) -> None:
    """Called after a promotion or a rollback; None is the bare base. It only observes, as `turn_finished`."""
