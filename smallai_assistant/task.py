"""What a plugin author subclasses: one thing the assistant can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from smallai_assistant.types import Modality, Request, StreamItem

if TYPE_CHECKING:
    from smallai_assistant.config import ModelsConfig
    from smallai_assistant.items import ItemStore
    from smallai_assistant.runtime import ModelRuntime

API_VERSION = 1


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a task that has none."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the host lends a task for its life.

    Attributes:
        options: an instance of the task's `options_type` from the configuration.
        models: where models are leased.
        model_names: which model the configuration names for which role.
        items: items and interactions, for recommendation.
        data_dir: a folder of the task's own; nothing else may be written.
    """

    options: Any
    models: ModelRuntime
    model_names: ModelsConfig
    items: ItemStore
    data_dir: Path


class Task(ABC):
    """One thing the assistant can do, named by the transformers pipeline id.

    A task is made once per assistant and may run in several threads at once: keep state of one answer in
    `run`. The host catches whatever it raises; an `AssistantError` reaches the caller as it is, anything
    else as `PluginError`.

    Attributes:
        name: pipeline id, such as `text-generation`.
        title: what it does, for people, a few words.
        accepts: the sets of modalities it takes, each one message's whole set.
        utterances: what people type when they want this task, for the intent router; empty for a task that is
            reached by modality or by name only.
        options_type: a frozen dataclass whose `__post_init__` raises InvalidInput on bad values.
        api_version: the hook API it was written for.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    accepts: ClassVar[tuple[frozenset[Modality], ...]] = (frozenset({"text"}),)
    utterances: ClassVar[tuple[str, ...]] = ()
    options_type: ClassVar[type[Any]] = NoOptions
    api_version: ClassVar[int] = API_VERSION

    context: TaskContext

    def setup(self, context: TaskContext) -> None:
        """Called once before the first run; load nothing heavy here."""
        self.context = context

    @abstractmethod
    def run(self, request: Request, models: ModelRuntime) -> Iterator[StreamItem]:
        """Streams the answer: parts (text as deltas), notices and details, in any order.

        Close what you hold in `finally`: an early close of the response closes this generator.
        """

    def close(self) -> None:  # noqa: B027  (optional)
        """Called once when the assistant closes."""
