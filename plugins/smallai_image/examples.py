"""What feedback on pictures teaches for good: examples to train on and to be asked, and what must not get worse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smallai_assistant import AssistantError, Example, ImagePart, JudgedTurn, Score
from smallai_image.containers import read_header
from smallai_image.decode import MAX_PIXELS
from smallai_image.feedback import (
    Picture,
    all_said,
    best_label,
    label_key,
    log,
    pictures_of,
    read_pictures,
)

_BATCH = 16
PRAISED, UNQUESTIONED = "praised pictures", "pictures nobody corrected"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and what is on it; the payload of an Example."""

    part: ImagePart
    label: str


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """One example a picture that was taught or corrected, by the newest word on it; what cannot be read is left out."""
    newest: dict[str, tuple[Labelled, list[str]]] = {}
    for saying in all_said(judged_turns):
        if saying.kind == "praised" or (key := _digest(saying.part)) is None:
            continue
        known, ids = newest.get(key, (None, []))
        if saying.kind == "is":
            is_same = known is not None and label_key(known.label) == label_key(saying.label)
            newest.pop(key, None)  # its place is that of the newest word
            newest[key] = (Labelled(saying.part, saying.label), [*(ids if is_same else ()), saying.feedback_id])
        elif known is not None and label_key(known.label) == label_key(saying.label):
            del newest[key]
    return [_example(key, labelled, ids) for key, (labelled, ids) in newest.items()]


def protected_of(judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
    """Praised answers, and the answers to pictures that were commented but neither corrected nor refused."""
    corrected = {_digest(saying.part) for saying in all_said(judged_turns) if saying.kind != "praised"}
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
            key, Labelled(part, best), [judged_turn.feedback.id]
        )
    for key in slices[PRAISED]:
        slices[UNQUESTIONED].pop(key, None)
    return {name: list(found.values()) for name, found in slices.items() if found}


def evaluated(examples: Sequence[Example], label: Callable[[Sequence[Picture]], list[str]]) -> list[Score]:
    """1 where the best label is the right one, else 0; a picture that cannot be read is wrong before and after.

    Args:
        label: the best label of each picture.
    """
    scores: list[Score] = []
    for start in range(0, len(examples), _BATCH):  # decoded pictures are large
        batch = examples[start : start + _BATCH]
        pictures = read_pictures([each.payload.part for each in batch])
        answers = iter(label([picture for picture in pictures if picture is not None]))
        for example, picture in zip(batch, pictures, strict=True):
            answer = "" if picture is None else next(answers)
            is_right = picture is not None and label_key(answer) == label_key(example.expected)
            scores.append(Score(float(is_right), answer))
    return scores


def _example(key: str, labelled: Labelled, ids: Sequence[str]) -> Example:
    return Example(
        id=f"picture-{key[:16]}",
        prompt=f"picture {key[:16]}",  # the same picture is the same question, whatever its file is called
        expected=labelled.label,
        split_key=key,
        feedback_ids=tuple(dict.fromkeys(ids)),
        payload=labelled,
        media=(labelled.part,),
    )


def _digest(part: ImagePart) -> str | None:
    """The sha256 of the file; None where it is gone or no picture."""
    try:
        data = part.read()
        read_header(data, name=part.name, max_pixels=MAX_PIXELS)
    except AssistantError as error:
        log.warning("a picture of an earlier feedback is left out: %s", error)
        return None
    return hashlib.sha256(data).hexdigest()
