"""The task `automatic-speech-recognition`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smallai_assistant import (
    Adapter,
    Details,
    Example,
    InvalidInput,
    JudgedTurn,
    LearningTask,
    ModelSpec,
    Request,
    Score,
    TaskContext,
    Training,
)
from smallai_speech.memory import WordMemory, what_changed
from smallai_speech.pipeline import Item, Learnt, recording_of, write_down

if TYPE_CHECKING:
    from smallai_assistant import ModelRuntime


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """How a recording is transcribed.

    Args:
        language: a code such as `en` or `de`; empty detects it, where the model knows several.
        initial_prompt: text the model takes as said before, for names and style; a text sent with the recording is
            added to it.
        beam_size: hypotheses kept while searching for the words, 1 to 20; more is slower.
        temperatures: tried in turn, each 0 to 1, until the text is neither repetitive nor improbable.
        word_timestamps: give the times of every word in the details, as `words`.
        max_duration_s: longest recording, in seconds, 1 to 86400.
        vad: look for speech first and decode only that.
        use_memory: put right the words that corrections taught.
    """

    language: str = ""
    initial_prompt: str = ""
    beam_size: int = 5
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
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
        if not 1.0 <= self.max_duration_s <= 86_400.0:  # NaN is refused too
            raise InvalidInput(f"max_duration_s is {self.max_duration_s}", hint="give 1 to 86400")


class SpeechRecognition(LearningTask):
    """Writes down what is said in a recording; each segment's text comes with its times. Learns the user's words."""

    name: ClassVar[str] = "automatic-speech-recognition"
    title: ClassVar[str] = "writes down what is said"
    accepts = (frozenset({"audio"}), frozenset({"audio", "text"}))
    options_type: ClassVar[type[SpeechOptions]] = SpeechOptions
    primary_metric: ClassVar[str] = "words right (1 - WER)"

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self.memory = WordMemory()

    @property
    def spec(self) -> ModelSpec:
        """The model that is configured."""
        return ModelSpec(self.context.model_names.speech, task=self.name)

    def run(self, request: Request, models: ModelRuntime) -> Iterator[Item]:
        from smallai_speech.engine import SpeechModel

        adapter, notices = self.serving()
        yield from notices
        recording = recording_of(request.message, request.options)
        yield from recording.notices
        yield Details(
            {
                "duration_s": round(recording.duration_s, 3),
                "language": request.options.language,
                "adapter": adapter.id if adapter is not None else None,
            }
        )
        learnt = Learnt(adapter, self.memory.vocabulary() if request.options.use_memory else None)
        yield from write_down(recording, request, lambda: models.lease(self.spec, SpeechModel), learnt)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        before = self.memory.vocabulary()
        self.memory.add(judged_turn)
        return what_changed(before, self.memory.vocabulary())

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memory.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        return self.context.models.base_of(self.spec)

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        from smallai_speech.learning import examples_of

        return examples_of(judged_turns)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        from smallai_speech.learning import praised_of

        return {"praised transcripts": praised_of(judged_turns)}

    def train(self, training: Training) -> str:
        from smallai_speech.learning import train

        return train(training, self.spec, self.context.options)

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        from smallai_speech.learning import evaluate

        return evaluate(examples, adapter, self.spec, self.context.options, models)
