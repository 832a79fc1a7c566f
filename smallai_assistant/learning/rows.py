"""The rows that screening compares: judged turns whose texts are normalized once, before the first stage."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from smallai_assistant.feedback import Feedback, JudgedTurn
from smallai_assistant.learning.text import normalized
from smallai_assistant.types import AudioPart, ImagePart, Message


class Target(NamedTuple):
    """What a row speaks for: an item, or the words of an answer."""

    kind: Literal["item", "answer"]
    value: str


@dataclass(frozen=True, slots=True)
class Row:
    """A judged turn and its normalized texts.

    Attributes:
        question: the request's words; empty if it has none.
        subject: what the turn is about: the question and the pictures and recordings that came with it; the turn's id
            if there is neither.
        answer: the answer that was judged; the turn's id if it has no words.
        correction: the corrected answer; None if the feedback does not correct.
    """

    judged_turn: JudgedTurn
    question: str
    subject: str
    answer: str
    correction: str | None

    @property
    def feedback(self) -> Feedback:
        """The feedback of the row."""
        return self.judged_turn.feedback

    @property
    def id(self) -> str:
        """The feedback's id."""
        return self.judged_turn.feedback.id

    @property
    def source(self) -> str:
        """Who gave the feedback."""
        return self.judged_turn.feedback.source

    @property
    def is_words_only(self) -> bool:
        """Whether the words of the question are all there is: no picture and no recording."""
        return bool(self.question) and self.subject == self.question

    @property
    def target(self) -> Target | None:
        """The item or the corrected answer that the row names; None if it names neither."""
        if self.feedback.item is not None:
            return Target("item", self.feedback.item)
        return Target("answer", self.correction) if self.correction is not None else None


def rows_of(judged_turns: Sequence[JudgedTurn]) -> list[Row]:
    """Makes the rows of judged turns, in their order."""
    # Many rows share a text: several sources judge the same answer, and a correction repeats. Every stage reads the
    # texts, so each is normalized once. The cache lives as long as this call, because erased text must not stay in it.
    cache: dict[str, str] = {}

    def once(text: str) -> str:
        if text not in cache:
            cache[text] = normalized(text)
        return cache[text]

    rows = []
    for judged_turn in judged_turns:
        turn, correction = judged_turn.turn, judged_turn.feedback.correction
        question = once(turn.request.text)
        rows.append(
            Row(
                judged_turn=judged_turn,
                question=question,
                subject=" ".join([question, *_media_keys(turn.request)]).strip() or turn.id,
                answer=once(turn.text) or turn.id,
                correction=once(correction) if correction is not None else None,
            )
        )
    return rows


def by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Groups rows by their source; sources and rows keep their order."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.source].append(row)
    return dict(found)


def _media_keys(message: Message) -> list[str]:
    """A key for each picture and recording; the same for the same file."""
    keys = []
    for part in message.parts:
        if isinstance(part, (ImagePart, AudioPart)):
            # The store names files by their hash, so that equal pictures have equal paths.
            keys.append(str(part.path) if part.path is not None else hashlib.sha256(part.data or b"").hexdigest())
    return keys
