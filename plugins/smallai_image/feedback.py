"""What a feedback says of a picture: what is on it, or what is not."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smallai_assistant import AssistantError, ImagePart, JudgedTurn, LabelPart, Turn, errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger(__name__)

MAX_LABEL_CHARS = 200
_LEAD_IN = re.compile(
    r"^(?:(?:no|nope|wrong|actually|sorry)\b[\s,.:!-]+)*(?:(?:it|this|that)(?:\s+is|\s+was|['’]s)\s+)?"
    r"(?:(?:really|actually)\s+)?(?:(?:an?|the)\s+)?",
    re.IGNORECASE,
)
_AROUND = " \t\"'“”‘’«»`.,;:!?"


@dataclass(frozen=True, slots=True)
class Saying:
    """What a feedback says of one picture.

    Attributes:
        kind: the picture `is` the label, is `not`, or the label was `praised`.
        is_first_word: nothing was guessed before: the picture was taught.
    """

    part: ImagePart
    label: str
    kind: Literal["is", "not", "praised"]
    feedback_id: str
    is_first_word: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        key: sha256 of its file.
        pixels: RGB, uint8, shape (height, width, 3).
    """

    key: str
    pixels: npt.NDArray[np.uint8]


def label_key(label: str) -> str:
    """What makes two labels one: case and spaces do not count."""
    return " ".join(label.split()).casefold()


def tidy_label(text: str) -> str:
    """The label in a correction: `llama` of "No, it's a llama!".

    Raises:
        InvalidInput: it is empty, too long for a label, or holds what cannot be shown.
    """
    folded = " ".join(text.split())
    label = _LEAD_IN.sub("", folded.strip(_AROUND), count=1).strip(_AROUND) or folded.strip(_AROUND)
    if not 0 < len(label) <= MAX_LABEL_CHARS:
        raise errors.InvalidInput(
            f"a label of {len(label):,} characters", hint=f"name what is on the picture in 1 to {MAX_LABEL_CHARS}"
        )
    if not re.search(r"\w", label) or not label.isprintable():
        raise errors.InvalidInput(f"{label!r} names nothing", hint="name what is on the picture")
    return label


def pictures_of(turn: Turn) -> list[ImagePart]:
    """The pictures that the turn is about."""
    return [part for part in turn.request.parts if isinstance(part, ImagePart)]


def best_label(turn: Turn) -> str | None:
    """What the turn answered; None where it has no label or is of several pictures, whose labels follow each other."""
    if len(pictures_of(turn)) != 1:
        return None
    return next((part.label for part in turn.response if isinstance(part, LabelPart)), None)


def said(judged_turn: JudgedTurn) -> list[Saying]:
    """What the lesson says of its pictures; empty where it says nothing that can be learned.

    Raises:
        InvalidInput: the correction is no label, or it is not clear which of several pictures it is for.
    """
    given, turn = judged_turn.feedback, judged_turn.turn
    pictures, best = pictures_of(turn), best_label(turn)
    was_taught = bool(turn.details.get("taught"))
    if not pictures:
        return []
    if given.correction is not None:
        label = tidy_label(given.correction)
        if len(pictures) > 1 and not was_taught:
            raise errors.InvalidInput(
                f"a correction of {len(pictures)} pictures at once", hint="ask about one picture, then correct it"
            )
        sayings = [Saying(part, label, "is", given.id, was_taught) for part in pictures]
        if best is not None and label_key(best) != label_key(label):
            sayings.append(Saying(pictures[0], best, "not", given.id))
        return sayings
    if given.is_good is None or best is None or turn.error is not None:
        return []
    return [Saying(pictures[0], best, "praised" if given.is_good else "not", given.id)]


def all_said(judged_turns: Iterable[JudgedTurn]) -> list[Saying]:
    """What the lessons say, oldest first; those that cannot be used are left out, and the log says so."""
    found = []
    for judged_turn in judged_turns:
        try:
            found += said(judged_turn)
        except AssistantError as error:
            log.info("the feedback %s teaches nothing: %s", judged_turn.feedback.id, error)
    return found


def read_picture(part: ImagePart) -> Picture:
    """Decodes a picture.

    Raises:
        InvalidInput: it is gone.
        InvalidImage: it is no whole picture.
    """
    from smallai_image.decode import decode

    data = part.read()
    return Picture(hashlib.sha256(data).hexdigest(), decode(data, name=part.name).pixels)


def read_pictures(parts: Sequence[ImagePart]) -> list[Picture | None]:
    """Decodes several; None where one cannot be read, and the log says so."""
    found: list[Picture | None] = []
    for part in parts:
        try:
            found.append(read_picture(part))
        except AssistantError as error:
            log.warning("a picture of an earlier feedback cannot be used: %s", error)
            found.append(None)
    return found
