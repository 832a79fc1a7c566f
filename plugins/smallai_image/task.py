"""The task `image-classification`: says what is on a picture, and learns from corrections and taught pictures.

Modules that need numpy or torch are imported inside the functions that use them, so that importing the plugin is fast.
"""

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
    TaskContext,
    TextPart,
    Training,
    Turn,
    errors,
)
from smallai_image.feedback import (
    MAX_LABEL_CHARS,
    Picture,
    all_label_feedback,
    label_feedback_of,
    label_key,
    pictures_of,
    read_picture,
)
from smallai_image.phrasing import describe, describe_choice, join

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from smallai_image.classifier import PictureClassifier
    from smallai_image.memory import FastMemory

# Version of the feature vectors. Raise it when `features` computes them in another way: adapters that were trained on
# the old vectors then no longer load.
_VECTORS_VERSION = 1
_MAX_LABELS = 1000
_MAX_TOP = 1000  # the number of ImageNet classes
MAX_COMPARED = 1000  # pictures of a cycle in which copies are looked for, the newest
# Below this probability a picture is rather of no taught class.
_MIN_LIKE_TAUGHT = 0.5
# A text beside a picture that asks what is on it. Any other text is reported as not used.
_WHAT_IS_IT = re.compile(
    r"\b(what|who|which|classify|recogni[sz]e|identify|describe|name|label|is (this|it|that))\b", re.I
)


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Options of picture classification.

    Args:
        top: maximum number of labels in the answer, best first, 1 to 1000.
        labels: the labels to choose from, two or more, instead of the model's classes.
        taught: True chooses among the taught labels only, instead of the model's classes.
        zero_shot: how `labels` are matched. `model`: by the model configured as `zero_shot_image`. `conse`: by the
            sentence vectors of the classes that the image model knows. `auto`: by the model if one is configured.
        min_score: labels below this score are left out of the answer, 0 to 1.

    Raises:
        InvalidInput: a value is out of range.
    """

    top: int = 5
    labels: tuple[str, ...] = ()
    zero_shot: Literal["auto", "model", "conse"] = "auto"
    min_score: float = 0.0
    taught: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top <= _MAX_TOP:
            raise InvalidInput(f"top is {self.top}", hint=f"give 1 to {_MAX_TOP}")
        if not 0.0 <= self.min_score <= 1.0:  # NaN is refused too
            raise InvalidInput(f"min_score is {self.min_score}", hint="give 0 to 1")
        labels = tuple(" ".join(label.split()) for label in self.labels)
        if not all(0 < len(label) <= MAX_LABEL_CHARS for label in labels):
            raise InvalidInput("a label is empty or too long", hint=f"give 1 to {MAX_LABEL_CHARS} characters")
        if labels and not 2 <= len({label_key(label) for label in labels}) == len(labels) <= _MAX_LABELS:
            raise InvalidInput(
                f"{len(labels)} labels, or one of them twice", hint=f"give 2 to {_MAX_LABELS} different labels"
            )
        if labels and self.taught:
            raise InvalidInput("both labels and taught are given", hint="give one of them")
        object.__setattr__(self, "labels", labels)  # the dataclass is frozen


class ImageClassification(LearningTask):
    """Says what is on a picture. The answer is a sentence, followed by the labels as parts."""

    name: ClassVar[str] = "image-classification"
    title: ClassVar[str] = "says what is on a picture"
    accepts = (frozenset({"image"}), frozenset({"image", "text"}))
    options_type: ClassVar[type[ImageOptions]] = ImageOptions
    primary_metric = "top-1 accuracy"
    honours_audiences = True
    has_personal_versions = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._classifier: PictureClassifier | None = None

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self.memories = context.memory_per_audience(_empty_memory)

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | LabelPart | Notice | Details]:
        from smallai_image.classifier import Learned
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
        adapter, notices = self.serving(request.audiences)
        yield from notices
        classifier, learned = self._ready(), Learned(adapter, self.memories.of(request.audiences))
        pictures = [part for part in request.message.parts if isinstance(part, ImagePart)]
        n_taught = []
        for number, part in enumerate(pictures, 1):
            if request.cancel.is_set():
                return
            data = part.read()
            try:
                decoded = decode(data, name=part.name, cancel=request.cancel)
            except errors.Cancelled:  # as between two pictures: what is answered already stays
                return
            if decoded.n_frames > 1:
                yield Notice("first_frame_only", f"{part.name}: only the first of {decoded.n_frames} frames was used.")
            picture = Picture(hashlib.sha256(data).hexdigest(), decoded.pixels)
            if options.taught:
                found = classifier.classify_taught(picture, models, learned)
                if found.confidence < _MIN_LIKE_TAUGHT:
                    yield Notice("unlike_taught", "This picture does not look like what you taught.")
            elif labels:
                found = classifier.classify_among(picture, labels, models, learned, use_model=use_model)
            else:
                found = classifier.classify(picture, models, learned)
            yield from found.notices
            heading = f"Picture {number}: " if len(pictures) > 1 else ""
            heading = "\n" + heading if number > 1 else heading
            is_choice = bool(labels) or options.taught
            yield TextPart(heading + (describe_choice if is_choice else describe)(found.labels))
            yield from (label for label in found.labels[: options.top] if label.score >= options.min_score)
            n_taught.append(found.n_taught)
            details: dict[str, Any] = {"model": found.model}
            if found.adapter is not None:
                details["adapter"] = found.adapter.id
            if any(n_taught):
                details["memory"] = list(n_taught)
            yield Details(details)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        feedback = label_feedback_of(judged_turn)
        if not feedback:
            return ""
        classifier, models = self._ready(), self.context.models
        # The memory skips pictures that cannot be read. Here the error is raised, so that the giver is told.
        for item in feedback:
            read_picture(item.part)
        self.memories.add(judged_turn)
        memory = self.memories.of_giver(judged_turn)
        memory.process_pending(lambda parts: classifier.extract(parts, models))
        first = feedback[0]
        # The receipt says what holds from now on, and no more; the tests ask again.
        if first.kind == "refused":
            return (
                f"“{first.label}” is not given for this picture again, nor for copies of it, as long as another label "
                "is possible."
            )
        counts = {label_key(label): n for label, n in memory.counts().items()}
        n = counts.get(label_key(first.label), 0)
        if first.kind == "praised" and not n:
            checked = ": a learning cycle is checked with this picture, too" if judged_turn.feedback.may_train else ""
            return f"“{first.label}” is noted as right{checked}."
        effect = f"I now know “{first.label}” from {n} picture{'s' if n > 1 else ''}."
        if others := memory.confusable_labels(first.label):
            named = join([f"“{other}”" for other in others[:3]], "and")
            effect += f" It is hard to tell from {named}: check the labels, or teach more pictures of each."
        return effect

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memories.replace(judged_turns)

    def forget(self, feedback: Feedback, turn: Turn) -> None:  # noqa: ARG002
        with self._lock:
            classifier = self._classifier
        if classifier is None:
            return
        for part in pictures_of(turn):
            try:
                classifier.extractor.forget(hashlib.sha256(part.read()).hexdigest())
            except AssistantError:  # the file is gone, so its hash is not known and nobody will ask for it again
                continue

    def base(self) -> Mapping[str, Any]:
        return {**self.context.models.base_of(self._spec()), "vectors": _VECTORS_VERSION}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        from smallai_image.examples import examples_of, with_subjects

        found = examples_of(judged_turns)
        # As many as the features of which are kept; each of them is compared with all others.
        older, newer = found[:-MAX_COMPARED], found[-MAX_COMPARED:]
        features = self._ready().extract([example.payload.part for example in newer], self.context.models)
        return [*older, *with_subjects(newer, features)]

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        from smallai_image.examples import protected_of

        return protected_of(judged_turns)

    def labelled(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, tuple[str, npt.NDArray[np.float32]]]:
        labelled = [item for item in all_label_feedback(judged_turns) if item.kind == "labelled"]
        features = self._ready().extract([item.part for item in labelled], self.context.models)
        # If one piece of feedback labels several pictures, the last one represents it.
        return {
            item.feedback_id: (item.label, found.vector)
            for item, found in zip(labelled, features, strict=True)
            if found is not None
        }

    @property
    def is_cheap_to_train(self) -> bool:
        from smallai_image.training import trains_head_only

        return trains_head_only(self.context.models, self._spec())

    def train(self, training: Training) -> str:
        from smallai_image.training import train

        return train(training, self._spec(), self._ready().extractor)

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        from smallai_image.examples import evaluate

        classifier = self._ready()
        return evaluate(examples, lambda pictures: classifier.classify_without_memory(pictures, models, adapter))

    def _ready(self) -> PictureClassifier:
        """Returns the classifier; makes it on first use, because its libraries take time to import."""
        from smallai_image.classifier import PictureClassifier

        with self._lock:
            if self._classifier is None:
                self._classifier = PictureClassifier(self.context, self._spec())
            return self._classifier

    def _spec(self) -> ModelSpec:
        return ModelSpec(self.context.model_names.image, task=self.name)

    def _labels(self, text: str, options: ImageOptions) -> tuple[tuple[str, ...], list[Notice]]:
        """Returns the labels to choose from, empty for the model's classes, and notices about the message's text."""
        from smallai_image.zero_shot import alternatives

        if not text.strip():
            return options.labels, []
        asked = () if options.labels or options.taught else alternatives(text)
        if asked:
            return asked, [Notice("labels_from_question", f"Chosen among what you named: {', '.join(asked)}.")]
        if options.labels or _WHAT_IS_IT.search(text):
            return options.labels, []
        return (), [Notice("text_not_used", "Pictures are classified; what you wrote beside this one was not used.")]

    def _uses_model(self, options: ImageOptions) -> bool:
        return options.zero_shot == "model" or (
            options.zero_shot == "auto" and bool(self.context.model_names.zero_shot_image)
        )


def _empty_memory() -> FastMemory:
    from smallai_image.memory import FastMemory

    return FastMemory()
