"""Reads feedback on pictures: what is on a picture, or what is not."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smallai_assistant import AssistantError, ImagePart, JudgedTurn, LabelPart, Turn, errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger(__name__)

MAX_LABEL_CHARS = 200
# What people write before the label: "No, it's really a llama".
_LEAD_IN = re.compile(
    r"^(?:(?:no|nope|wrong|actually|sorry)\b[\s,.:!-]+)*(?:(?:it|this|that)(?:\s+is|\s+was|['’]s)\s+)?"
    r"(?:(?:really|actually)\s+)?(?:(?:an?|the)\s+)?",
    re.IGNORECASE,
)
_SURROUNDING = " \t\"'“”‘’«»`.,;:!?"

# `labelled`: the label is on the picture. `refused`: it is not. `praised`: the answer was right.
FeedbackKind = Literal["labelled", "refused", "praised"]


@dataclass(frozen=True, slots=True)
class LabelFeedback:
    """What one piece of feedback says about one picture and one label."""

    part: ImagePart
    label: str
    kind: FeedbackKind
    feedback_id: str


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
    """Returns what labels are compared by: two labels with the same key are one class.

    Case, white space around and between words, and the way an accent is stored make no difference: this is Unicode's
    canonical caseless match (The Unicode Standard, section 3.13). The one place that makes a label a key.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", " ".join(label.split())).casefold())


def tidy_label(text: str) -> str:
    """Returns the label in a correction: `llama` for "No, it's a llama!".

    Raises:
        InvalidInput: the label is empty, too long, or has characters that cannot be displayed.
    """
    # NFC, so that a label is stored and shown in one form, whatever it was typed with.
    folded = unicodedata.normalize("NFC", " ".join(text.split()))
    # "No" is a lead-in, but also a label if nothing follows it.
    label = _LEAD_IN.sub("", folded.strip(_SURROUNDING), count=1).strip(_SURROUNDING) or folded.strip(_SURROUNDING)
    if not 0 < len(label) <= MAX_LABEL_CHARS:
        raise errors.InvalidInput(
            f"a label of {len(label):,} characters", hint=f"name what is on the picture in 1 to {MAX_LABEL_CHARS}"
        )
    # `isprintable` rejects control characters, such as those that reverse the direction of the text after them.
    if not re.search(r"\w", label) or not label.isprintable():
        raise errors.InvalidInput(f"{label!r} names nothing", hint="name what is on the picture")
    return label


def pictures_of(turn: Turn) -> list[ImagePart]:
    """Returns the pictures of the turn's message."""
    return [part for part in turn.request.parts if isinstance(part, ImagePart)]


def best_label(turn: Turn) -> str | None:
    """Returns the best label of the turn's answer; None if it has no label or the turn has several pictures."""
    # With several pictures the labels of all of them follow each other, and nothing tells which belongs to which.
    if len(pictures_of(turn)) != 1:
        return None
    return next((part.label for part in turn.response if isinstance(part, LabelPart)), None)


def label_feedback_of(judged_turn: JudgedTurn) -> list[LabelFeedback]:
    """Returns what a judged turn says about its pictures; empty if it says nothing that can be learned.

    Raises:
        InvalidInput: the correction is not a label, or the turn has several pictures and it is not clear which one the
            correction is for.
    """
    given, turn = judged_turn.feedback, judged_turn.turn
    pictures, best = pictures_of(turn), best_label(turn)
    was_taught = bool(turn.details.get("taught"))
    if not pictures:
        return []
    if given.correction is not None:
        label = tidy_label(given.correction)
        # `teach` may give several pictures one label. A correction of an answer is for one picture only.
        if len(pictures) > 1 and not was_taught:
            raise errors.InvalidInput(
                f"a correction of {len(pictures)} pictures at once", hint="ask about one picture, then correct it"
            )
        found = [LabelFeedback(part, label, "labelled", given.id) for part in pictures]
        # A correction also says what is not on the picture: the label that was corrected.
        if best is not None and label_key(best) != label_key(label):
            found.append(LabelFeedback(pictures[0], best, "refused", given.id))
        return found
    if given.is_good is None or best is None or turn.error is not None:
        return []
    return [LabelFeedback(pictures[0], best, "praised" if given.is_good else "refused", given.id)]


def all_label_feedback(judged_turns: Iterable[JudgedTurn]) -> list[LabelFeedback]:
    """Returns what the judged turns say, in their order. Unusable feedback is skipped and logged."""
    found = []
    for judged_turn in judged_turns:
        try:
            found += label_feedback_of(judged_turn)
        except AssistantError as error:
            log.info("feedback %s is skipped: %s", judged_turn.feedback.id, error)
    return found


def read_picture(part: ImagePart) -> Picture:
    """Reads and decodes a picture.

    Raises:
        InvalidInput: the file does not exist any more.
        InvalidImage: the file is not a whole picture.
        InputTooLarge: the picture has too many pixels.
    """
    from smallai_image.decode import decode

    data = part.read()
    return Picture(hashlib.sha256(data).hexdigest(), decode(data, name=part.name).pixels)


def read_pictures(parts: Sequence[ImagePart]) -> list[Picture | None]:
    """Reads and decodes several pictures. An unreadable one is None and is logged."""
    found: list[Picture | None] = []
    for part in parts:
        try:
            found.append(read_picture(part))
        except AssistantError as error:
            log.warning("a picture of earlier feedback cannot be used: %s", error)
            found.append(None)
    return found
