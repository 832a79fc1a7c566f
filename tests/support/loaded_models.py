"""Models that stay in memory from one test to the next, although each test closes its assistant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smallai_assistant.engines.base import LoadedModel
from smallai_assistant.engines.sentence_transformers import SentenceTransformersEngine
from smallai_image.engine import EfficientNetLiteEngine

# Engines whose models keep nothing of what they were asked: their answers depend on the files and the input alone.
_ENGINES = (SentenceTransformersEngine, EfficientNetLiteEngine)
_kept: dict[Any, LoadedModel] = {}


def _loading_once(load: Callable[..., LoadedModel]) -> Callable[..., LoadedModel]:
    def load_once(engine: Any, spec: Any, folder: Any, *, device: str, progress: Any) -> LoadedModel:
        key = spec, folder, device
        if key not in _kept:
            model = load(engine, spec, folder, device=device, progress=progress)
            model.close = lambda: None  # type: ignore[method-assign]
            _kept[key] = model
        return _kept[key]

    return load_once


@pytest.fixture
def models_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence vectors and picture classes come from models that are loaded once for all tests of the process."""
    for engine in _ENGINES:
        monkeypatch.setattr(engine, "load", _loading_once(engine.load))
