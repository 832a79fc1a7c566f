"""Classifies pictures with everything that is known: the model, the serving adapter and the fast memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smallai_assistant import (
    Adapter,
    EmbeddingModel,
    ImageModel,
    ImagePart,
    ImageTextModel,
    InvalidInput,
    LabelPart,
    ModelRuntime,
    ModelSpec,
    Notice,
    TaskContext,
)
from smallai_image.blending import TaughtClasses, TaughtPrediction, blend, predict_taught, without
from smallai_image.features import FeatureExtractor, Features
from smallai_image.feedback import Picture, label_key, read_pictures
from smallai_image.head import Head
from smallai_image.memory import FastMemory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Pictures in one lease: between two batches the model can serve other callers, and decoded pictures are large.
_BATCH = 16
# Heads in memory, those of the people who asked last: five classes take 20 KB.
_MAX_HEADS = 64
HEAD, LORA = "head", "lora"  # kinds of adapters; both contain a head


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of one picture, best first, and where they come from.

    Attributes:
        model: the models that were used, as text.
        n_taught: number of pictures of the best label in the fast memory, if the memory put that label first; else 0.
        confidence: the probability that the picture is of a taught class at all, in [0, 1].
        adapter: the most personal version that was taught the best label, or else that answers; None if none serves.
    """

    labels: tuple[LabelPart, ...]
    model: str
    n_taught: int = 0
    notices: tuple[Notice, ...] = ()
    confidence: float = 0.0
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class _PictureFeatures:
    """A picture's features in several forms.

    Attributes:
        bare: by the bare model, for the memory.
        adapted: by the model with the LoRA weights of each adapter, for the adapter's head.
    """

    bare: Features
    adapted: tuple[Features, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """What an answer uses beside the model.

    Attributes:
        adapter: the version that serves, over others (`Adapter.over`); None for the bare model.
        memory: what was taught since to those whom the asker belongs to.
    """

    adapter: Adapter | None
    memory: FastMemory


class PictureClassifier:
    """Classifies pictures with the model, an adapter and the fast memory. Thread-safe."""

    def __init__(self, context: TaskContext, spec: ModelSpec) -> None:
        self._context = context
        self.spec = spec
        self.extractor = FeatureExtractor()
        self._lock = threading.Lock()
        self._heads: OrderedDict[str, Head] = OrderedDict()

    def classify(self, picture: Picture, models: ModelRuntime, learned: Learned) -> Classification:
        """Classifies into the model's own classes and the taught ones.

        Raises:
            AdapterMismatch: the adapter's files are not a head.
            ModelError: the image model is not available.
        """
        heads = self._heads_of(learned.adapter)
        # Nothing was taught: the features of the padded picture, which take a second pass, are not needed.
        if not heads and learned.memory.is_empty:
            with models.lease(self.spec, ImageModel) as model:
                return Classification(_ranked(model.classify([picture.pixels])[0], model.labels), str(model.spec))
        learned.memory.process_pending(lambda parts: self.extract(parts, models))
        with models.lease(self.spec, ImageModel) as model:
            (features,) = self._features(model, [picture], learned.adapter)
            found = Classification(_ranked(features.bare.probabilities, model.labels), str(model.spec))
        return self._with_taught(found, features, heads, learned.memory)

    def classify_among(
        self,
        picture: Picture,
        labels: Sequence[str],
        models: ModelRuntime,
        learned: Learned,
        *,
        use_model: bool,
    ) -> Classification:
        """Classifies into the user's labels.

        Args:
            use_model: whether the model configured as `zero_shot_image` matches the labels; else ConSE does, with the
                image model and the embedding model.

        Raises:
            InvalidInput: `use_model` is set and no such model is configured.
            AdapterMismatch: the adapter's files are not a head.
            ModelError: a model is not available.
        """
        scores, name = self._match(picture.pixels, labels, models, use_model=use_model)
        found = Classification(_ranked(scores, labels, own=True), name)
        heads = self._heads_of(learned.adapter)
        if not heads and learned.memory.is_empty:
            return found
        learned.memory.process_pending(lambda parts: self.extract(parts, models))
        # Taught classes count only if the user named them.
        among = {label_key(label) for label in labels}
        with models.lease(self.spec, ImageModel) as model:
            (features,) = self._features(model, [picture], learned.adapter)
        return self._with_taught(found, features, heads, learned.memory, among=among)

    def classify_taught(self, picture: Picture, models: ModelRuntime, learned: Learned) -> Classification:
        """Classifies into the taught labels only; the model's own classes do not compete.

        Raises:
            InvalidInput: nothing was taught.
            AdapterMismatch: the adapter's files are not a head.
            ModelError: the image model is not available.
        """
        heads = self._heads_of(learned.adapter)
        learned.memory.process_pending(lambda parts: self.extract(parts, models))
        with models.lease(self.spec, ImageModel) as model:
            (features,) = self._features(model, [picture], learned.adapter)
        found = self._with_taught(Classification((), str(self.spec)), features, heads, learned.memory)
        if not found.labels:
            raise InvalidInput("no label was taught", hint="teach pictures first, or ask without the option `taught`")
        return found

    def classify_without_memory(
        self, pictures: Sequence[Picture], models: ModelRuntime, adapter: Adapter | None
    ) -> list[str]:
        """Returns the best label of each picture by the model and the adapter alone, for an evaluation.

        Raises:
            AdapterMismatch: the adapter's files are not a head.
            ModelError: the image model is not available.
        """
        heads = self._heads_of(adapter)
        best = []
        for start in range(0, len(pictures), _BATCH):
            with models.lease(self.spec, ImageModel) as model:
                for features in self._features(model, pictures[start : start + _BATCH], adapter):
                    labels = _ranked(features.bare.probabilities, model.labels)
                    labels = blend(labels, predict_taught(TaughtClasses(), *_known_by(heads, features)))
                    best.append(labels[0].label)
        return best

    def extract(self, parts: Sequence[ImagePart], models: ModelRuntime) -> list[Features | None]:
        """Returns the features of each picture by the bare model; None for a picture that cannot be read.

        Raises:
            ModelError: the image model is not available.
        """
        found: list[Features | None] = []
        for start in range(0, len(parts), _BATCH):
            pictures = read_pictures(parts[start : start + _BATCH])
            with models.lease(self.spec, ImageModel) as model:
                readable = [picture for picture in pictures if picture is not None]
                features = iter(self.extractor.extract(model, readable))
                found += [None if picture is None else next(features) for picture in pictures]
        return found

    def _heads_of(self, adapter: Adapter | None) -> list[tuple[Adapter, Head]]:
        """Returns the heads of an adapter and of those that it lies over, with their adapters."""
        return [(version, self.head(version)) for version in adapter.chain] if adapter is not None else []

    def head(self, adapter: Adapter) -> Head:
        """Returns the adapter's head.

        Raises:
            AdapterMismatch: the adapter's files are not a head.
        """
        # Files are read under the lock: two threads that ask for a new head must not both load it.
        with self._lock:
            if adapter.id not in self._heads:
                self._heads[adapter.id] = Head.load(adapter.folder)
                while len(self._heads) > _MAX_HEADS:
                    self._heads.popitem(last=False)
            self._heads.move_to_end(adapter.id)
            return self._heads[adapter.id]

    def _features(
        self, model: ImageModel, pictures: Sequence[Picture], adapter: Adapter | None
    ) -> list[_PictureFeatures]:
        bare = self.extractor.extract(model, pictures)
        adapted = [
            # A head without LoRA weights was trained on the bare model's features.
            self.extractor.extract(model, pictures, adapter=version) if version.kind == LORA else bare
            for version in (adapter.chain if adapter is not None else ())
        ]
        return [_PictureFeatures(own, tuple(found[i] for found in adapted)) for i, own in enumerate(bare)]

    def _with_taught(
        self,
        found: Classification,
        features: _PictureFeatures,
        heads: Sequence[tuple[Adapter, Head]],
        memory: FastMemory,
        *,
        among: Collection[str] | None = None,
    ) -> Classification:
        """Adds what the heads and the memory know, removes refused labels, and explains a change of the best label."""
        by_heads = _known_by(heads, features, among=among)
        taught = memory.classes(features.bare, among=among)
        prediction = predict_taught(taught, *by_heads)
        by_adapter = predict_taught(TaughtClasses(), *by_heads)
        if among is not None:
            prediction, by_adapter = _chosen(prediction, among), _chosen(by_adapter, among)
        refused = memory.refused(features.bare)
        before = blend(found.labels, by_adapter)
        labels = without(blend(found.labels, prediction), refused)
        notices = []
        n_taught = 0
        best_before = before[0].label if before else ""
        # If the best label is the same without the memory, the memory did not decide and needs no mention.
        if labels and labels[0].label != best_before:
            n_pictures = {label_key(label): known.n_pictures for label, known in taught.similarities.items()}
            n_taught = n_pictures.get(label_key(labels[0].label), 0)
            if label_key(best_before) in refused:
                notices.append(Notice("refused_label", f"You said that this is not “{best_before}”."))
            if n_taught:
                shown = f"{n_taught} picture" + ("s" if n_taught > 1 else "")
                notices.append(Notice("taught_label", f"“{labels[0].label}” is what you taught me, with {shown}."))
        if labels and refused.issuperset(label_key(label.label) for label in labels):
            text = "You said of every label on offer that this picture is not it."
            notices.append(Notice("all_labels_refused", text))
        confidence = prediction.confidence if prediction is not None else 0.0
        version = _version_of(labels, heads)
        return Classification(labels, found.model, n_taught, tuple(notices), confidence, version)

    def _match(
        self, pixels: npt.NDArray[np.uint8], labels: Sequence[str], models: ModelRuntime, *, use_model: bool
    ) -> tuple[npt.NDArray[np.float32], str]:
        """Returns the score of each label, float32, shape (n_labels,), and the models that were used."""
        from smallai_image.zero_shot import class_vectors, conse

        names = self._context.model_names
        if use_model:
            if not names.zero_shot_image:
                raise InvalidInput("zero_shot is 'model' and none is configured", hint="set models.zero_shot_image")
            spec = ModelSpec(names.zero_shot_image, task="zero-shot-image-classification")
            with models.lease(spec, ImageTextModel) as matcher:
                return matcher.match([pixels], labels)[0], str(matcher.spec)
        # One lease after the other: together the two models might not fit into the memory budget.
        with models.lease(self.spec, ImageModel) as model:
            probabilities, classes, used = model.classify([pixels]), model.labels, [str(model.spec)]
        with models.lease(ModelSpec(names.embedding, task="feature-extraction"), EmbeddingModel) as words:
            known = class_vectors(classes, words, self._context.data_dir)
            used.append(str(words.spec))
            return conse(probabilities, known, words.embed(labels))[0], " + ".join(used)


def _known_by(
    heads: Sequence[tuple[Adapter, Head]], features: _PictureFeatures, *, among: Collection[str] | None = None
) -> list[TaughtClasses]:
    """What each head knows of a picture; for `among` see `Head.similarities`."""
    pairs = zip(heads, features.adapted, strict=True)
    return [head.classes(adapted, among=among) for (_, head), adapted in pairs]


def _version_of(labels: Sequence[LabelPart], heads: Sequence[tuple[Adapter, Head]]) -> Adapter | None:
    """The first version that was taught the best label; or else the first of all, whose head competed with it."""
    best = label_key(labels[0].label) if labels else ""
    taught = (version for version, head in heads if best in {label_key(label) for label in head.labels})
    return next(taught, heads[0][0] if heads else None)


def _chosen(prediction: TaughtPrediction | None, among: Collection[str]) -> TaughtPrediction | None:
    """Returns a prediction among the user's labels: who offers taught labels only says that it is one of them."""
    if prediction is None or not set(among) <= {label_key(label) for label in prediction.probabilities}:
        return prediction
    return replace(prediction, confidence=1.0)


def _ranked(scores: npt.NDArray[np.float32], labels: Sequence[str], *, own: bool = False) -> tuple[LabelPart, ...]:
    """Returns the labels best first. A class of the model has its index as id, a label of the user has -1."""
    order = sorted(range(len(labels)), key=lambda i: -float(scores[i]))
    return tuple(LabelPart(labels[i], -1 if own else i, float(scores[i])) for i in order)
