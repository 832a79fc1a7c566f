"""Speech: the task `automatic-speech-recognition`."""

from __future__ import annotations

from collections.abc import Callable

from smallai_assistant import Engine, Task, hookimpl
from smallai_speech.engine import SpeechModel, WhisperEngine
from smallai_speech.options import SpeechOptions
from smallai_speech.task import SpeechRecognition

__all__ = ["SpeechModel", "SpeechOptions", "SpeechRecognition", "WhisperEngine"]


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    register(SpeechRecognition())


@hookimpl
def register_engines(register: Callable[[Engine], None]) -> None:
    register(WhisperEngine())
