"""Dialogue: the task `text-generation`."""

from __future__ import annotations

from collections.abc import Callable

from smallai_assistant import Task, hookimpl
from smallai_chat.task import ChatTask


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    register(ChatTask())
