"""Recommendations: what else a user would choose, from what users chose before and from what items are about."""

from __future__ import annotations

from collections.abc import Callable

from smallai_assistant import Task, hookimpl
from smallai_recommend.task import Recommendation, RecommendOptions

__all__ = ["RecommendOptions", "Recommendation"]


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    register(Recommendation())
