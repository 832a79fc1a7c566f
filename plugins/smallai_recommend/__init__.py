"""Recommendations: the task `recommendation`."""

from __future__ import annotations

from collections.abc import Callable

from smallai_assistant import Task, hookimpl
from smallai_recommend.task import Recommendation, RecommendOptions

__all__ = ["RecommendOptions", "Recommendation"]


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    register(Recommendation())
