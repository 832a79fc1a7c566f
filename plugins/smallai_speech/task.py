"""The task `automatic-speech-recognition`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smallai_assistant import (
    AudioPart,
    Details,
    InvalidInput,
    ModelSpec,
    Notice,
    Request,
    SegmentPart,
    Task,
    TextPart,
)

if TYPE_CHECKING:
    from smallai_assistant import ModelRuntime
    from smallai_speech.decode import Recording
    from smallai_speech.engine import DecodeOptions, SpeechModel
    from smallai_speech.vad import Activity, Span

Item = TextPart | SegmentPart | Notice | Details


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
    """

    language: str = ""
    initial_prompt: str = ""
    beam_size: int = 5
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    word_timestamps: bool = False
    max_duration_s: float = 4 * 3600.0
    vad: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([a-z]{2,3})?", self.language):
            raise InvalidInput(f"language is {self.language!r}", hint="give a code such as en, or nothing to detect it")
        if not 1 <= self.beam_size <= 20:
            raise InvalidInput(f"beam_size is {self.beam_size}", hint="give 1 to 20")
        if not 1 <= len(self.temperatures) <= 10 or not all(0.0 <= each <= 1.0 for each in self.temperatures):
            raise InvalidInput(f"temperatures are {self.temperatures}", hint="give one to ten, each 0 to 1")
        if not 1.0 <= self.max_duration_s <= 86_400.0:  # NaN is refused too
            raise InvalidInput(f"max_duration_s is {self.max_duration_s}", hint="give 1 to 86400")


class SpeechRecognition(Task):
    """Writes down what is said in a recording; each segment's text comes with its times."""

    name: ClassVar[str] = "automatic-speech-recognition"
    title: ClassVar[str] = "writes down what is said"
    accepts = (frozenset({"audio"}), frozenset({"audio", "text"}))
    options_type: ClassVar[type[SpeechOptions]] = SpeechOptions

    def run(self, request: Request, models: ModelRuntime) -> Iterator[Item]:
        from smallai_speech.engine import SpeechModel
        from smallai_speech.vad import Activity, Span

        recording = _recording(request)
        yield from recording.notices
        yield Details({"duration_s": round(recording.duration_s, 3), "language": request.options.language})
        activity = Activity(recording.samples) if request.options.vad else None
        spans = [Span(0, len(recording.samples))] if activity is None else activity.windows()
        if not spans:
            yield Notice("no_speech", "Nobody speaks in the recording.")
            return
        spec = ModelSpec(self.context.model_names.speech, task=self.name)
        with models.lease(spec, SpeechModel) as model:
            yield Details({"model": str(model.spec)})
            yield from _transcript(request, model, recording, (activity, spans))


def _recording(request: Request) -> Recording:
    from smallai_speech.decode import decode_audio

    parts = [part for part in request.message.parts if isinstance(part, AudioPart)]
    if len(parts) != 1:
        raise InvalidInput(f"{len(parts)} recordings in one message", hint="send them one by one")
    return decode_audio(parts[0].read(), max_duration_s=request.options.max_duration_s, name=parts[0].name)


def _transcript(
    request: Request, model: SpeechModel, recording: Recording, where: tuple[Activity | None, list[Span]]
) -> Iterator[Item]:
    from smallai_speech.engine import Stopped
    from smallai_speech.transcribe import Segment, transcribe

    activity, spans = where
    first = recording.samples[spans[0].start : spans[0].end]
    options = _decode_options(request, model, first)
    yield Details({"language": options.language})
    if not model.prompt_fits(options.prompt):
        yield Notice("prompt_truncated", "The prompt is longer than the model takes; only its end was used.")
    words: list[dict[str, Any]] = []
    n_segments = 0
    try:
        for item in transcribe(
            model,
            recording.samples,
            spans,
            options,
            temperatures=request.options.temperatures,
            activity=activity,
            cancel=request.cancel,
        ):
            if isinstance(item, Segment):
                n_segments += 1
                yield TextPart(item.delta)
                yield SegmentPart(item.piece.text, item.piece.start_s, item.piece.end_s)
                words += [
                    {"word": w.text.strip(), "start_s": w.start_s, "end_s": w.end_s, "probability": w.probability}
                    for w in item.piece.words
                ]
            else:
                yield item
    except Stopped:
        yield Details({"stop_reason": "cancelled"})
        return
    if n_segments == 0:
        yield Notice("no_speech", "No words were made out in the recording.")
    if request.options.word_timestamps:
        yield Details({"words": words})


def _decode_options(request: Request, model: SpeechModel, first: Any) -> DecodeOptions:
    from smallai_speech.decode import SAMPLE_RATE
    from smallai_speech.engine import WINDOW_S, DecodeOptions

    options: SpeechOptions = request.options
    if options.language and options.language not in model.languages:
        known = "English only" if len(model.languages) == 1 else f"{', '.join(sorted(model.languages))}"
        raise InvalidInput(f"{model.spec} does not know the language {options.language!r}", hint=f"it knows {known}")
    prompt = " ".join(text for text in (options.initial_prompt.strip(), request.message.text.strip()) if text)
    return DecodeOptions(
        language=options.language or model.detect_language(first[: int(WINDOW_S * SAMPLE_RATE)]),
        prompt=prompt,
        beam_size=options.beam_size,
        word_timestamps=options.word_timestamps,
    )
