"""Corrections into weights: a linear head on the frozen network, or on one that wears LoRA weights of its own."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import numpy as np
from PIL import Image, ImageEnhance

from smallai_assistant import Adapter, AssistantError, Example, ImageModel, ModelSpec, Training, errors
from smallai_image.classifier import HEAD, LORA
from smallai_image.examples import Labelled
from smallai_image.features import Looker, border_color, squared
from smallai_image.feedback import label_key, log, read_picture
from smallai_image.head import fit

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    ImageArray = npt.NDArray[np.uint8]

# The picture and three changed ones. By `python -m bench.teach_image`, five pictures each, these make the head right on
# 87.4 instead of 87.0 % of pictures that were changed so themselves, and on 90.5 instead of 91.1 % of those that were
# not; on twenty other kinds on 79.7 instead of 79.0 and on 82.5 instead of 81.8 %.
N_VIEWS = 4
_MIN_LABELS = 2
_TUNE_PIXELS = 320


@runtime_checkable
class TunableModel(Protocol):
    """An image model that can wear LoRA weights, and be given them."""

    can_tune: bool

    def tune(self, pictures: Sequence[ImageArray], classes: Sequence[int], training: Training) -> None: ...


def train(training: Training, spec: ModelSpec, looker: Looker) -> str:
    """Writes a head, and for a transformers model LoRA weights beside it, into `training.folder`. Returns the kind.

    Raises:
        NotEnoughData: fewer than two labels.
        TrainingFailed: the loss became NaN.
        Cancelled: the training was stopped; what it had is kept in `training.work_folder`.
    """
    examples = [example for example in (*training.examples, *training.replay) if isinstance(example.payload, Labelled)]
    _check_labels(examples)
    training.yield_to_serving()
    tuned = _tuned(training, spec, examples)
    used, rows = [], []
    try:
        for example, views in _looked_at(training, spec, looker, _in_turn(examples), tuned):
            used.append(example)
            rows.append(views)
        _check_labels(used)
        head = fit(
            np.stack(rows),
            [each.payload.label for each in used],
            [each.weight for each in used],
            on_trial=lambda share, setting, loss: training.progress(
                "fitting the head", 0.9 + 0.1 * share, loss=loss, setting=setting
            ),
        )
    finally:
        if tuned is not None:
            training.models.retire_adapter(tuned.id)
    if not all(np.isfinite(each).all() for each in (head.means, head.weights, head.center)):
        raise errors.TrainingFailed("the head holds NaN")
    head.save(training.folder)
    return HEAD if tuned is None else LORA


def _check_labels(examples: Sequence[Example]) -> None:
    labels = {label_key(example.payload.label) for example in examples}
    if len(labels) < _MIN_LABELS:
        raise errors.NotEnoughData(
            f"{len(examples)} pictures with {len(labels)} label: it takes {_MIN_LABELS} to tell them apart",
            hint="teach pictures of another kind of thing, too",
        )


def _tuned(training: Training, spec: ModelSpec, examples: Sequence[Example]) -> Adapter | None:
    """LoRA weights that tell the classes apart, in `training.folder`; None where the model cannot wear them."""
    with training.models.lease(spec, ImageModel) as model:
        if not isinstance(model, TunableModel) or not model.can_tune:
            return None
        if importlib.util.find_spec("peft") is None:
            log.warning("peft is not installed, so only a head is trained: pip install 'smallai-assistant[train]'")
            return None
        keys = list(dict.fromkeys(label_key(example.payload.label) for example in examples))
        pictures, classes = [], []
        for example in examples:
            if (pixels := _read(example)) is not None:
                small = Image.fromarray(squared(pixels)).resize((_TUNE_PIXELS, _TUNE_PIXELS))
                pictures.append(np.asarray(small, np.uint8))
                classes.append(keys.index(label_key(example.payload.label)))
        cast("TunableModel", model).tune(pictures, classes, training)
    # It has no id yet; the model wears it under this one to look at the pictures with it.
    name = f"{training.folder.name}-candidate"
    return Adapter(name, spec.task, LORA, training.folder, base={}, files={}, created_at=datetime.now(UTC))


def _looked_at(
    training: Training, spec: ModelSpec, looker: Looker, examples: Sequence[Example], tuned: Adapter | None
) -> Iterator[tuple[Example, FloatArray]]:
    """Each picture's views as vectors, shape (N_VIEWS, n_dimensions); what was looked at before a kill is kept."""
    labels: set[str] = set()
    for number, example in enumerate(examples):
        if training.is_out_of_time and len(labels) >= _MIN_LABELS:
            return
        training.yield_to_serving()
        kept = training.work_folder / f"{example.id}.npy"
        views = _load(kept) if tuned is None else None
        if views is None:
            pixels = _read(example)
            if pixels is None:
                continue
            pictures = [pixels, *changed(pixels, N_VIEWS - 1, seed=training.seed)]
            with training.models.lease(spec, ImageModel) as model:
                views = looker.views(model, pictures, adapter=tuned)
            _keep(views, kept)
        labels.add(label_key(example.payload.label))
        done = (number + 1) / len(examples)
        training.progress("looking at the pictures", 0.9 * done if tuned is None else 0.6 + 0.3 * done)
        yield example, views


def changed(pixels: ImageArray, n: int, *, seed: int = 0) -> Iterable[ImageArray]:
    """`n` pictures of the same: flipped, turned up to 20 degrees, cropped to 70 % or more, brighter or paler."""
    random = np.random.default_rng(seed)
    for _ in range(n):
        image = Image.fromarray(squared(pixels))
        for enhance, most in ((ImageEnhance.Brightness, 0.2), (ImageEnhance.Contrast, 0.2), (ImageEnhance.Color, 0.4)):
            image = enhance(image).enhance(random.uniform(1 - most, 1 + most))
        fill = tuple(int(each) for each in border_color(pixels))
        image = image.rotate(random.uniform(-20, 20), resample=Image.Resampling.BILINEAR, fillcolor=fill)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        side = max(1, round(random.uniform(0.7, 1.0) * image.width))
        left, top = (int(random.integers(0, image.width - side + 1)) for _ in range(2))
        yield np.asarray(image.crop((left, top, left + side, top + side)), np.uint8)


def _in_turn(examples: Sequence[Example]) -> list[Example]:
    """One of each label after the other, so that a budget that ends early leaves out no label."""
    piles: dict[str, list[Example]] = {}
    for example in examples:
        piles.setdefault(label_key(example.payload.label), []).append(example)
    rounds = max(map(len, piles.values()), default=0)
    return [pile[i] for i in range(rounds) for pile in piles.values() if i < len(pile)]


def _read(example: Example) -> ImageArray | None:
    try:
        return read_picture(example.payload.part).pixels
    except AssistantError as error:
        log.warning("%s is not learned: %s", example.prompt, error)
        return None


def _load(file: Path) -> FloatArray | None:
    try:
        views: FloatArray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return views if views.ndim == 2 and len(views) == N_VIEWS and np.isfinite(views).all() else None


def _keep(views: FloatArray, file: Path) -> None:
    """Whole or not at all: a kill may come at any moment."""
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, views)
    os.replace(partial, file)
