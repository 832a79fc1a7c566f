"""Helpers for the tests of the picture plugin: teaching, asking and training through an assistant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smallai_assistant import (
    Assistant,
    Example,
    Feedback,
    ImagePart,
    LabelPart,
    LearningTask,
    ModelSpec,
    Response,
    Training,
)

TASK = "image-classification"
SPEC = ModelSpec("efficientnet-lite0", task=TASK)
DOG, CHAIR = 0, 1  # indexes of the photos of a bull mastiff and of a folding chair
Draw = Callable[[int], bytes]  # makes a picture file from a seed


def ask(assistant: Assistant, data: bytes) -> Response:
    return assistant.ask(ImagePart(data=data))


def labels_of(response: Response) -> list[LabelPart]:
    return [part for part in response.parts if isinstance(part, LabelPart)]


def best(response: Response) -> LabelPart:
    return labels_of(response)[0]


def best_label(assistant: Assistant, data: bytes) -> str:
    return best(ask(assistant, data)).label


def codes(response: Response) -> set[str]:
    """Returns the codes of the notices."""
    return {notice.code for notice in response.notices}


def teach(assistant: Assistant, draw: Draw, label: str, seeds: range) -> list[Feedback]:
    """Teaches one drawing for each seed."""
    return [assistant.teach(TASK, ImagePart(data=draw(seed)), label).feedback for seed in seeds]


def task_of(assistant: Assistant) -> LearningTask:
    task = assistant.tasks[TASK]
    assert isinstance(task, LearningTask)
    return task


def examples_of(assistant: Assistant) -> list[Example]:
    return task_of(assistant).examples(assistant.feedback.judged_turns(TASK))


@contextmanager
def training_of(assistant: Assistant, work_folder: Path) -> Iterator[Training]:
    """Yields a training on all examples, as a learning cycle would make it."""
    with assistant.adapters.work_folder() as folder:
        yield Training(
            examples=examples_of(assistant),
            replay=(),
            folder=folder,
            work_folder=work_folder,
            parent=None,
            models=assistant.models,
        )
