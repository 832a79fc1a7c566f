"""Kinds of pictures that no constant was chosen on: `python -m bench.unseen_kinds [--cycle | --calibrate]`.

Of five families with five kinds each, five pictures of each kind are taught and the rest is asked freely, ten times
with fixed seeds. The figure is the share of right answers, relative to that of the nearest prototype among the taught
labels: the class mean of the model's embedding, and that of the plugin's own vectors. The 20 ImageNet photos are asked
beside them and must keep their labels. `--cycle` runs a learning cycle after each teaching, through the assistant, and
counts the promoted ones. `--calibrate` prints how the constants of `blending` follow from other families.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.data import imagenet_photos
from bench.image import SPEC, TASK
from bench.picture_families import Family, calibration_families, named_pictures, report_families
from bench.teach_image import N_DRAWS, best, draws, top
from smallai_assistant import Assistant, ImageModel, ImagePart, LabelPart
from smallai_image.blending import MIDPOINT, SLOPE, predict_taught
from smallai_image.engine import EfficientNetLite
from smallai_image.features import FeatureExtractor, Features
from smallai_image.feedback import LabelFeedback, read_picture
from smallai_image.memory import FastMemory

SHOTS = 5
# A photo that gets a taught label is right if it is of that kind: of the stamps in `household`, one is a measuring
# cylinder, and one photo shows a beaker.
RIGHT_TOO = {("household", 438)}
WANTED_RATIO, WANTED_PHOTOS, WANTED_PROMOTED = 0.97, 18, 9
FloatArray = npt.NDArray[np.float64]


class Pictures(NamedTuple):
    """Pictures with their labels and features."""

    files: list[bytes]
    labels: npt.NDArray[np.str_]
    features: list[Features]


@dataclass(frozen=True, slots=True)
class Figures:
    """The shares of right answers, means over the draws.

    Attributes:
        free: asked freely, with the model's own classes competing.
        taught: asked among the taught labels.
        embedding, vectors: nearest prototype among the taught labels, by the model's embedding and by our vectors.
        photos: minimum number of the 20 photos whose label is right.
    """

    free: float
    taught: float
    embedding: float
    vectors: float
    photos: int

    @property
    def ratio(self) -> float:
        """The free answers relative to the nearest prototype; the smaller of both ratios."""
        return self.free / max(self.embedding, self.vectors)


def extract(assistant: Assistant, files: Sequence[bytes], labels: Sequence[str]) -> Pictures:
    """Computes the features of all pictures."""
    extractor = FeatureExtractor()
    features = []
    with assistant.models.lease(SPEC, ImageModel) as model:
        for data in files:
            features += extractor.extract(model, [read_picture(ImagePart(data=data))])
    return Pictures(list(files), np.array(labels), features)


def extract_family(assistant: Assistant, family: Family) -> Pictures:
    """Computes the features of a family's pictures."""
    rows = [(data, kind) for kind, files in family.items() for data in files]
    return extract(assistant, [data for data, _ in rows], [kind for _, kind in rows])


def memory_of(pictures: Pictures, taught: Sequence[int]) -> FastMemory:
    """Returns a fast memory that was taught these pictures."""
    memory = FastMemory()
    rows = [
        LabelFeedback(ImagePart(data=pictures.files[i]), str(pictures.labels[i]), "labelled", str(i)) for i in taught
    ]
    memory.learn(rows, lambda _: [pictures.features[i] for i in taught])
    return memory


