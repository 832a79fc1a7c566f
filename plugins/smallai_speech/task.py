"""The task `automatic-speech-recognition`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from smallai_assistant import (
    Adapter,
    AudioPart,
    Details,
    Example,
    JudgedTurn,
    LearningTask,
    ModelSpec,
    Request,
    Score,
    TaskContext,
    Training,
)
from smallai_speech.memory import WordMemory
from smallai_speech.options import SpeechOptions
from smallai_speech.pipeline import Item, Learned, recording_of, transcript_parts
from smallai_speech.receipt import MAX_CHECKED_S, changes_of, receipt

if TYPE_CHECKING:
    from smallai_assistant import ModelRuntime
    from smallai_speech.vocabulary import Vocabulary


class SpeechRecognition(LearningTask):
    """Transcribes a recording; each segment's text comes with its times. Learns the user's words."""

    name: ClassVar[str] = "automatic-speech-recognition"
    title: ClassVar[str] = "writes down what is said"
    accepts = (frozenset({"audio"}), frozenset({"audio", "text"}))
    options_type: ClassVar[type[SpeechOptions]] = SpeechOptions
    primary_metric: ClassVar[str] = "words right (1 - WER)"
    honours_audiences: ClassVar[bool] = True
    has_personal_versions: ClassVar[bool] = True

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self.memories = context.memory_per_audience(WordMemory)

    @property
    def spec(self) -> ModelSpec:
        """The configured model."""
        return ModelSpec(self.context.model_names.speech, task=self.name)

    def run(self, request: Request, models: ModelRuntime) -> Iterator[Item]:
        # Imported here, as is everything that imports numpy or torch: importing the plugin must be fast.
        from smallai_speech.engine import SpeechModel

        adapter, notices = self.serving(request.audiences)
        yield from notices
        recording = recording_of(request.message, request.options, request.cancel)
        yield from recording.notices
        # Before the model is leased: a turn that is stopped or finds no speech has these details too.
        yield Details(
            {
                "duration_s": round(recording.duration_s, 3),
                "language": request.options.language,
                "adapter": adapter.id if adapter is not None else None,
            }
        )
        memory = self.memories.of(request.audiences) if request.options.use_memory else None
        learned = Learned(adapter, memory.vocabulary() if memory is not None else None)
        yield from transcript_parts(recording, request, lambda: models.lease(self.spec, SpeechModel), learned)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        before = self.memories.of_giver(judged_turn).vocabulary()
        self.memories.add(judged_turn)
        after = self.memories.of_giver(judged_turn).vocabulary()
        return receipt(
            changes_of(before, after), judged_turn, lambda part: self._tried(part, after, judged_turn.audience)
        )

    def _tried(self, recording: AudioPart, vocabulary: Vocabulary, audience: str) -> str:
        """The transcript of a short recording with these words and what serves its giver now."""
        from smallai_speech.evaluation import transcript

        options = replace(self.context.options, max_duration_s=min(self.context.options.max_duration_s, MAX_CHECKED_S))
        adapter, _ = self.serving({"everyone", audience})
        return transcript(recording, self.spec, options, self.context.models, Learned(adapter, vocabulary))

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memories.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        return self.context.models.base_of(self.spec)

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        from smallai_speech.examples import examples_of

        return examples_of(judged_turns)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        from smallai_speech.examples import protected_examples_of

        return {"praised transcripts": protected_examples_of(judged_turns)}

    def train(self, training: Training) -> str:
        from smallai_speech.adapter_selection import train

        return train(training, self.spec, self.context.options)

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        from smallai_speech.evaluation import evaluate

        return evaluate(examples, adapter, self.spec, self.context.options, models)
