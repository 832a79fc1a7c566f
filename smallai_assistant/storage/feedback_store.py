"""Feedback in the database: stored durably, retracted, erased."""

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
from smallai_assistant.validation import check_storable

State = Literal["active", "retracted", "erased"]
# The fields of a Feedback that the database stores as one JSON text; the others have columns.
_BODY = ("is_good", "correction", "comment", "signal", "value", "item", "is_explicit", "may_train")
_IDS_PER_STATEMENT = 400  # a statement binds up to two values for each; older builds of SQLite allow 999
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """A stored feedback; `feedback` is None if its content was erased."""

    id: str
    turn_id: str
    task: str
    source: str
    state: State
    created_at: datetime
    feedback: Feedback | None


class FeedbackStore:
    """Stores feedback, and reads it with the turns that it is about.

    Args:
        turn_store: the store of the turns, on the same `database`.
    """

    def __init__(self, database: Database, turn_store: TurnStore) -> None:
        self._database = database
        self._turns = turn_store

    def add(self, given: Feedback) -> tuple[Feedback, bool]:
        """Stores a feedback; it is on disk when the call returns.

        Idempotent: if the feedback's key or id is known, nothing is stored and the earlier feedback is returned. So a
        caller that got no answer may repeat the call.

        Returns:
            The stored feedback, with its task filled in, and whether it is new.

        Raises:
            InvalidInput: there is no such turn, or the feedback was erased.
            StoreError: the database failed; nothing was stored.
        """
        return self.add_all([given])[0]

    def add_all(self, given: Sequence[Feedback]) -> list[tuple[Feedback, bool]]:
        """Stores several feedbacks in one transaction: all or none. See `add`."""
        out: list[tuple[Feedback, bool]] = []
        # Only one transaction writes at a time, so a key that `_add` does not find cannot appear before its insert.
        with self._database.write() as connection:
            for chunk in _chunks(given):
                out += _add(connection, chunk)
        return out

    def get(self, feedback_id: str) -> FeedbackRow:
        """The row with this id.

        Raises:
            InvalidInput: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(feedback).where(feedback.c.id == feedback_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no feedback {feedback_id!r}", hint="see `smallai feedback list`")
        return _to_feedback_row(row)

    def rows(
        self, *, task: str | None = None, turn_id: str | None = None, limit: int | None = None
    ) -> list[FeedbackRow]:
        """Rows of every state, oldest first; a limit keeps the last ones."""
        query = sa.select(feedback).order_by(feedback.c.seq.desc())
        if task is not None:
            query = query.where(feedback.c.task == task)
        if turn_id is not None:
            query = query.where(feedback.c.turn_id == turn_id)
        with self._database.read() as connection:
            found = connection.execute(query.limit(limit) if limit is not None else query).all()
        return [_to_feedback_row(row) for row in reversed(found)]

    def judged_turns(self, task: str) -> list[JudgedTurn]:
        """The active feedback of a task, each with its turn, oldest first."""
        query = (
            sa.select(feedback).where(feedback.c.task == task, feedback.c.state == "active").order_by(feedback.c.seq)
        )
        with self._database.read() as connection:
            found = [row_to_feedback(row) for row in connection.execute(query)]
        given = [row for row in found if row is not None]
        by_id = self._turns.turns_by_id([row.turn_id for row in given])
        return [JudgedTurn(row, by_id[row.turn_id]) for row in given]

    def judged_turn(self, given: Feedback) -> JudgedTurn:
        """A feedback with its turn."""
        return JudgedTurn(given, self._turns.turn(given.turn_id))

    def retract(self, feedback_id: str) -> FeedbackRow:
        """Undoes a feedback: it stays in the log and is no longer learned from. Idempotent.

        Raises:
            InvalidInput: there is no feedback with this id, or its content was erased.
        """
        statement = sa.update(feedback).where(feedback.c.id == feedback_id, feedback.c.state != "erased")
        with self._database.write() as connection:
            n_changed = connection.execute(statement.values(state="retracted")).rowcount
        row = self.get(feedback_id)  # it raises if there is no such row
        if not n_changed:
            raise InvalidInput(f"the feedback {feedback_id!r} was erased", hint="there is nothing left to undo")
        return row

    def erase(self, ids: Iterable[str]) -> list[str]:
        """Deletes the content of feedback rows for good.

        Reports of learning cycles that trained on the rows or evaluated with them lose their examples; their figures
        stay.

        Returns:
            The ids of the adapters that learned from the rows, oldest first.

        Raises:
            InvalidInput: an id is unknown; nothing was erased.
        """
        wanted = list(dict.fromkeys(ids))
        affected: set[str] = set()
        with self._database.write() as connection:
            for chunk in _chunks(wanted):
                known = set(connection.scalars(sa.select(feedback.c.id).where(feedback.c.id.in_(chunk))))
                if unknown := [feedback_id for feedback_id in chunk if feedback_id not in known]:
                    raise InvalidInput(f"there is no feedback {unknown[0]!r}", hint="see `smallai feedback list`")
                # The key goes too: a user may have put something personal into it.
                connection.execute(
                    sa.update(feedback).where(feedback.c.id.in_(chunk)).values(state="erased", body="{}", key=None)
                )
                query = sa.select(learned.c.adapter_id).where(learned.c.feedback_id.in_(chunk))
                affected |= set(connection.scalars(query))
            _drop_examples(connection, affected, set(wanted))
            order = connection.scalars(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
        self._database.truncate_log()  # the erased content is also in the pages of the write-ahead log
        return [adapter_id for adapter_id in order if adapter_id in affected]

    def stats(self) -> list[dict[str, Any]]:
        """Counts for each task and source, sorted by both.

        Returns:
            Dicts with task, source and numbers: rows (of every state); good, bad, corrections and signals (of active
            rows, and one row may count in several of them); retracted; erased.
        """
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
    """A feedback as a JSON object, for exports and for the command line."""
    body = {name: getattr(given, name) for name in _BODY}
    head = {"id": given.id, "turn_id": given.turn_id, "task": given.task, "source": given.source, "key": given.key}
    return {**head, **body, "created_at": given.created_at.isoformat()}


def feedback_from_json(row: Mapping[str, Any]) -> Feedback:
    """The inverse of `feedback_to_json`; a missing key takes the default of `Feedback`.

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
            # Without a time zone the machine that imports would decide what the time means.
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
    turn_ids = {row.turn_id for row in given}
    query = sa.select(turns.c.id, turns.c.task).where(turns.c.id.in_(turn_ids))
    tasks = {row.id: str(row.task) for row in connection.execute(query)}
    out: list[tuple[Feedback, bool]] = []
    rows = []
    for new in given:
        earlier = known.get(("id", new.id)) or known.get(("key", new.key))
        if earlier is not None:
            if earlier.feedback is None:
                raise InvalidInput(f"the feedback {new.id!r} was erased", hint="give a new one if it is meant again")
            out.append((earlier.feedback, False))
            continue
        if new.turn_id not in tasks:
            raise InvalidInput(f"there is no turn {new.turn_id!r}", hint="use the turn_id of an answer")
        stored = replace(new, task=tasks[new.turn_id])
        rows.append(feedback_to_row(stored))
        out.append((stored, True))
        # The same batch may hold the same key again: the first of them is the one that is stored.
        row = FeedbackRow(new.id, new.turn_id, stored.task, new.source, "active", new.created_at, stored)
        known["id", new.id] = row
        if new.key is not None:
            known["key", new.key] = row
    if rows:
        connection.execute(sa.insert(feedback), rows)
    return out


