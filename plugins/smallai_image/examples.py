"""Turns feedback on pictures into examples, defines the protected ones, and scores answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smallai_assistant import AssistantError, Example, ImagePart, JudgedTurn, Score
from smallai_image.containers import read_header
from smallai_image.decode import MAX_PIXELS
from smallai_image.feedback import (
    Picture,
    all_label_feedback,
    best_label,
    label_key,
    log,
    pictures_of,
    read_pictures,
)

if TYPE_CHECKING:
    from smallai_image.features import Features

# Decoded pictures are large: at most this many are in memory at once.
_BATCH = 16
PRAISED, UNQUESTIONED = "praised pictures", "pictures nobody corrected"  # names of the protected slices


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture and its right label; the payload of an example."""

    part: ImagePart
    label: str


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """Returns one example for each picture that was taught or corrected, with its newest label.

    Pictures that cannot be read are skipped and logged. A picture whose label was refused later has no example.
    """
    newest: dict[str, tuple[LabelledPicture, list[str]]] = {}
    for item in all_label_feedback(judged_turns):
        if item.kind == "praised" or (key := _digest(item.part)) is None:
            continue
        known, ids = newest.get(key, (None, []))
        if item.kind == "labelled":
            is_same = known is not None and label_key(known.label) == label_key(item.label)
            newest.pop(key, None)  # examples are in the order of the newest feedback
            newest[key] = (LabelledPicture(item.part, item.label), [*(ids if is_same else ()), item.feedback_id])
        elif known is not None and label_key(known.label) == label_key(item.label):
            del newest[key]
    return [_example(key, labelled, ids) for key, (labelled, ids) in newest.items()]


def with_subjects(examples: Sequence[Example], features: Sequence[Features | None]) -> list[Example]:
    """Returns the examples with one subject for all copies of a picture: they are one piece of evidence.

    Args:
        features: of each example's picture; None for a picture that cannot be read.
    """
    found: list[Example] = []
    known: list[tuple[Features, int]] = []  # of the first of each picture, with its index
    for example, own in zip(examples, features, strict=True):
        first = next((i for other, i in known if own is not None and own.is_same_picture(other)), None)
        if first is None:
            if own is not None:
                known.append((own, len(found)))
            found.append(example)
            continue
        found[first] = replace(found[first], subject=found[first].split_key)
        found.append(replace(example, subject=found[first].subject))
    return found


def protected_of(judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
    """Returns the protected slices by name: praised answers, and answers that were commented but not corrected."""
    corrected = {_digest(item.part) for item in all_label_feedback(judged_turns) if item.kind != "praised"}
    slices: dict[str, dict[str, Example]] = {PRAISED: {}, UNQUESTIONED: {}}
    for judged_turn in judged_turns:
        best = best_label(judged_turn.turn)
        if best is None or judged_turn.turn.error is not None:
            continue
        (part,) = pictures_of(judged_turn.turn)
        key = _digest(part)
        if key is None or key in corrected:
            continue
        is_praised = judged_turn.feedback.is_good is True
        slices[PRAISED if is_praised else UNQUESTIONED][key] = _example(
            key, LabelledPicture(part, best), [judged_turn.feedback.id]
        )
    # A picture that was both praised and commented counts once, as praised.
    for key in slices[PRAISED]:
        slices[UNQUESTIONED].pop(key, None)
    return {name: list(found.values()) for name, found in slices.items() if found}


def evaluate(examples: Sequence[Example], classify: Callable[[Sequence[Picture]], list[str]]) -> list[Score]:
    """Scores 1 if the best label is the right one, else 0.

    A picture that cannot be read scores 0 before and after training, so that it does not change the comparison.

    Args:
        classify: returns the best label of each picture.
    """
    scores: list[Score] = []
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        pictures = read_pictures([example.payload.part for example in batch])
        answers = iter(classify([picture for picture in pictures if picture is not None]))
        for example, picture in zip(batch, pictures, strict=True):
            answer = "" if picture is None else next(answers)
            is_right = picture is not None and label_key(answer) == label_key(example.expected)
            scores.append(Score(float(is_right), answer))
    return scores


def _example(key: str, labelled: LabelledPicture, ids: Sequence[str]) -> Example:
    return Example(
        id=f"picture-{key[:16]}",
        # By content and not by file name: copies of a picture must stay on one side of the split.
        prompt=f"picture {key[:16]}",
        expected=labelled.label,
        split_key=key,
        feedback_ids=tuple(dict.fromkeys(ids)),
        payload=labelled,
        media=(labelled.part,),
    )


def _digest(part: ImagePart) -> str | None:
    """Returns the sha256 of the picture's file; None if the file is gone or is not a picture."""
    try:
        data = part.read()
        # The header is checked without decoding a pixel: a cycle calls this for every picture ever judged.
        read_header(data, name=part.name, max_pixels=MAX_PIXELS)
    except AssistantError as error:
        log.warning("a picture of earlier feedback is skipped: %s", error)
        return None
    return hashlib.sha256(data).hexdigest()
