"""The task `image-classification`: what is on a picture, learned from corrections and taught pictures."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from smallai_assistant import (
    Adapter,
    AssistantError,
    Details,
    Example,
    Feedback,
    ImagePart,
    InvalidInput,
    JudgedTurn,
    LabelPart,
    LearningTask,
    ModelRuntime,
    ModelSpec,
    Notice,
    Request,
    Score,
    TextPart,
    Training,
    Turn,
)
from smallai_image.feedback import (
    MAX_LABEL_CHARS,
    Picture,
    all_said,
    label_key,
    pictures_of,
    read_picture,
    said,
)
from smallai_image.phrasing import fit_sentence, listed, sentence

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from smallai_image.classifier import Guesser

# Vectors of pictures that are made another way do not fit what was learned from these.
_VECTORS = 1
_MAX_LABELS = 1000
_WHAT_IS_IT = re.compile(
    r"\b(what|who|which|classify|recogni[sz]e|identify|describe|name|label|is (this|it|that))\b", re.I
)


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How a picture is classified.

    Args:
        top: most labels to give, best first, 1 to 1000.
        labels: classify into these, two or more, instead of the model's classes.
        zero_shot: how that is done: `model` with the model configured as `zero_shot_image`, `conse` by the words for
            the classes the image model knows; `auto` takes the first that can be had.
        min_score: leave out labels below it, 0 to 1.
    """

    top: int = 5
    labels: tuple[str, ...] = ()
    zero_shot: Literal["auto", "model", "conse"] = "auto"
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.top <= 1000:
            raise InvalidInput(f"top is {self.top}", hint="give 1 to 1000")
        if not 0.0 <= self.min_score <= 1.0:  # NaN is refused too
            raise InvalidInput(f"min_score is {self.min_score}", hint="give 0 to 1")
        labels = tuple(" ".join(label.split()) for label in self.labels)
        if not all(0 < len(label) <= MAX_LABEL_CHARS for label in labels):
            raise InvalidInput("a label is empty or too long", hint=f"give 1 to {MAX_LABEL_CHARS} characters")
        if labels and not 2 <= len({label.casefold() for label in labels}) == len(labels) <= _MAX_LABELS:
            raise InvalidInput(
                f"{len(labels)} labels, or one of them twice", hint=f"give 2 to {_MAX_LABELS} different labels"
            )
        object.__setattr__(self, "labels", labels)


