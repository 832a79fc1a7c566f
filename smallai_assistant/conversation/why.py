"""Why an answer was given: what was learned, from whom, and what would have been said without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smallai_assistant.conversation.task_thread import TaskThread
from smallai_assistant.conversation.turn_runner import Services
from smallai_assistant.errors import AssistantError, InvalidInput
from smallai_assistant.feedback import JudgedTurn
from smallai_assistant.task import LearningTask
from smallai_assistant.types import LabelPart, Notice, Part, Request, SegmentPart, TextPart, Turn
from smallai_assistant.validation import EVERYONE, audiences_of


@dataclass(frozen=True, slots=True)
class Cause:
    """A feedback that an answer used.

    Attributes:
        feedback_id: the feedback.
        source: who gave it.
        audience: whom it reaches, see `JudgedTurn.audience`.
        question: what was asked then.
        right: the correction; empty if the answer was praised or rejected.
        similarity: of the questions, as the task measures it; None if it does not say.
        verdict: why the task took it for the same, for people; empty if it does not say.
        counts: whether it still counts: it was not taken back.
    """

    feedback_id: str
    source: str
    audience: str
    question: str
    right: str
    similarity: float | None
    verdict: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Why:
    """Why an answer was given.

    Attributes:
        turn_id, task, model: the answer, the task and the model that gave it.
        adapter: the version that answered; None for the bare base.
        audience: whom that version serves; `everyone` if it is gone.
        part: the part of the version that answered; empty for its main weights.
        causes: the feedback that the fast memory used.
        answer: what was answered.
        bare_answer: what the model answers if nothing was learned.
        notices: what could not be found out.
    """

    turn_id: str
    task: str
    model: str | None
    adapter: str | None
    part: str
    causes: tuple[Cause, ...]
    answer: str
    bare_answer: str
    notices: tuple[Notice, ...] = ()
    audience: str = EVERYONE


@dataclass(frozen=True, slots=True)
class Explainer:
    """Finds out why."""

    services: Services

    def why(self, turn_id: str, *, user_id: str | None, groups: tuple[str, ...]) -> Why:
        """Says why a turn was answered as it was.

        Args:
            user_id, groups: who asks: only feedback that reaches this person is shown.

        Raises:
            InvalidInput: there is no such turn, or it is of another user.
        """
        self.services.turns.flush()
        turn = self.services.turns.turn(turn_id)
        if turn.user_id is not None and turn.user_id != user_id:
            raise InvalidInput(f"the turn {turn_id!r} is of another user", hint="ask in a session of that user")
        causes, notices = self._causes(turn, audiences_of(user_id, groups))
        bare, failed = self._bare_answer(turn)
        return Why(
            turn_id=turn.id,
            task=turn.task,
            model=turn.model,
            adapter=turn.adapter,
            part=str(turn.details.get("part", "")),
            causes=causes,
            answer=_shown(turn.response),
            bare_answer=bare,
            notices=(*notices, *failed),
            audience=self.services.audience_of(turn.adapter),
        )

    def _causes(self, turn: Turn, audiences: frozenset[str]) -> tuple[tuple[Cause, ...], list[Notice]]:
        found = {str(row.get("feedback_id")): row for row in turn.details.get("because", ()) if isinstance(row, dict)}
        # Earlier versions stored the ids alone.
        found |= {str(name): {} for name in turn.details.get("recalled", ()) if str(name) not in found}
        rows = {row.id: row for row in self.services.feedback.rows_by_id(list(found))}
        turns = self.services.turns.turns_by_id([row.turn_id for row in rows.values()])
        causes = []
        for name, told in found.items():
            row = rows.get(name)
            if row is None or row.feedback is None or row.turn_id not in turns:
                continue  # it was erased since
            judged_turn = JudgedTurn(row.feedback, turns[row.turn_id])
            if judged_turn.audience in audiences:
                causes.append(_cause(judged_turn, told, counts=row.state == "active"))
        n_hidden = len(found) - len(causes)
        text = f"{n_hidden} more that it used were erased since, or are not yours to see."
        return tuple(causes), [Notice("causes_hidden", text)] if n_hidden else []

    def _bare_answer(self, turn: Turn) -> tuple[str, tuple[Notice, ...]]:
        services = self.services
        task = services.router.task(turn.task)
        if not isinstance(task, LearningTask):
            return _shown(turn.response), ()  # it learns nothing
        request = Request(
            message=turn.request,
            history=self._history_of(turn),
            options=services.options[turn.task],
            session_id=turn.session_id,
            user_id=turn.user_id,
            is_bare=True,
        )
        timeout_s, around = services.answer_timeout_s, services.set_aside
        thread = TaskThread(task, request, services.models, timeout_s=timeout_s, around=around)
        try:
            with services.models.answering():
                parts = [item for item in thread.items() if isinstance(item, Part)]
        except AssistantError as error:
            return "", (Notice("no_bare_answer", f"What would be said without it is not known: {error}"),)
        return _shown(parts), ()

    def _history_of(self, turn: Turn) -> tuple[Turn, ...]:
        history = []
        for earlier in self.services.turns.turns(turn.session_id):
            if earlier.id == turn.id:
                break
            if earlier.error is None:
                history.append(earlier)
        return tuple(history)


def _cause(judged_turn: JudgedTurn, told: Mapping[str, Any], *, counts: bool) -> Cause:
    given = judged_turn.feedback
    similarity = told.get("similarity")
    return Cause(
        feedback_id=given.id,
        source=given.source,
        audience=judged_turn.audience,
        question=judged_turn.turn.request.text,
        right=given.correction or "",
        similarity=float(similarity) if isinstance(similarity, (int, float)) else None,
        verdict=str(told.get("verdict", "")),
        counts=counts,
    )


def _shown(parts: tuple[Part, ...] | list[Part]) -> str:
    """An answer as text: its words, else the best label."""
    text = "".join(part.text for part in parts if isinstance(part, TextPart)).strip()
    if text:
        return text
    return next((part.label for part in parts if isinstance(part, LabelPart)), "") or " ".join(
        part.text for part in parts if isinstance(part, SegmentPart)
    )
