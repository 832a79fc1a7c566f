"""One recording to one answer: decode, look for speech, lease the model, stream the segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from threading import Event
from typing import TYPE_CHECKING, Any

from smallai_assistant import (
    Adapter,
    AudioPart,
    Details,
    InvalidInput,
    Message,
    Notice,
    Request,
    SegmentPart,
    TextPart,
)
from smallai_speech.lora import KINDS
from smallai_speech.options import SpeechOptions
from smallai_speech.vocabulary import Vocabulary, vocabulary_in

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from smallai_speech.decode import Recording
    from smallai_speech.engine import SpeechModel
    from smallai_speech.window import DecodeOptions

    FloatArray = npt.NDArray[np.float32]

Item = TextPart | SegmentPart | Notice | Details
Lease = Callable[[], "AbstractContextManager[SpeechModel]"]


@dataclass(frozen=True, slots=True)
class Learned:
    """What serves beside the base: the champion, and the vocabulary of the fast memory; None if there is none."""

    adapter: Adapter | None = None
    vocabulary: Vocabulary | None = None

    def words(self) -> Vocabulary | None:
        """The words of the champion, of those that it lies over, and of the fast memory.

        Raises:
            AdapterMismatch: a champion's vocabulary cannot be read.
        """
        chain = self.adapter.chain if self.adapter is not None else ()
        # Of two spellings of a word the later one wins: the more personal one.
        found = [*(vocabulary_in(version) for version in reversed(chain)), self.vocabulary]
        known = [vocabulary for vocabulary in found if vocabulary is not None]
        return reduce(Vocabulary.with_words_of, known) if known else None

    def weights(self) -> Adapter | None:
        """The most personal version of the chain that has LoRA weights; None for the base's own weights."""
        chain = self.adapter.chain if self.adapter is not None else ()
        return next((version for version in chain if version.kind in KINDS), None)


def recording_of(message: Message, options: SpeechOptions, cancel: Event | None = None) -> Recording:
    """Decodes the one recording of the message.

    Raises:
        InvalidInput: there is not exactly one, or it cannot be read.
        InvalidAudio, InputTooLarge, Cancelled: see `decode_audio`.
    """
    from smallai_speech.decode import decode_audio

    parts = [part for part in message.parts if isinstance(part, AudioPart)]
    if len(parts) != 1:
        raise InvalidInput(f"{len(parts)} recordings in one message", hint="send them one by one")
    part = parts[0]
    return decode_audio(part.read(), max_duration_s=options.max_duration_s, name=part.name, cancel=cancel)


def transcript_parts(recording: Recording, request: Request, lease: Lease, learned: Learned) -> Iterator[Item]:
    """The transcript of a recording, part by part, and its details.

    Raises:
        InvalidInput: the model does not know the language.
        AdapterMismatch: the champion does not fit the model.
    """
    from smallai_speech.vad import Activity, Span

    activity = Activity(recording.samples) if request.options.vad else None
    spans = [Span(0, len(recording.samples))] if activity is None else activity.clips()
    if not spans:  # without speech the model is not even loaded
        yield Notice("no_speech", "Nobody speaks in the recording.")
        return
    with lease() as model:
        yield Details({"model": str(model.spec)})
        first = recording.samples[spans[0].start : spans[0].end]
        options = _decode_options(request, model, first, learned)
        yield Details({"language": options.language})
        if not model.prompt_fits(options.prompt):
            yield Notice("prompt_truncated", "The prompt is longer than the model takes; only its end was used.")
        from smallai_speech.transcribe import transcribe

        yield from _answer(
            request,
            transcribe(
                model,
                recording.samples,
                spans,
                options,
                temperatures=request.options.temperatures,
                activity=activity,
                cancel=request.cancel,
            ),
        )


def _answer(request: Request, transcript: Iterator[Any]) -> Iterator[Item]:
    """The segments as parts, and at the end the words' times and the repairs as details."""
    from smallai_speech.transcribe import Repaired, Segment
    from smallai_speech.window import Stopped

    words: list[dict[str, Any]] = []
    repairs: list[dict[str, str]] = []
    n_segments = 0
    try:
        for item in transcript:
            match item:
                case Segment(piece, delta):
                    n_segments += 1
                    yield TextPart(delta)
                    yield SegmentPart(piece.text, piece.start_s, piece.end_s)
                    words += [
                        {"word": w.text.strip(), "start_s": w.start_s, "end_s": w.end_s, "probability": w.probability}
                        for w in piece.words
                    ]
                case Repaired(heard, word):
                    repairs.append({"heard": heard, "word": word})
                case _:
                    yield item
    except Stopped:
        yield Details({"stop_reason": "cancelled"})
        return
    if n_segments == 0:
        yield Notice("no_speech", "No words were recognized in the recording.")
    if repairs:
        yield Details({"repairs": repairs})
    if request.options.word_timestamps:
        yield Details({"words": words})


def _decode_options(request: Request, model: SpeechModel, first: FloatArray, learned: Learned) -> DecodeOptions:
    """The options of every window; `first` is the beginning of the speech, which tells the language."""
    from smallai_speech.decode import SAMPLE_RATE
    from smallai_speech.transcribe import UNSPACED
    from smallai_speech.window import WINDOW_S, DecodeOptions

    options: SpeechOptions = request.options
    if options.language and options.language not in model.languages:
        known = "English only" if len(model.languages) == 1 else f"{', '.join(sorted(model.languages))}"
        raise InvalidInput(f"{model.spec} does not know the language {options.language!r}", hint=f"it knows {known}")
    prompt = " ".join(text for text in (options.initial_prompt.strip(), request.message.text.strip()) if text)
    language = options.language or model.detect_language(first[: int(WINDOW_S * SAMPLE_RATE)])
    return DecodeOptions(
        language=language,
        prompt=prompt,
        beam_size=options.beam_size,
        word_timestamps=options.word_timestamps,
        # A vocabulary finds words by the spaces between them.
        vocabulary=None if language in UNSPACED else learned.words(),
        adapter=learned.weights(),
    )
