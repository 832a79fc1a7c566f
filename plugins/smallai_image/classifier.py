"""What is on a picture, by all who know something: the model, the adapter that serves, the fast memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
from smallai_image.blending import Likeness, blended, formed, without
from smallai_image.features import Looker, Seen
from smallai_image.feedback import Picture, label_key, read_pictures
from smallai_image.head import Head
from smallai_image.memory import FastMemory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BATCH = 16
_MAX_HEADS = 4
HEAD, LORA = "head", "lora"  # kinds of adapters; both have a head


@dataclass(frozen=True, slots=True)
class Guess:
    """Labels of one picture, best first, and what made them.

    Attributes:
        n_taught: how many pictures of the best label the fast memory holds, where it put that first; else 0.
    """

    labels: tuple[LabelPart, ...]
    model: str
    n_taught: int = 0
    notices: tuple[Notice, ...] = ()


class Guesser:
    """Guesses what is on pictures. Any thread may ask."""

    def __init__(self, context: TaskContext, spec: ModelSpec) -> None:
        self._context = context
        self.spec = spec
        self.looker = Looker()
        self.memory = FastMemory()
        self._lock = threading.Lock()
        self._heads: OrderedDict[str, Head] = OrderedDict()

    def guess(self, picture: Picture, models: ModelRuntime, adapter: Adapter | None) -> Guess:
        """One of the model's own classes, or of those that were taught."""
        head = self.head(adapter) if adapter is not None else None
        if head is None and self.memory.is_empty:  # nothing to compare with: the model's own view is enough
            with models.lease(self.spec, ImageModel) as model:
                return Guess(_ranked(model.classify([picture.pixels])[0], model.labels), str(model.spec))
        self.memory.wake(lambda parts: self.look_at(parts, models))
        with models.lease(self.spec, ImageModel) as model:
            ((seen, worn),) = self._views(model, [picture], adapter)
            guess = Guess(_ranked(seen.shares, model.labels), str(model.spec))
        return self._informed(guess, seen, head, worn)

    def guess_among(
        self,
        picture: Picture,
        labels: Sequence[str],
        models: ModelRuntime,
        adapter: Adapter | None,
        *,
        use_model: bool,
    ) -> Guess:
        """One of the user's labels.

        Args:
            use_model: ask the model that is configured as `zero_shot_image`; else go by the words for the classes.
        """
        scores, name = self._match(picture.pixels, labels, models, use_model=use_model)
        guess = Guess(_ranked(scores, labels, own=True), name)
        head = self.head(adapter) if adapter is not None else None
        if head is None and self.memory.is_empty:
            return guess
        self.memory.wake(lambda parts: self.look_at(parts, models))
        among = {label_key(label) for label in labels}
        with models.lease(self.spec, ImageModel) as model:
            ((seen, worn),) = self._views(model, [picture], adapter)
        return self._informed(guess, seen, head, worn, among=among)

    def alone(self, pictures: Sequence[Picture], models: ModelRuntime, adapter: Adapter | None) -> list[str]:
        """The best label of each picture by the model and the adapter, whatever the fast memory knows."""
        head = self.head(adapter) if adapter is not None else None
        best = []
        for start in range(0, len(pictures), _BATCH):
            with models.lease(self.spec, ImageModel) as model:
                for seen, worn in self._views(model, pictures[start : start + _BATCH], adapter):
                    best.append(_with_head(_ranked(seen.shares, model.labels), head, worn)[0].label)
        return best

    def look_at(self, parts: Sequence[ImagePart], models: ModelRuntime) -> list[Seen | None]:
        """What is seen on each picture; None where it cannot be read."""
        found: list[Seen | None] = []
        for start in range(0, len(parts), _BATCH):
            pictures = read_pictures(parts[start : start + _BATCH])
            with models.lease(self.spec, ImageModel) as model:
                seen = iter(self.looker.look(model, [picture for picture in pictures if picture is not None]))
                found += [None if picture is None else next(seen) for picture in pictures]
        return found

    def head(self, adapter: Adapter) -> Head:
        """The adapter's classifier.

        Raises:
            AdapterMismatch: its files are not of one.
        """
        with self._lock:
            if adapter.id not in self._heads:
                self._heads[adapter.id] = Head.load(adapter.folder)
                while len(self._heads) > _MAX_HEADS:
                    self._heads.popitem(last=False)
            return self._heads[adapter.id]

    def _views(
        self, model: ImageModel, pictures: Sequence[Picture], adapter: Adapter | None
    ) -> list[tuple[Seen, Seen]]:
        """Each picture as the bare model sees it, and as the adapter's classifier wants it."""
        bare = self.looker.look(model, pictures)
        if adapter is None or adapter.kind != LORA:
            return list(zip(bare, bare, strict=True))
        return list(zip(bare, self.looker.look(model, pictures, adapter=adapter), strict=True))

    def _informed(
        self, guess: Guess, seen: Seen, head: Head | None, worn: Seen, *, among: Collection[str] | None = None
    ) -> Guess:
        """The guess by what the head and the fast memory know besides, and less what was refused."""
        alone = _with_head(guess.labels, head, worn, among=among)
        remembered = self.memory.likeness(seen, among=among)
        refused = self.memory.refused(seen)
        labels = without(_with_head(guess.labels, head, worn, remembered=remembered, among=among), refused)
        notices = []
        n_taught = 0
        if labels[0].label != alone[0].label:
            taught = {label_key(label): each.n_pictures for label, each in remembered.items()}
            n_taught = taught.get(label_key(labels[0].label), 0)
            if label_key(alone[0].label) in refused:
                notices.append(Notice("refused_label", f"You said that this is not “{alone[0].label}”."))
            if n_taught:
                shown = f"{n_taught} picture" + ("s" if n_taught > 1 else "")
                notices.append(Notice("taught_label", f"“{labels[0].label}” is what you taught me, with {shown}."))
        return Guess(labels, guess.model, n_taught, tuple(notices))

    def _match(
        self, pixels: npt.NDArray[np.uint8], labels: Sequence[str], models: ModelRuntime, *, use_model: bool
    ) -> tuple[npt.NDArray[np.float32], str]:
        from smallai_image.zero_shot import class_vectors, conse

        names = self._context.model_names
        if use_model:
            if not names.zero_shot_image:
                raise InvalidInput("zero_shot is 'model' and none is configured", hint="set models.zero_shot_image")
            spec = ModelSpec(names.zero_shot_image, task="zero-shot-image-classification")
            with models.lease(spec, ImageTextModel) as matcher:
                return matcher.match([pixels], labels)[0], str(matcher.spec)
        # One lease after the other: together they might not fit the memory budget.
        with models.lease(self.spec, ImageModel) as model:
            probabilities, classes, used = model.classify([pixels]), model.labels, [str(model.spec)]
        with models.lease(ModelSpec(names.embedding, task="feature-extraction"), EmbeddingModel) as words:
            known = class_vectors(classes, words, self._context.data_dir)
            used.append(str(words.spec))
            return conse(probabilities, known, words.embed(labels))[0], " + ".join(used)


def _with_head(
    guesses: tuple[LabelPart, ...],
    head: Head | None,
    worn: Seen,
    *,
    remembered: Mapping[str, Likeness] | None = None,
    among: Collection[str] | None = None,
) -> tuple[LabelPart, ...]:
    if head is None:
        return blended(guesses, formed(remembered or {}))
    learned, shares = head.likeness(worn, among=among), head.shares(worn, among=among)
    return blended(guesses, formed(remembered or {}, learned, shares))


def _ranked(scores: npt.NDArray[np.float32], labels: Sequence[str], *, own: bool = False) -> tuple[LabelPart, ...]:
    """Best first; the user's own labels have no number."""
    order = sorted(range(len(labels)), key=lambda i: -float(scores[i]))
    return tuple(LabelPart(labels[i], -1 if own else i, float(scores[i])) for i in order)
