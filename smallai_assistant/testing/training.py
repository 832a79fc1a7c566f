"""Checks that a LearningTask trains an adapter and lets it serve."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smallai_assistant.errors import Cancelled, NotEnoughData
from smallai_assistant.feedback import Adapter, Component
from smallai_assistant.learning.components import has_files
from smallai_assistant.learning.cycle import ids_of
from smallai_assistant.task import Training
from smallai_assistant.testing.learning import LearningTrial
from smallai_assistant.testing.report import Skip
from smallai_assistant.testing.trial import needing_models


class TrainingTrial:
    """Trains one LearningTask. Each check returns what is wrong, or an empty text.

    Attributes:
        folders: the folders that the training may write to.
    """

    def __init__(self, trial: LearningTrial, *, is_wanted: bool) -> None:
        self.trial, self.task, self.is_wanted = trial, trial.task, is_wanted
        self.assistant = trial.assistant
        self.folders: list[Path] = []
        self._adapter: Adapter | None = None

    def failed_training(self) -> str:
        """Trains on all examples. Whether the adapter is any better is decided by the gate, not here."""
        if not self.is_wanted:
            raise Skip("it may take long, so it was not tried", "give train=True")
        with self._training() as training, needing_models():
            try:
                kind = self.task.train(training)
            except NotEnoughData as error:
                raise Skip(f"too few corrections: {error.message}", "give more of them") from error
            if not isinstance(kind, str) or not kind.strip():
                return f"it returns {kind!r:.60}, not the adapter's kind"
            if not has_files(training.folder):
                return "it wrote no file"
            rows = {name: self._rows(name) for name in dict.fromkeys(found.component for found in self.trial.examples)}
            names = [name for name in rows if name]
            components = [Component(name, rows[name]) for name in names if has_files(training.folder / name)]
            if names and not components:
                return f"it wrote no file into the folder of a component: {', '.join(names)}"
            ids = dict.fromkeys(feedback_id for found in rows.values() for feedback_id in found)
            # The store refuses files that the host does not allow, such as weights with NaN.
            self._adapter = self.assistant.adapters.add(
                training.folder,
                task=self.task.name,
                kind=kind,
                base=self.task.base(),
                feedback_ids=list(ids),
                components=components,
            )
        return ""

    def ignored_cancel(self) -> str:
        """Checks that a training that was cancelled before its first step raises Cancelled."""
        with self._training() as training:
            training.cancel.set()
            try:
                self.task.train(training)
            except Cancelled:
                return ""
        return "it trained to the end although it was cancelled before it began"

    def ignored_deadline(self) -> str:
        """Checks that a training without time left writes an adapter, or raises NotEnoughData."""
        with self._training() as training:
            training.deadline = time.monotonic() - 1.0  # spent before the first step
            try:
                kind = self.task.train(training)
            except NotEnoughData:
                return ""
            return "" if kind and any(training.folder.iterdir()) else "it wrote no file"

    def bad_scores(self) -> str:
        """Checks the scores of an evaluation with the adapter."""
        return self.trial.bad_scores(self._adapter)

    def unserved(self) -> str:
        """Checks that the answer after a promotion uses the adapter, and the answer after a rollback does not."""
        assert self._adapter is not None
        before = self.assistant.adapters.champion_id(self.task.name)
        self.assistant.promote(self._adapter.id, force=True)  # the gate has not seen it
        try:
            promoted = self._serving()
        finally:
            self.assistant.rollback(self.task.name, to=before or "none")
        if promoted != self._adapter.id:
            return f"after the promotion the answer's adapter is {promoted!r}, not {self._adapter.id!r}"
        now = self._serving()
        return (
            "" if now != promoted else "after the rollback the answer's adapter is still the one that was rolled back"
        )

    def clean_up(self) -> None:
        """Removes the adapter."""
        if self._adapter is not None:
            self.assistant.adapters.remove(self._adapter.id)

    def _rows(self, component: str) -> tuple[str, ...]:
        """The feedback that taught a component."""
        return ids_of(example for example in self.trial.examples if example.component == component)

    def _serving(self) -> object:
        """The id of the adapter that the next answer used, as its details say."""
        return self.assistant.ask(self.trial.judged_turns.corrections[0][0], task=self.task.name).details.get("adapter")

    @contextmanager
    def _training(self) -> Iterator[Training]:
        # In the data directory, as in a real learning cycle.
        checkpoints = Path(tempfile.mkdtemp(prefix="check-", dir=self.assistant.config.data_dir))
        try:
            with self.assistant.adapters.work_folder() as folder:
                self.folders += [folder, checkpoints]
                yield Training(
                    examples=self.trial.examples,
                    replay=(),
                    folder=folder,
                    work_folder=checkpoints,
                    parent=None,
                    models=self.assistant.models,
                    cancel=threading.Event(),
                )
        finally:
            shutil.rmtree(checkpoints, ignore_errors=True)
