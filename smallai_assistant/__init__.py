"""A private assistant of small models that gets better from its users' feedback.

The names in `__all__` are the API; they load on first use, so importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.config import AssistantConfig
    from smallai_assistant.engines.base import (
        EmbeddingModel,
        Engine,
        ImageModel,
        ImageTextModel,
        LoadedModel,
        ModelSpec,
        TextModel,
        storage_bytes,
    )
    from smallai_assistant.errors import (
        AssistantError,
        InputTooLarge,
        InvalidAudio,
        InvalidImage,
        InvalidInput,
        ModelInvalid,
        NoTaskError,
        OutOfMemory,
        PluginError,
    )
    from smallai_assistant.hookspecs import hookimpl
    from smallai_assistant.runtime import ModelRuntime
    from smallai_assistant.session import Response, Session
    from smallai_assistant.task import Task, TaskContext
    from smallai_assistant.types import (
        AudioPart,
        Details,
        GenerationOptions,
        ImagePart,
        Interaction,
        Item,
        ItemPart,
        LabelPart,
        Message,
        Notice,
        Request,
        SegmentPart,
        TextPart,
        Turn,
    )

__version__ = "0.1.0"

_HOME = {
    "assistant": ("Assistant",),
    "config": ("AssistantConfig",),
    "engines.base": (
        "EmbeddingModel",
        "Engine",
        "ImageModel",
        "ImageTextModel",
        "LoadedModel",
        "ModelSpec",
        "TextModel",
        "storage_bytes",
    ),
    "errors": (
        "AssistantError",
        "InputTooLarge",
        "InvalidAudio",
        "InvalidImage",
        "InvalidInput",
        "ModelInvalid",
        "NoTaskError",
        "OutOfMemory",
        "PluginError",
    ),
    "hookspecs": ("hookimpl",),
    "runtime": ("ModelRuntime",),
    "session": ("Response", "Session"),
    "task": ("Task", "TaskContext"),
    "types": (
        "AudioPart",
        "Details",
        "GenerationOptions",
        "ImagePart",
        "Interaction",
        "Item",
        "ItemPart",
        "LabelPart",
        "Message",
        "Notice",
        "Request",
        "SegmentPart",
        "TextPart",
        "Turn",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Assistant",
    "AssistantConfig",
    "AssistantError",
    "AudioPart",
    "Details",
    "EmbeddingModel",
    "Engine",
    "GenerationOptions",
    "ImageModel",
    "ImagePart",
    "ImageTextModel",
    "InputTooLarge",
    "Interaction",
    "InvalidAudio",
    "InvalidImage",
    "InvalidInput",
    "Item",
    "ItemPart",
    "LabelPart",
    "LoadedModel",
    "Message",
    "ModelInvalid",
    "ModelRuntime",
    "ModelSpec",
    "NoTaskError",
    "Notice",
    "OutOfMemory",
    "PluginError",
    "Request",
    "Response",
    "SegmentPart",
    "Session",
    "Task",
    "TaskContext",
    "TextModel",
    "TextPart",
    "Turn",
    "hookimpl",
    "storage_bytes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