def nearest_prototype(vectors: FloatArray, labels: npt.NDArray[np.str_], taught: list[int], asked: list[int]) -> float:
    """Returns the share of asked pictures whose nearest class mean is right."""
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    names = sorted(set(labels[taught]))
    means = np.stack([rows[[i for i in taught if labels[i] == name]].mean(0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return float(np.mean(np.array(names)[(rows[asked] @ means.T).argmax(1)] == labels[asked]))


def measure(pictures: Pictures, photos: Pictures, names: Sequence[str]) -> Figures:
    """Teaches and asks a family in every draw."""
    vectors = np.stack([features.vector for features in pictures.features]).astype(np.float64)
    embedding = vectors[:, : EfficientNetLite.n_dimensions]
    truths = [int(label) for label in photos.labels]
    rows = []
    for taught, asked in draws(pictures.labels, SHOTS):
        memory = memory_of(pictures, taught)
        free = among = 0
        for i in asked:
            prediction = predict_taught(memory.classes(pictures.features[i]))
            free += top(prediction, pictures.features[i], names).label == pictures.labels[i]
            among += best(prediction) == pictures.labels[i]
        tops = [top(predict_taught(memory.classes(features)), features, names) for features in photos.features]
        rows.append(
            (
                free / len(asked),
                among / len(asked),
                nearest_prototype(embedding, pictures.labels, taught, asked),
                nearest_prototype(vectors, pictures.labels, taught, asked),
                sum(a.id == b or (a.label, b) in RIGHT_TOO for a, b in zip(tops, truths, strict=True)),
            )
        )
    columns = list(zip(*rows, strict=True))
    free_share, taught_share, by_embedding, by_vectors = (round(statistics.mean(column), 3) for column in columns[:4])
    return Figures(free_share, taught_share, by_embedding, by_vectors, int(min(columns[4])))


def ask_for_real(assistant: Assistant, pictures: Pictures) -> tuple[float, float]:
    """Teaches the first draw through the assistant. Returns the shares of right answers, free and among the taught."""
    taught, asked = next(draws(pictures.labels, SHOTS))
    given = [
        assistant.teach(TASK, ImagePart(data=pictures.files[i]), str(pictures.labels[i])).feedback.id for i in taught
    ]
    shares = []
    for options in ({}, {"taught": True}):
        right = 0
        for i in asked:
            parts = assistant.ask(ImagePart(data=pictures.files[i]), task=TASK, options=options).parts
            right += next(part.label for part in parts if isinstance(part, LabelPart)) == pictures.labels[i]
        shares.append(right / len(asked))
    assistant.erase_feedback(given)
    return shares[0], shares[1]


# -- a cycle for each draw --


@dataclass(frozen=True, slots=True)
class CycleFigures:
    """What learning cycles made of a family.

    Attributes:
        n_promoted: how many of the ten draws' cycles were promoted.
        free: the share of right answers after the cycle, asked freely, mean over the draws.
        prototype: that of the nearest prototype among the taught labels, the better of two kinds of vectors.
        judged: the share of right answers by which the gate decided, mean over the draws.
        seconds: the longest cycle.
    """

    n_promoted: int
    free: float
    prototype: float
    judged: float
    seconds: float

    @property
    def ratio(self) -> float:
        """The free answers relative to the nearest prototype."""
        return self.free / self.prototype


def run_cycles(assistant: Assistant, pictures: Pictures) -> CycleFigures:
    """Teaches every draw through the assistant, runs a cycle, asks the rest, and erases what was taught."""
    vectors = np.stack([features.vector for features in pictures.features]).astype(np.float64)
    embedding = vectors[:, : EfficientNetLite.n_dimensions]
    rows, n_promoted = [], 0
    for taught, asked in draws(pictures.labels, SHOTS):
        given = [
            assistant.teach(TASK, ImagePart(data=pictures.files[i]), str(pictures.labels[i])).feedback.id
            for i in taught
        ]
        report = assistant.learn(TASK)
        n_promoted += report.is_promoted
        free = 0
        for i in asked:
            parts = assistant.ask(ImagePart(data=pictures.files[i]), task=TASK).parts
            free += next(part.label for part in parts if isinstance(part, LabelPart)) == pictures.labels[i]
        prototypes = [nearest_prototype(found, pictures.labels, taught, asked) for found in (embedding, vectors)]
        rows.append((free / len(asked), *prototypes, report.slices[0].after, report.seconds))
        assistant.erase_feedback(given)
    columns = list(zip(*rows, strict=True))
    free_share, by_embedding, by_vectors, judged = (round(statistics.mean(column), 3) for column in columns[:4])
    return CycleFigures(n_promoted, free_share, max(by_embedding, by_vectors), judged, round(max(columns[4]), 1))


def cycle_main(assistant: Assistant, families: Mapping[str, Family]) -> int:
    """Prints the figures of the cycles and a JSON line. Returns 1 if a figure is missed, else 0."""
    found: dict[str, CycleFigures] = {}
    for name, family in families.items():
        found[name] = row = run_cycles(assistant, extract_family(assistant, family))
        print(
            f"{name:14} promoted {row.n_promoted} of {N_DRAWS}, free {row.free:.1%}, nearest prototype "
            f"{row.prototype:.1%}: {row.ratio:.1%} of it; judged {row.judged:.1%}; at most {row.seconds} s",
            flush=True,
        )
    fewest, lowest = min(row.n_promoted for row in found.values()), min(row.ratio for row in found.values())
    print(f"  fewest promoted {fewest} (at least {WANTED_PROMOTED}), lowest ratio {lowest:.1%} ({WANTED_RATIO:.0%})")
    table = {name.replace(" ", "_"): asdict(row) for name, row in found.items()}
    print(json.dumps({"bench": "unseen_kinds --cycle", "promoted": fewest, "lowest_ratio": round(lowest, 3), **table}))
    return 0 if fewest >= WANTED_PROMOTED and lowest >= WANTED_RATIO else 1


# -- calibration --


class Asked(NamedTuple):
    """What was asked on one side, the taught kinds or other things, as arrays with a value for each picture.

    Attributes:
        ratio: similarity relative to what is usual for the class, the largest of the classes.
        right: the score of the right label among the labels of its side.
        taught, own: the best score among the taught labels, and among the model's own.
        is_best_right: whether the best label of its side is the right one.
    """

    ratio: FloatArray
    right: FloatArray
    taught: FloatArray
    own: FloatArray
    is_best_right: FloatArray


class Draw(NamedTuple):
    """One draw of a calibration family.

    Attributes:
        kinds: the family's other pictures.
        things: pictures of other things, whose label by the model is right.
        prototype: the share that the nearest prototype gets right, the better of both.
    """

    shots: int
    kinds: Asked
    things: Asked
    prototype: float


def calibrate(assistant: Assistant) -> None:
    """Prints the likelihood of the right labels for slopes and midpoints, and what follows from prior odds."""
    with assistant.models.lease(SPEC, ImageModel) as model:
        names = model.labels
    named = named_pictures(names)
    known = extract(assistant, [data for _, data in named], [str(index) for index, _ in named])
    stay = [i for i, found in enumerate(known.features) if int(known.labels[i]) == int(found.probabilities.argmax())]
    print(f"{len(stay)} of {len(named)} named pictures have the right label by the model")
    found = {
        name: list(_draws_of(extract_family(assistant, family), known, stay))
        for name, family in calibration_families().items()
    }
    every = [draw for rows in found.values() for draw in rows]
    table = [
        (statistics.mean(_loss(draw, slope, midpoint) for draw in every), slope, midpoint)
        for slope in (8.0, 10.0, 12.0, 14.0)
        for midpoint in (0.70, 0.74, 0.78, 0.82)
    ]
    for loss, slope, midpoint in sorted(table)[:5]:
        print(f"  slope {slope:4.0f}, midpoint {midpoint:.2f}: {loss:.3f} nats lost in the mean")
    for odds in (1.0, 2.0, 3.0, 4.0):
        ratios, kept = [], []
        for rows in found.values():
            five = [draw for draw in rows if draw.shots == SHOTS]
            right = statistics.mean(float(np.mean(_wins(draw.kinds, odds) * draw.kinds.is_best_right)) for draw in five)
            ratios.append(right / statistics.mean(draw.prototype for draw in five))
            kept.append(statistics.mean(1 - float(_wins(draw.things, odds).mean()) for draw in five))
        print(
            f"  prior odds {odds:.0f}: free answers {statistics.mean(ratios):.1%} of the nearest prototype (lowest "
            f"{min(ratios):.1%}), other things keep their label {statistics.mean(kept):.1%}"
        )


def _draws_of(pictures: Pictures, known: Pictures, stay: Sequence[int]) -> Iterator[Draw]:
    own = {features.key for features in pictures.features}
    others = [i for i in stay if known.features[i].key not in own]
    vectors = np.stack([features.vector for features in pictures.features]).astype(np.float64)
    for shots in (1, 3, SHOTS):
        for taught, asked in draws(pictures.labels, shots):
            memory = memory_of(pictures, taught)
            prototype = max(
                nearest_prototype(rows, pictures.labels, taught, asked)
                for rows in (vectors, vectors[:, : EfficientNetLite.n_dimensions])
            )
            kinds = _asked(memory, [pictures.features[i] for i in asked], [str(pictures.labels[i]) for i in asked])
            yield Draw(shots, kinds, _asked(memory, [known.features[i] for i in others], None), prototype)


def _asked(memory: FastMemory, every: Sequence[Features], labels: Sequence[str] | None) -> Asked:
    """Asks pictures of taught kinds, or without labels pictures whose label by the model is right."""
    rows = []
    for number, features in enumerate(every):
        classes = memory.classes(features)
        prediction = predict_taught(classes)
        own, taught = float(features.probabilities.max()), max(prediction.probabilities.values()) if prediction else 0.0
        right = prediction.probabilities[labels[number]] if prediction and labels else own
        ratio = max(found.similarity / found.usual for found in classes.similarities.values())
        rows.append((ratio, right, taught, own, float(right == (taught if labels else own))))
    return Asked(*np.array(rows).T)


def _loss(draw: Draw, slope: float, midpoint: float) -> float:
    """Returns the mean loss of the right label in nats, with the two sides weighing the same."""
    for_taught = _logistic(slope * (draw.kinds.ratio - midpoint)) * draw.kinds.right
    for_own = _logistic(-slope * (draw.things.ratio - midpoint)) * draw.things.right
    # Bounded, so that a single picture that looks like nothing taught does not decide.
    return -sum(float(np.log(np.maximum(side, 1e-3)).mean()) for side in (for_taught, for_own))


def _wins(asked: Asked, odds: float) -> FloatArray:
    """Whether the best label is a taught one, by the plugin's slope and midpoint."""
    is_taught = _logistic(SLOPE * (asked.ratio - MIDPOINT) + np.log(odds))
    return (is_taught * asked.taught > (1 - is_taught) * asked.own).astype(np.float64)


def _logistic(values: FloatArray) -> FloatArray:
    found: FloatArray = 1 / (1 + np.exp(-values))
    return found


def main() -> int:
    """Prints the figures and a JSON line. Returns 1 if a figure is missed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycle", action="store_true", help="run a learning cycle for each draw, and end")
    parser.add_argument("--calibrate", action="store_true", help="print how the constants were chosen, and end")
    with tempfile.TemporaryDirectory() as folder, Assistant(data_dir=Path(folder)) as assistant:
        arguments = parser.parse_args()
        if arguments.calibrate:
            calibrate(assistant)
            return 0
        if arguments.cycle:
            return cycle_main(assistant, report_families())
        with assistant.models.lease(SPEC, ImageModel) as model:
            names = model.labels
        photos = extract(
            assistant,
            [path.read_bytes() for path, _ in imagenet_photos()],
            [str(index) for _, index in imagenet_photos()],
        )
        families = {name: extract_family(assistant, family) for name, family in report_families().items()}
        found = {name: measure(pictures, photos, names) for name, pictures in families.items()}
        for name, figures in found.items():
            print(
                f"{name:14} free {figures.free:.1%}, among the taught {figures.taught:.1%}, nearest prototype "
                f"{figures.embedding:.1%} (embedding) {figures.vectors:.1%} (vectors): {figures.ratio:.1%} of the "
                f"better one; photos {figures.photos}",
                flush=True,
            )
        real = ask_for_real(assistant, families["signs"])
        print(f"signs through the assistant, one draw: free {real[0]:.1%}, among the taught {real[1]:.1%}")
    lowest, photos_kept = min(row.ratio for row in found.values()), min(row.photos for row in found.values())
    print(f"  lowest ratio {lowest:.1%} (at least {WANTED_RATIO:.0%}), photos {photos_kept} (at least {WANTED_PHOTOS})")
    print(json.dumps({"bench": "unseen_kinds", "lowest_ratio": lowest, "photos": photos_kept, **_rows(found)}))
    return 0 if lowest >= WANTED_RATIO and photos_kept >= WANTED_PHOTOS else 1


def _rows(found: Mapping[str, Figures]) -> dict[str, object]:
    return {
        name.replace(" ", "_"): {"free": row.free, "taught": row.taught, "ratio": round(row.ratio, 3)}
        for name, row in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
