"""Trains the components of an adapter one after the other, each on the bare base: each can do without the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from smallai_assistant import Training
from smallai_chat.dataset import Row

Span = tuple[float, float]


class Train(Protocol):
    """Trains a model further on rows, and reports progress within a span of [0, 1]."""

    def __call__(self, model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any: ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a training run.

    Attributes:
        cost: work of one row, relative to one SFT pass, for the progress.
    """

    train: Train
    rows: list[Row]
    cost: int

    @property
    def total_cost(self) -> int:
        """The work of all rows."""
        return len(self.rows) * self.cost


def train_each(model: Any, tokenizer: Any, stages: Mapping[str, Sequence[Stage]], training: Training) -> None:
    """Trains each component in its stages, and saves its weights into the folder of its name.

    The time that is left is shared out by the work. A component whose first stage could not begin is not saved.

    Args:
        model: the bare base; it is trained and made bare again.
        stages: the stages of each component, which may be none.
    """
    total = sum(stage.total_cost for found in stages.values() for stage in found)
    done = n_run = 0
    for component, found in stages.items():
        cost = sum(stage.total_cost for stage in found)
        own, begun = _with_share(training, cost / max(1, total - done)), done
        for stage in found:
            # The first stage always runs: an adapter without any training would be of no use.
            if n_run and own.is_out_of_time:
                break
            ends = [0.04 + 0.94 * share / total for share in (begun, begun + stage.total_cost)]
            model = stage.train(model, tokenizer, stage.rows, own, span=(ends[0], ends[1]))
            begun, n_run = begun + stage.total_cost, n_run + 1
        if begun > done:
            save(model, training.folder / component)
            model = _bare(model)
        done += cost


def save(model: Any, folder: Path) -> None:
    """Writes the trained weights of a model into a folder."""
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft writes a model card for the hub


def _with_share(training: Training, share: float) -> Training:
    """Returns the training with a share of the time that is left."""
    if training.deadline is None:
        return training
    now = time.monotonic()
    return replace(training, deadline=now + (training.deadline - now) * share)


def _bare(model: Any) -> Any:
    """Takes the trained layers out of a model."""
    base = model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base
