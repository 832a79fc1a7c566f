"""The task `image-classification`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from smallai_assistant import (
    Details,
    EmbeddingModel,
    ImageModel,
    ImagePart,
    ImageTextModel,
    InvalidInput,
    LabelPart,
    ModelRuntime,
    ModelSpec,
    Notice,
    Request,
    Task,
    TextPart,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_LABELS = 1000
_MAX_LABEL_CHARS = 200
_WORTH_SAYING = 0.1
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
        if not all(0 < len(label) <= _MAX_LABEL_CHARS for label in labels):
            raise InvalidInput("a label is empty or too long", hint=f"give 1 to {_MAX_LABEL_CHARS} characters")
        if labels and not 2 <= len({label.casefold() for label in labels}) == len(labels) <= _MAX_LABELS:
            raise InvalidInput(
                f"{len(labels)} labels, or one of them twice", hint=f"give 2 to {_MAX_LABELS} different labels"
            )
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, slots=True)
class _Guess:
    """Labels of one picture, best first, and what made them."""

    labels: tuple[LabelPart, ...]
    model: str


class ImageClassification(Task):
    """Says what is on a picture; the labels follow the sentence as parts."""

    name: ClassVar[str] = "image-classification"
    title: ClassVar[str] = "says what is on a picture"
    accepts = (frozenset({"image"}), frozenset({"image", "text"}))
    options_type: ClassVar[type[ImageOptions]] = ImageOptions

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | LabelPart | Notice | Details]:
        from smallai_image.decode import decode

        options: ImageOptions = request.options
        labels, notices = self._labels(request.message.text, options)
        yield from notices
        if labels and not self._uses_model(options):
            yield Notice(
                "zero_shot_conse",
                "Your labels were matched by the words for what the picture shows (ConSE); a CLIP or SigLIP model, "
                "set as models.zero_shot_image, does it better.",
            )
        pictures = [part for part in request.message.parts if isinstance(part, ImagePart)]
        for number, part in enumerate(pictures, 1):
            if request.cancel.is_set():
                return
            picture = decode(part.read(), name=part.name)
            if picture.n_frames > 1:
                yield Notice("first_frame_only", f"{part.name}: only the first of {picture.n_frames} frames was used.")
            if labels:
                guess = self._match(picture.pixels, labels, models, options)
            else:
                guess = self._classify(picture.pixels, models)
            heading = f"Picture {number}: " if len(pictures) > 1 else ""
            heading = "\n" + heading if number > 1 else heading
            yield TextPart(heading + (_fit(guess.labels) if labels else _sentence(guess.labels)))
            yield from (each for each in guess.labels[: options.top] if each.score >= options.min_score)
            yield Details({"model": guess.model})

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

    def _classify(self, pixels: npt.NDArray[np.uint8], models: ModelRuntime) -> _Guess:
        with models.lease(self._image_spec(), ImageModel) as model:
            scores = model.classify([pixels])[0]
            return _Guess(_ranked(scores, model.labels, range(len(model.labels))), str(model.spec))

    def _match(
        self, pixels: npt.NDArray[np.uint8], labels: tuple[str, ...], models: ModelRuntime, options: ImageOptions
    ) -> _Guess:
        from smallai_image.zero_shot import class_vectors, conse

        own = [-1] * len(labels)
        if self._uses_model(options):
            name = self.context.model_names.zero_shot_image
            if not name:
                raise InvalidInput("zero_shot is 'model' and none is configured", hint="set models.zero_shot_image")
            with models.lease(ModelSpec(name, task="zero-shot-image-classification"), ImageTextModel) as matcher:
                return _Guess(_ranked(matcher.match([pixels], labels)[0], labels, own), str(matcher.spec))
        # One lease after the other: together they might not fit the memory budget.
        with models.lease(self._image_spec(), ImageModel) as model:
            probabilities, classes, names = model.classify([pixels]), model.labels, [str(model.spec)]
        with models.lease(
            ModelSpec(self.context.model_names.embedding, task="feature-extraction"), EmbeddingModel
        ) as words:
            known = class_vectors(classes, words, self.context.data_dir)
            scores = conse(probabilities, known, words.embed(labels))[0]
            names.append(str(words.spec))
        return _Guess(_ranked(scores, labels, own), " + ".join(names))

    def _image_spec(self) -> ModelSpec:
        return ModelSpec(self.context.model_names.image, task=self.name)


def _ranked(scores: npt.NDArray[np.float32], labels: Sequence[str], ids: Sequence[int]) -> tuple[LabelPart, ...]:
    order = sorted(range(len(labels)), key=lambda i: -float(scores[i]))
    return tuple(LabelPart(labels[i], ids[i], float(scores[i])) for i in order)


def _sentence(guesses: Sequence[LabelPart]) -> str:
    """What the picture shows, as surely as the scores allow."""
    best, *others = (_named(each) for each in guesses[:3])
    score = guesses[0].score
    if score < 0.2:
        return f"I am not sure what this is: perhaps {_listed([best, *others], 'or')}."
    others = [text for text, each in zip(others, guesses[1:3], strict=True) if each.score >= _WORTH_SAYING]
    opening = f"This looks like {best}" if score >= 0.5 else f"This may be {best}"
    return f"{opening}; it could also be {_listed(others, 'or')}." if others else f"{opening}."


def _fit(guesses: Sequence[LabelPart]) -> str:
    """Which of the user's labels fits."""
    best, *others = (f"“{each.label}” ({_percent(each.score)})" for each in guesses[:3])
    if guesses[0].score < 1.5 / len(guesses):  # hardly above what each label would get by chance
        return f"None of your labels stands out: {_listed([best, *others], 'and')}."
    return f"Of your labels {best} fits best, then {_listed(others, 'and')}."


def _named(guess: LabelPart) -> str:
    return f"{_with_article(guess.label)} ({_percent(guess.score)})"


def _with_article(label: str) -> str:
    if re.search(r"[^sui]s$", label):  # sunglasses, not bus, iris, abyss
        return label
    vowel = re.match(r"(?!uni|eu|us|uku)[aeiou]|hour", label, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {label}"


def _percent(score: float) -> str:
    return "under 1 %" if score < 0.01 else f"{100 * score:.0f} %"


def _listed(texts: Sequence[str], conjunction: str) -> str:
    *first, last = texts
    return f"{', '.join(first)} {conjunction} {last}" if first else last