def known_rows(connection: sa.Connection, given: Sequence[Feedback]) -> dict[tuple[str, str | None], FeedbackRow]:
    """The stored rows that share an id or a key with one of `given`, by `("id", id)` and `("key", key)`."""
    ids, keys = [row.id for row in given], [row.key for row in given if row.key is not None]
    known: dict[tuple[str, str | None], FeedbackRow] = {}
    query = sa.select(feedback).where(sa.or_(feedback.c.id.in_(ids), feedback.c.key.in_(keys)))
    for row in connection.execute(query):
        known["id", row.id] = _to_feedback_row(row)
        if row.key is not None:
            known["key", row.key] = known["id", row.id]
    return known


def feedback_to_row(given: Feedback) -> dict[str, Any]:
    """The table row of an active feedback; the inverse of `row_to_feedback`."""
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
    """Removes the quoted answers from the reports of cycles that trained on erased rows or evaluated with them."""
    """Takes the answers, and with them the words, pictures and sounds, out of every report that may quote the rows."""
    for row in connection.execute(sa.select(adapters.c.id, adapters.c.report)).all():
        report = json.loads(row.report)
        # A protected slice may ask about a turn whose feedback was neither learned nor held out: its change names it.
        quoted = {feedback_id for change in report.get("changes", ()) for feedback_id in change.get("feedback_ids", ())}
        is_quoting = row.id in affected or erased & {*report.get("held_out_ids", ()), *quoted}
        if is_quoting and (report.get("changes") or report.get("taught")):
            report |= {"changes": [], "taught": {}}
            connection.execute(sa.update(adapters).where(adapters.c.id == row.id).values(report=json.dumps(report)))


def row_to_feedback(row: sa.Row[Any]) -> Feedback | None:
    """The feedback in a table row; None if its content was erased."""
    if row.state == "erased":
        return None
    head = {"id": row.id, "key": row.key, "turn_id": row.turn_id, "task": row.task, "source": row.source}
    return Feedback(**json.loads(row.body), **head, created_at=datetime.fromtimestamp(row.created_at, UTC))


def _to_feedback_row(row: sa.Row[Any]) -> FeedbackRow:
    created_at = datetime.fromtimestamp(row.created_at, UTC)
    return FeedbackRow(row.id, row.turn_id, row.task, row.source, row.state, created_at, row_to_feedback(row))


def _chunks(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    return (ids[start : start + _IDS_PER_STATEMENT] for start in range(0, len(ids), _IDS_PER_STATEMENT))
