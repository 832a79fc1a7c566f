"""Pictures: the task `image-classification`."""

from __future__ import annotations

from collections.abc import Callable

from smallai_assistant import Engine, Task, hookimpl
from smallai_image.engine import EfficientNetLiteEngine
from smallai_image.task import ImageClassification, ImageOptions

__all__ = ["EfficientNetLiteEngine", "ImageClassification", "ImageOptions"]


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    register(ImageClassification())


@hookimpl
def register_engines(register: Callable[[Engine], None]) -> None:
    register(EfficientNetLiteEngine())
