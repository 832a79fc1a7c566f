"""An assistant whose dialogue model is tiny and random: every step of a cycle runs within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny_text import save_tiny_llama

from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.config import ModelsConfig


@pytest.fixture
def tiny(models_dir: Path, tmp_path: Path) -> Iterator[Assistant]:
    folder = save_tiny_llama(tmp_path / "tiny", context=1024)
    models = ModelsConfig(chat=str(folder), chat_quantization="none")
    config = AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", models=models)
    with Assistant(config) as opened:
        yield opened
