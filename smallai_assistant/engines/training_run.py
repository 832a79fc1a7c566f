"""What an engine needs to know of a training run.

Engines are below tasks in the layers, so they cannot import `Training`. It has the shape of `TrainingRun`, and a plugin
passes it on as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from smallai_assistant.engines.base import ModelSpec


class ModelFolders(Protocol):
    """Finds the files of a model."""

    def folder_of(self, spec: ModelSpec) -> Path:
        """The folder of the model's files, from which a trainer loads its own copy."""


class TrainingRun(Protocol):
    """One run of training, as an engine sees it.

    Attributes:
        seed: the seed of everything random.
        folder: the adapter's files are written here.
        work_folder: checkpoints are written here. After a kill, the next run with the same examples finds them.
        models: gives the folder of the base model.
        is_out_of_time: whether the time budget is spent; then the trainer ends with what it has.
    """

    @property
    def seed(self) -> int: ...

    @property
    def folder(self) -> Path: ...

    @property
    def work_folder(self) -> Path: ...

    @property
    def models(self) -> ModelFolders: ...

    @property
    def is_out_of_time(self) -> bool: ...

    def progress(self, what: str, fraction: float, *, loss: float | None = None) -> None:
        """Reports the fraction done, in [0, 1], and the loss of the last step.

        Raises:
            TrainingFailed: the loss is not finite.
        """

    def yield_to_serving(self) -> None:
        """Waits while answers are made. Call it between steps.

        Raises:
            Cancelled: the run was stopped.
        """
