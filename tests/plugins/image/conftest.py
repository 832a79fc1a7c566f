"""Assistants that need not embed the thousand classes of ImageNet again, which takes nine seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.loaded_models import models_stay  # noqa: F401  (a fixture)
from support.pictures import TASK

from smallai_assistant import Assistant, AssistantConfig

_FILES = "class_vectors_*.npy"


@pytest.fixture(autouse=True)
def _models_stay(models_stay: None) -> None:  # noqa: F811
    pass


@pytest.fixture(scope="session")
def class_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the run share: what one test has embedded, the next one finds."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "class-vectors"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def seeded(data_dir: Path, kept: Path) -> Iterator[None]:
    """Copies the vectors into the task's folder, and new ones from there."""
    own = data_dir / "tasks" / TASK
    own.mkdir(parents=True)
    for file in kept.glob(_FILES):
        shutil.copy(file, own)
    yield
    for file in own.glob(_FILES):
        if not (kept / file.name).exists():
            part = kept / f"{file.name}.{os.getpid()}"
            shutil.copy(file, part)
            part.replace(kept / file.name)


@pytest.fixture
def config(config: AssistantConfig, class_vectors: Path) -> Iterator[AssistantConfig]:
    with seeded(config.data_dir, class_vectors):
        yield config


@pytest.fixture
def fresh(config: AssistantConfig) -> Iterator[Assistant]:
    with Assistant(config) as opened:
        yield opened


@pytest.fixture(scope="module")
def assistant(models_dir: Path, class_vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    folder = tmp_path_factory.mktemp("assistant")
    with (
        seeded(folder, class_vectors),
        Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu")) as opened,
    ):
        yield opened
