"""The fixtures of the learning cycle: an assistant with the scripted dictionary alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scripted_learner import Dictionary, open_assistant

from smallai_assistant import Assistant


@pytest.fixture
def task() -> Dictionary:
    return Dictionary()


@pytest.fixture
def opened(tmp_path: Path, task: Dictionary) -> Iterator[Assistant]:
    with open_assistant(tmp_path, task) as assistant:
        yield assistant