class ImageClassification(LearningTask):
    """Says what is on a picture; the labels follow the sentence as parts."""

    name: ClassVar[str] = "image-classification"
    title: ClassVar[str] = "says what is on a picture"
    accepts = (frozenset({"image"}), frozenset({"image", "text"}))
    options_type: ClassVar[type[ImageOptions]] = ImageOptions
    primary_metric = "top-1 accuracy"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guesser: Guesser | None = None
        self._judged_turns: tuple[JudgedTurn, ...] = ()

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | LabelPart | Notice | Details]:
        from smallai_image.decode import decode

        options: ImageOptions = request.options
        labels, notices = self._labels(request.message.text, options)
        yield from notices
        use_model = self._uses_model(options)
        if labels and not use_model:
            yield Notice(
                "zero_shot_conse",
                "Your labels were matched by the words for what the picture shows (ConSE); a CLIP or SigLIP model, "
                "set as models.zero_shot_image, does it better.",
            )
        adapter, notices = self.serving()
        yield from notices
        guesser = self._ready()
        pictures = [part for part in request.message.parts if isinstance(part, ImagePart)]
        n_taught = []
        for number, part in enumerate(pictures, 1):
            if request.cancel.is_set():
                return
            data = part.read()
            decoded = decode(data, name=part.name)
            if decoded.n_frames > 1:
                yield Notice("first_frame_only", f"{part.name}: only the first of {decoded.n_frames} frames was used.")
            picture = Picture(hashlib.sha256(data).hexdigest(), decoded.pixels)
            if labels:
                guess = guesser.guess_among(picture, labels, models, adapter, use_model=use_model)
            else:
                guess = guesser.guess(picture, models, adapter)
            yield from guess.notices
            heading = f"Picture {number}: " if len(pictures) > 1 else ""
            heading = "\n" + heading if number > 1 else heading
            yield TextPart(heading + (fit_sentence if labels else sentence)(guess.labels))
            yield from (label for label in guess.labels[: options.top] if label.score >= options.min_score)
            n_taught.append(guess.n_taught)
            details: dict[str, Any] = {"model": guess.model}
            if adapter is not None:
                details["adapter"] = adapter.id
            if any(n_taught):
                details["memory"] = list(n_taught)
            yield Details(details)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        sayings = said(judged_turn)
        if not sayings:
            return ""
        guesser, models = self._ready(), self.context.models
        for saying in sayings:  # the giver is told of a picture that cannot be used
            read_picture(saying.part)
        guesser.memory.learn(sayings, lambda parts: guesser.look_at(parts, models))
        first = sayings[0]
        if first.kind == "praised":
            return f"“{first.label}” stays: learning must not make that answer worse."
        if first.kind == "not":
            return f"I will not call this picture “{first.label}” again."
        counts = {label_key(label): n for label, n in guesser.memory.counts().items()}
        n = counts.get(label_key(first.label), 0)
        effect = f"I now know “{first.label}” from {n} picture{'s' if n > 1 else ''}."
        if others := guesser.memory.overlaps(first.label):
            named = listed([f"“{other}”" for other in others[:3]], "and")
            effect += f" It is hard to tell from {named}: check the labels, or teach more pictures of each."
        return effect

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        with self._lock:
            self._judged_turns = tuple(judged_turns)
            if self._guesser is not None:
                self._guesser.memory.rebuild(all_said(judged_turns))

    def forget(self, feedback: Feedback, turn: Turn) -> None:  # noqa: ARG002
        with self._lock:
            guesser = self._guesser
        if guesser is None:
            return
        for part in pictures_of(turn):
            try:
                guesser.looker.forget(hashlib.sha256(part.read()).hexdigest())
            except AssistantError:  # it is gone already, and will not be asked for again
                continue

    def base(self) -> Mapping[str, Any]:
        return {**self.context.models.base_of(self._spec()), "vectors": _VECTORS}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        from smallai_image.examples import examples_of

        return examples_of(judged_turns)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        from smallai_image.examples import protected_of

        return protected_of(judged_turns)

    def labelled(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, tuple[str, npt.NDArray[np.float32]]]:
        sayings = [each for each in all_said(judged_turns) if each.kind == "is"]
        seen = self._ready().look_at([saying.part for saying in sayings], self.context.models)
        # Of a lesson with several pictures one speaks for all.
        return {
            saying.feedback_id: (saying.label, picture.vector)
            for saying, picture in zip(sayings, seen, strict=True)
            if picture is not None
        }

    def train(self, training: Training) -> str:
        from smallai_image.training import train

        return train(training, self._spec(), self._ready().looker)

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        from smallai_image.examples import evaluated

        return evaluated(examples, lambda pictures: self._ready().alone(pictures, models, adapter))

    def _ready(self) -> Guesser:
        """What guesses, made when it is first needed: its libraries take time to import."""
        from smallai_image.classifier import Guesser

        with self._lock:
            if self._guesser is None:
                guesser = Guesser(self.context, self._spec())
                guesser.memory.rebuild(all_said(self._judged_turns))
                self._guesser = guesser
            return self._guesser

    def _spec(self) -> ModelSpec:
        return ModelSpec(self.context.model_names.image, task=self.name)

    def _labels(self, text: str, options: ImageOptions) -> tuple[tuple[str, ...], list[Notice]]:
        """The labels to choose among, if any, and what to say about the text that came with the picture."""
        from smallai_image.zero_shot import alternatives

        if not text.strip():
            return options.labels, []
        asked = () if options.labels else alternatives(text)
        if asked:
            return asked, [Notice("labels_from_question", f"Chosen among what you named: {', '.join(asked)}.")]
        if options.labels or _WHAT_IS_IT.search(text):
            return options.labels, []
        return (), [Notice("text_not_used", "Pictures are classified; what you wrote beside this one was not used.")]

    def _uses_model(self, options: ImageOptions) -> bool:
        return options.zero_shot == "model" or (
            options.zero_shot == "auto" and bool(self.context.model_names.zero_shot_image)
        )
