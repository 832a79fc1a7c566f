"""Chooses the task for a message: by name, by modality, by a plugin's hook, or by the intent of the text."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_assistant.engines.base import EmbeddingModel, ModelSpec
from smallai_assistant.errors import InvalidInput, ModelError, NoTaskError, nearest
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import Task
from smallai_assistant.types import Message, Notice

if TYPE_CHECKING:
    from smallai_assistant.engines.base import FloatArray

DIALOGUE = "text-generation"
# A task's score is the mean similarity of its nearest example utterances. With three of them, one odd example does not
# decide; `bench/intents_tune.jsonl` was used to choose it and the threshold.
_NEIGHBOURS = 3
_MAX_INTENT_CHARS = 1_000  # people say what they want at the beginning, before they paste a text


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen task, and what the user should know about the choice."""

    task: Task
    notices: tuple[Notice, ...] = ()


class Router:
    """Routes messages to tasks.

    Args:
        embedding: the model that compares a text with the example utterances of tasks.
        threshold: the cosine similarity below which a text is dialogue.
    """

    def __init__(
        self, plugins: PluginManager, models: ModelRuntime, *, embedding: ModelSpec, threshold: float = 0.4
    ) -> None:
        self._plugins = plugins
        self._models = models
        self._embedding = embedding
        self._threshold = threshold
        self._lock = threading.Lock()
        self._examples: dict[str, FloatArray] = {}  # task name -> vectors of its utterances

    def task(self, name: str) -> Task | None:
        """Returns the task of that name; None if there is none."""
        return self._plugins.tasks.get(name)

    def route(self, message: Message, task: str | None = None) -> Route:
        """Chooses the task for a message.

        Args:
            task: the name of the task, if the caller knows it.

        Raises:
            NoTaskError: no task accepts the message.
            InvalidInput: the named task does not exist, or does not accept the message.
            PluginError: a plugin's `choose_task` failed.
        """
        tasks = self._plugins.tasks
        if task is not None:
            return Route(_named(task, tasks, message))
        candidates = [task for task in tasks.values() if message.modalities in task.accepts]
        if not candidates:
            raise NoTaskError(f"no task takes {_listed(message)}", hint=_offer(tasks))
        if len(candidates) == 1:
            return Route(candidates[0])
        chosen = self._plugins.choose_task(message, candidates)
        if chosen is not None:
            return Route(chosen)
        return self._by_intent(message, candidates)

    def _by_intent(self, message: Message, candidates: list[Task]) -> Route:
        """Chooses by the text. A text that resembles no task's utterances is dialogue."""
        fallback = next((candidate for candidate in candidates if candidate.name == DIALOGUE), candidates[0])
        rivals = [candidate for candidate in candidates if candidate.utterances]
        text = message.text[:_MAX_INTENT_CHARS].strip()
        if not text or not any(rival is not fallback for rival in rivals):
            return Route(fallback)  # without loading a model
        try:
            scores = self.scores(text, rivals)
        except ModelError as error:
            # The model was not pulled, is damaged, or has no memory. None of it may keep people from talking.
            return Route(fallback, (Notice("intent_unavailable", f"The message was taken as dialogue: {error}."),))
        best = max(scores, key=lambda name: scores[name])
        return Route(self._plugins.tasks[best] if scores[best] >= self._threshold else fallback)

    def scores(self, text: str, tasks: list[Task]) -> dict[str, float]:
        """How similar a text is to the utterances of tasks.

        Returns:
            Task name -> mean cosine similarity of the nearest three utterances, in [-1, 1].

        Raises:
            ModelError: the embedding model cannot be used.
        """
        import numpy as np

        with self._models.lease(self._embedding, EmbeddingModel) as model:
            with self._lock:  # the first message embeds the utterances, once, also if several come at the same time
                for task in tasks:
                    if task.name not in self._examples:
                        self._examples[task.name] = model.embed(task.utterances)
            vector = model.embed([text])[0]
        scores = {}
        for task in tasks:
            similarities = np.sort(self._examples[task.name] @ vector)
            scores[task.name] = float(similarities[-_NEIGHBOURS:].mean())
        return scores


def _named(name: str, tasks: Mapping[str, Task], message: Message) -> Task:
    if name not in tasks:
        raise InvalidInput(f"there is no task {name!r}", hint=nearest(name, tasks))
    task = tasks[name]
    if message.modalities not in task.accepts:
        takes = " or ".join("+".join(sorted(accept)) for accept in task.accepts)
        raise InvalidInput(f"{name} takes {takes}, not {_listed(message)}", hint="send what the task takes")
    return task


def _listed(message: Message) -> str:
    return " and ".join(sorted(message.modalities)) or "an empty message"


def _offer(tasks: Mapping[str, Task]) -> str:
    """The hint of NoTaskError: what each task takes."""
    if not tasks:
        return "no plugin is loaded: see `smallai plugins`"
    return "tasks: " + "; ".join(
        f"{task.name} takes {' or '.join('+'.join(sorted(accept)) for accept in task.accepts)}"
        for task in tasks.values()
    )
