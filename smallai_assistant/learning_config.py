"""The settings of learning: for whom, when cycles start by themselves, what is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from smallai_assistant.errors import ConfigError, InvalidInput
from smallai_assistant.validation import checked_audience, shown

# The champion, the version a rollback goes to, and the newest one are always kept.
MIN_VERSIONS = 3


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """How feedback is learned.

    Attributes:
        default_audience: of feedback that names none: `user`, `group:NAME` or `everyone`; empty for `user` if the turn
            has a user, else `everyone`.
        min_people: a version that serves everyone learns personal feedback only if so many people gave it alike.
        when: `manual` starts no cycle by itself, `idle` starts one when nothing was answered for five minutes, and
            `HH:MM` at that local time, once a day.
        min_new_feedback: a cycle starts by itself only if a task got so many rows since its last cycle.
        budget_minutes: limit of the training of a cycle that started by itself.
        max_versions: number of versions that are kept of each task, at least 3.
        max_versions_mb: size of the versions that are kept of each task, in units of 2**20 bytes.

    Raises:
        ConfigError: a value is out of range.
    """

    default_audience: str = ""
    min_people: int = 3
    when: str = "manual"
    # A cycle needs four subjects to be judged by, and one in four is held out: 16 are the least, and rarely enough.
    min_new_feedback: int = 20
    budget_minutes: float = 30.0
    # Three weeks of daily cycles. A version of the 135M chat model has 20 MB for each set of weights, and one or two of
    # them, so that the number decides; the size bounds what larger models and plugins store.
    max_versions: int = 20
    max_versions_mb: int = 2000

    def __post_init__(self) -> None:
        for name, low, high in (
            ("min_people", 2, 1000),
            ("min_new_feedback", 1, 1_000_000),
            ("max_versions", MIN_VERSIONS, 10_000),
            ("max_versions_mb", 1, 2**40),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"learning.{name} is {shown(getattr(self, name))}", hint=f"give {low} to {high}")
        # NaN fails the chain, too.
        if not 0.0 < self.budget_minutes <= 1440.0:
            raise ConfigError(
                f"learning.budget_minutes is {self.budget_minutes}", hint="give minutes, more than 0 and at most 1440"
            )
        if not re.fullmatch(r"manual|idle|([01][0-9]|2[0-3]):[0-5][0-9]", self.when):
            raise ConfigError(f"learning.when is {shown(self.when)}", hint="use manual, idle or a time such as 03:00")
        if self.default_audience:
            try:
                checked_audience(self.default_audience)
            except InvalidInput as error:
                raise ConfigError(f"learning.default_{error.message}", hint=error.hint) from error
