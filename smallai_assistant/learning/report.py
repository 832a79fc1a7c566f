"""What a learning cycle did and why: as a value, as JSON, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from smallai_assistant.learning.evaluation import SliceReport


@dataclass(frozen=True, slots=True)
class Change:
    """An evaluated example whose answer changed; `gain` is the change of its score, -1 to 1."""

    slice: str
    prompt: str
    expected: str
    before: str
    after: str
    gain: float


@dataclass(frozen=True, slots=True)
class CycleReport:
    """A learning cycle.

    Attributes:
        metric: what the scores mean.
        parent_id: the adapter that served before; None for the bare base.
        baseline_id: what the scores before are of; None for the bare base.
        base: what the adapter was made for.
        is_approved: the gate's word, or a plugin's that overruled it.
        reasons: the figures behind it, as sentences.
        losses: of the training, one a step.
        sources: how many lessons each source gave.
        quarantined: source, reason and number of rows that were set aside.
        retired_ids: feedback that the adapter answers by itself; the fast memory no longer holds it.
        held_out_ids: feedback that it was judged by and has not seen.
    """

    task: str
    metric: str
    adapter_id: str
    parent_id: str | None
    is_approved: bool
    reasons: tuple[str, ...]
    slices: tuple[SliceReport, ...]
    changes: tuple[Change, ...]
    losses: tuple[float, ...]
    sources: Mapping[str, int]
    quarantined: tuple[tuple[str, str, int], ...]
    n_judged_turns: int
    n_training: int
    n_replay: int
    baseline_id: str | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    retired_ids: tuple[str, ...] = ()
    held_out_ids: tuple[str, ...] = ()
    is_promoted: bool = False
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """`promoted`, `approved` or `refused`."""
        return "promoted" if self.is_promoted else "approved" if self.is_approved else "refused"

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        table = asdict(self)
        table["slices"] = [asdict(each) | {"change": each.change} for each in self.slices]
        return table | {"outcome": self.outcome}

    def summary(self) -> str:
        """The outcome and its reasons, a line each."""
        head = {
            "promoted": f"{self.task}: {self.adapter_id} serves now.",
            "approved": f"{self.task}: {self.adapter_id} was approved; promote it to let it serve.",
            "refused": f"{self.task}: the gate refused {self.adapter_id}; nothing was changed.",
        }[self.outcome]
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons)])
