"""Feedback in the database: acknowledged once it is on disk, undone, erased."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput
from smallai_assistant.feedback import Feedback, JudgedTurn
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.schema import adapters, feedback, learned, turns
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.types import check_storable

State = Literal["active", "retracted", "erased"]
_BODY = ("is_good", "correction", "comment", "signal", "value", "item", "is_explicit", "may_train")
_IDS_PER_STATEMENT = 400  # twice as many bound values; older builds of SQLite allow 999
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """A stored feedback; `feedback` is None where its content was erased."""

    id: str
    turn_id: str
    task: str
    source: str
    state: State
    created_at: datetime
    feedback: Feedback | None


class FeedbackStore:
    """Feedback and what it is about.

    Args:
        turn_store: where the turns lie; both are in `database`.
    """

    def __init__(self, database: Database, turn_store: TurnStore) -> None:
        self._database = database
        self._turns = turn_store

    def add(self, given: Feedback) -> tuple[Feedback, bool]:
        """Stores a feedback and returns it with its task, and whether it is new; returns once it is on disk.

        A feedback whose key or id is known is the earlier one: nothing is stored and that one is returned, so that
        a call that failed without an answer can be made again.

        Raises:
            InvalidInput: there is no such turn, or the feedback was erased.
            StoreError: it could not be stored.
        """
        return self.add_all([given])[0]

    def add_all(self, given: Sequence[Feedback]) -> list[tuple[Feedback, bool]]:
        """Stores several in one transaction: all or nothing. See `add`."""
        out: list[tuple[Feedback, bool]] = []
        with self._database.write() as connection:  # one writer at a time: what is not known here stays unknown
            for chunk in _chunks(given):
                out += _add(connection, chunk)
        return out

    def get(self, feedback_id: str) -> FeedbackRow:
        """One row.

        Raises:
            InvalidInput: there is none of that id.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(feedback).where(feedback.c.id == feedback_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no feedback {feedback_id!r}", hint="see `smallai feedback list`")
        return _read(row)

    def rows(
        self, *, task: str | None = None, turn_id: str | None = None, limit: int | None = None
    ) -> list[FeedbackRow]:
        """Rows of every state, oldest first; with a limit, the last ones."""
        query = sa.select(feedback).order_by(feedback.c.seq.desc())
        if task is not None:
            query = query.where(feedback.c.task == task)
        if turn_id is not None:
            query = query.where(feedback.c.turn_id == turn_id)
        with self._database.read() as connection:
            found = connection.execute(query.limit(limit) if limit is not None else query).all()
        return [_read(row) for row in reversed(found)]

    def judged_turns(self, task: str) -> list[JudgedTurn]:
        """The active feedback of a task with its turns, oldest first."""
        query = (
            sa.select(feedback).where(feedback.c.task == task, feedback.c.state == "active").order_by(feedback.c.seq)
        )
        with self._database.read() as connection:
            found = [_read(row).feedback for row in connection.execute(query)]
        given = [each for each in found if each is not None]
        by_id = self._turns.turns_by_id([each.turn_id for each in given])
        return [JudgedTurn(each, by_id[each.turn_id]) for each in given]

    def judged_turn(self, given: Feedback) -> JudgedTurn:
        """A feedback with its turn."""
        return JudgedTurn(given, self._turns.turn(given.turn_id))

    def retract(self, feedback_id: str) -> FeedbackRow:
        """Undoes a feedback: it stays in the log and no longer counts.

        Raises:
            InvalidInput: there is none of that id, or its content was erased.
        """
        statement = sa.update(feedback).where(feedback.c.id == feedback_id, feedback.c.state != "erased")
        with self._database.write() as connection:
            is_there = connection.execute(statement.values(state="retracted")).rowcount
        row = self.get(feedback_id)
        if not is_there:
            raise InvalidInput(f"the feedback {feedback_id!r} was erased", hint="there is nothing left to undo")
        return row

    def erase(self, ids: Iterable[str]) -> list[str]:
        """Deletes the content of feedback rows for good. Returns the ids of the adapters that learned from them.

        Reports of cycles that learned from the rows, or judged by them, lose their examples; the figures stay.

        Raises:
            InvalidInput: an id is unknown; nothing was erased.
        """
        wanted = list(dict.fromkeys(ids))
        affected: set[str] = set()
        with self._database.write() as connection:
            for chunk in _chunks(wanted):
                known = set(connection.scalars(sa.select(feedback.c.id).where(feedback.c.id.in_(chunk))))
                if unknown := [each for each in chunk if each not in known]:
                    raise InvalidInput(f"there is no feedback {unknown[0]!r}", hint="see `smallai feedback list`")
                connection.execute(
                    sa.update(feedback).where(feedback.c.id.in_(chunk)).values(state="erased", body="{}", key=None)
                )
                query = sa.select(learned.c.adapter_id).where(learned.c.feedback_id.in_(chunk))
                affected |= set(connection.scalars(query))
            _drop_examples(connection, affected, set(wanted))
            order = connection.scalars(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
        self._database.forget_log()
        return [each for each in order if each in affected]

    def stats(self) -> list[dict[str, Any]]:
        """Per task and source: how many rows, good, bad, corrected, signals, retracted and erased."""
        counted: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.rows():
            zero = dict.fromkeys(("rows", "good", "bad", "corrections", "signals", "retracted", "erased"), 0)
            entry = counted.setdefault((row.task, row.source), {"task": row.task, "source": row.source, **zero})
            entry["rows"] += 1
            if row.state != "active":
                entry[row.state] += 1
            elif row.feedback is not None:
                entry["good"] += row.feedback.is_good is True
                entry["bad"] += row.feedback.is_good is False
                entry["corrections"] += row.feedback.correction is not None
                entry["signals"] += row.feedback.signal is not None
        return [counted[key] for key in sorted(counted)]


def feedback_to_json(given: Feedback) -> dict[str, Any]:
    """JSON of a feedback, for export and for programs."""
    body = {name: getattr(given, name) for name in _BODY}
    head = {"id": given.id, "turn_id": given.turn_id, "task": given.task, "source": given.source, "key": given.key}
    return {**head, **body, "created_at": given.created_at.isoformat()}


def feedback_from_json(row: Mapping[str, Any]) -> Feedback:
    """The inverse of `feedback_to_json`; what is left out takes its default.

    Raises:
        InvalidInput: a key is unknown, or a value is of the wrong type or out of range.
    """
    values = dict(row)
    known = {*_BODY, "id", "turn_id", "task", "source", "key", "created_at"}
    if unknown := sorted(values.keys() - known):
        raise InvalidInput(f"unknown key {unknown[0]!r}", hint=f"known: {', '.join(sorted(known))}")
    try:
        if "created_at" in values:
            at = datetime.fromisoformat(values["created_at"])
            values["created_at"] = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        for name in ("id", "task"):
            if name in values:
                check_storable(name, values[name], 64 if name == "id" else 128)
        for name in ("is_explicit", "may_train"):
            if not isinstance(values.get(name, True), bool):
                raise InvalidInput(f"{name} is {values[name]!r}", hint="give true or false")
        return Feedback(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"malformed feedback: {error}", hint="give what `smallai feedback export` writes") from error


def _add(connection: sa.Connection, given: Sequence[Feedback]) -> list[tuple[Feedback, bool]]:
    known = known_rows(connection, given)
    turn_ids = {each.turn_id for each in given}
    query = sa.select(turns.c.id, turns.c.task).where(turns.c.id.in_(turn_ids))
    tasks = {row.id: str(row.task) for row in connection.execute(query)}
    out: list[tuple[Feedback, bool]] = []
    rows = []
    for each in given:
        earlier = known.get(("id", each.id)) or known.get(("key", each.key))
        if earlier is not None:
            if earlier.feedback is None:
                raise InvalidInput(f"the feedback {each.id!r} was erased", hint="give a new one if it is meant again")
            out.append((earlier.feedback, False))
            continue
        if each.turn_id not in tasks:
            raise InvalidInput(f"there is no turn {each.turn_id!r}", hint="use the turn_id of an answer")
        stored = replace(each, task=tasks[each.turn_id])
        rows.append(row_of(stored))
        out.append((stored, True))
        row = FeedbackRow(each.id, each.turn_id, stored.task, each.source, "active", each.created_at, stored)
        known["id", each.id] = row
        if each.key is not None:
            known["key", each.key] = row
    if rows:
        connection.execute(sa.insert(feedback), rows)
    return out


def known_rows(connection: sa.Connection, given: Sequence[Feedback]) -> dict[tuple[str, str | None], FeedbackRow]:
    """The stored rows with the id or the key of one of `given`, by `("id", id)` and `("key", key)`."""
    ids, keys = [each.id for each in given], [each.key for each in given if each.key is not None]
    known: dict[tuple[str, str | None], FeedbackRow] = {}
    query = sa.select(feedback).where(sa.or_(feedback.c.id.in_(ids), feedback.c.key.in_(keys)))
    for row in connection.execute(query):
        known["id", row.id] = _read(row)
        if row.key is not None:
            known["key", row.key] = known["id", row.id]
    return known


def row_of(given: Feedback) -> dict[str, Any]:
    """The row of an active feedback."""
    return {
        "id": given.id,
        "key": given.key,
        "turn_id": given.turn_id,
        "task": given.task,
        "source": given.source,
        "state": "active",
        "created_at": given.created_at.timestamp(),
        "body": json.dumps({name: getattr(given, name) for name in _BODY}),
    }


def _drop_examples(connection: sa.Connection, affected: set[str], erased: set[str]) -> None:
    for row in connection.execute(sa.select(adapters.c.id, adapters.c.report)).all():
        report = json.loads(row.report)
        if report.get("changes") and (row.id in affected or erased.intersection(report.get("held_out_ids", ()))):
            report["changes"] = []
            connection.execute(sa.update(adapters).where(adapters.c.id == row.id).values(report=json.dumps(report)))


def row_to_feedback(row: sa.Row[Any]) -> Feedback | None:
    """The feedback of a row; None where its content was erased."""
    if row.state == "erased":
        return None
    head = {"id": row.id, "key": row.key, "turn_id": row.turn_id, "task": row.task, "source": row.source}
    return Feedback(**json.loads(row.body), **head, created_at=datetime.fromtimestamp(row.created_at, UTC))


def _read(row: sa.Row[Any]) -> FeedbackRow:
    created_at = datetime.fromtimestamp(row.created_at, UTC)
    return FeedbackRow(row.id, row.turn_id, row.task, row.source, row.state, created_at, row_to_feedback(row))


def _chunks(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    return (ids[start : start + _IDS_PER_STATEMENT] for start in range(0, len(ids), _IDS_PER_STATEMENT))
