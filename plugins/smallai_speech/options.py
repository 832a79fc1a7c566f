"""The options of the task `automatic-speech-recognition`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from smallai_assistant import InvalidInput


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """How a recording is transcribed.

    Args:
        language: a code such as `en` or `de`; if it is empty, a model that knows several languages detects it.
        initial_prompt: text that the model takes as said before the recording, for names and style; a text sent with
            the recording is added to it.
        beam_size: hypotheses kept while searching for the words, 1 to 20; more is slower.
        temperatures: tried in turn, each 0 to 1, until the text is neither a loop nor improbable.
        word_timestamps: give the times of every word in the details, as `words`.
        max_duration_s: longest recording, in seconds, 1 to 86400.
        vad: look for speech first and decode only that.
        use_memory: correct the words that users taught.

    Raises:
        InvalidInput: a value is out of range.
    """

    language: str = ""
    initial_prompt: str = ""
    beam_size: int = 5
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # those of whisper's own `transcribe`
    word_timestamps: bool = False
    max_duration_s: float = 4 * 3600.0
    vad: bool = True
    use_memory: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([a-z]{2,3})?", self.language):
            raise InvalidInput(f"language is {self.language!r}", hint="give a code such as en, or nothing to detect it")
        if not 1 <= self.beam_size <= 20:
            raise InvalidInput(f"beam_size is {self.beam_size}", hint="give 1 to 20")
        if not 1 <= len(self.temperatures) <= 10 or not all(
            0.0 <= temperature <= 1.0 for temperature in self.temperatures
        ):
            raise InvalidInput(f"temperatures are {self.temperatures}", hint="give one to ten, each 0 to 1")
        if not 1.0 <= self.max_duration_s <= 86_400.0:  # False for NaN too
            raise InvalidInput(f"max_duration_s is {self.max_duration_s}", hint="give 1 to 86400")
