"""The scripted task: a fake task, every step of which a test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from smallai_assistant import InvalidInput, Request, Task, TextPart, hookimpl


@dataclass(frozen=True, slots=True)
class ScriptedOptions:
    """Options of the scripted task."""

    shout: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        if self.times < 1:
            raise InvalidInput(f"times is {self.times}", hint="give 1 or more")


def say(request: Request) -> Iterator[Any]:
    """Repeats the message, as the options say."""
    text = request.message.text.upper() if request.options.shout else request.message.text
    for _ in range(request.options.times):
        yield TextPart(text)


def make_task(
    script: Callable[[Request], Any] = say,
    *,
    name: str = "scripted",
    accepts: tuple[frozenset[str], ...] = (frozenset({"text"}),),
    **attributes: Any,
) -> Task:
    """A task that runs `script(request)`."""
    body = {
        "name": name,
        "accepts": accepts,
        "options_type": ScriptedOptions,
        "run": lambda _self, request, _models: script(request),
        **attributes,
    }
    return type("ScriptedTask", (Task,), body)()


class ScriptedPlugin:
    """Registers the given tasks. Tests add hooks in subclasses."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = tasks

    @hookimpl
    def register_tasks(self, register: Callable[[Task], None]) -> None:
        for task in self.tasks:
            register(task)
