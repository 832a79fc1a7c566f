"""A private assistant of small models that gets better from its users' feedback.

The names in `__all__` are the API. They load at their first use, so importing the package takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smallai_assistant import errors
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.config import AssistantConfig
    from smallai_assistant.conversation.session import Response, Session
    from smallai_assistant.engines.base import (
        EmbeddingModel,
        Engine,
        ImageModel,
        ImageTextModel,
        LoadedModel,
        ModelSpec,
        TextModel,
    )
    from smallai_assistant.engines.generation import GenerationOptions, Steering
    from smallai_assistant.errors import AssistantError, InvalidInput
    from smallai_assistant.feedback import Adapter, Example, Feedback, JudgedTurn, Score
    from smallai_assistant.hookspecs import hookimpl
    from smallai_assistant.runtime import ModelRuntime
    from smallai_assistant.task import LearningTask, Task, TaskContext, Training
    from smallai_assistant.types import (
        AudioPart,
        Details,
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

# Module -> the public names that it defines. A new name also goes into the imports above, which type checkers read, and
# into `__all__`.
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
    ),
    "errors": ("AssistantError", "InvalidInput"),
    "feedback": ("Adapter", "Example", "Feedback", "JudgedTurn", "Score"),
    "engines.generation": ("GenerationOptions", "Steering"),
    "hookspecs": ("hookimpl",),
    "runtime": ("ModelRuntime",),
    "conversation.session": ("Response", "Session"),
    "task": ("LearningTask", "Task", "TaskContext", "Training"),
    "types": (
        "AudioPart",
        "Details",
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
    "Adapter",
    "Assistant",
    "AssistantConfig",
    "AssistantError",
    "AudioPart",
    "Details",
    "EmbeddingModel",
    "Engine",
    "Example",
    "Feedback",
    "GenerationOptions",
    "ImageModel",
    "ImagePart",
    "ImageTextModel",
    "Interaction",
    "InvalidInput",
    "Item",
    "ItemPart",
    "JudgedTurn",
    "LabelPart",
    "LearningTask",
    "LoadedModel",
    "Message",
    "ModelRuntime",
    "ModelSpec",
    "Notice",
    "Request",
    "Response",
    "Score",
    "SegmentPart",
    "Session",
    "Steering",
    "Task",
    "TaskContext",
    "TextModel",
    "TextPart",
    "Training",
    "Turn",
    "errors",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    # Python calls this for a name that the module does not have yet (PEP 562).
    if name == "errors":
        return importlib.import_module(f"{__name__}.errors")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
