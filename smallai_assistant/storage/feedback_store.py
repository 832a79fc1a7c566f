"""Feedback in the database: stored durably, retracted, erased."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Literal

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput, StoreError
from smallai_assistant.feedback import Feedback, JudgedTurn, default_audience
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.erasure import ErasedFiles, ErasedRows, erase_rows
from smallai_assistant.storage.media import delete_unused, has_marked, mark_unused
from smallai_assistant.storage.revisions import ERASURES, current, feedback_key, increment
from smallai_assistant.storage.row_reader import chunks, rows_or_one_by_one
from smallai_assistant.storage.schema import ERASED, feedback, turns
from smallai_assistant.storage.serialization import read_time
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.types import now
from smallai_assistant.validation import check_said

State = Literal["active", "retracted", "erased"]
FORGOTTEN = "forgotten"  # the source of erased feedback whose giver was forgotten
# The fields of a Feedback that the database stores as one JSON text; the others have columns.
_BODY = ("is_good", "correction", "comment", "signal", "value", "item", "is_explicit", "audience", "may_train")


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


@dataclass(frozen=True, slots=True)
class Added:
    """The result of storing a feedback.

    Attributes:
        feedback: as stored, with its task filled in; the earlier one if it was known.
        is_new: False if its key or id was known.
        revision: the value of the task's counter after this write; None if nothing was written.
        is_latest: whether nothing else of the task was said later.
    """

    feedback: Feedback
    is_new: bool
    revision: int | None = None
    is_latest: bool = True


class FeedbackStore:
    """Stores feedback, and reads it with the turns that it is about.

    Every write adds one to a counter of its task (`revisions.feedback_key`), so that other processes notice it.

    Args:
        turn_store: the store of the turns, on the same `database`.
        audience: of feedback that names none; empty for `feedback.default_audience`.
    """

    def __init__(self, database: Database, turn_store: TurnStore, *, audience: str = "") -> None:
        self._database = database
        self._turns = turn_store
        self._audience = audience

    def add(self, given: Feedback) -> tuple[Feedback, bool]:
        """Stores a feedback; it is on disk when the call returns.

        Idempotent: if the feedback's key or id is known, nothing is stored and the earlier feedback is returned. So a
        caller that got no answer may repeat the call.

        Returns:
            The stored feedback, with its task filled in, and whether it is new.

        Raises:
            InvalidInput: there is no such turn, the feedback was erased, or it was said before 1970 or in the future.
            StoreError: the database failed; nothing was stored.
        """
        return self.add_all([given])[0]

    def add_all(self, given: Sequence[Feedback]) -> list[tuple[Feedback, bool]]:
        """Stores several feedbacks in one transaction: all or none. See `add`."""
        return [(added.feedback, added.is_new) for added in self.record(given)]

    def record(self, given: Sequence[Feedback]) -> list[Added]:
        """Does what `add_all` does, and tells what it means for what a process knows of the task."""
        at = now()
        for new in given:
            check_said("created_at", new.created_at, at)
        out: list[Added] = []
        # Only one transaction writes at a time, so a key that `_add` does not find cannot appear before its insert.
        with self._database.write() as connection:
            for chunk in chunks(given):
                out += _add(connection, chunk, self._audience)
            # One step for each task and transaction: a reader cannot see a part of it.
            tasks = {added.feedback.task for added in out if added.is_new}
            revisions = {task: increment(connection, feedback_key(task)) for task in sorted(tasks)}
        return [replace(added, revision=revisions.get(added.feedback.task)) if added.is_new else added for added in out]

    def revisions(self, task: str) -> tuple[int, int]:
        """The counter of a task's feedback, and that of erased turns."""
        with self._database.read() as connection:
            feedback_revision, erasures = current(connection, [feedback_key(task), ERASURES])
        return feedback_revision, erasures

    def get(self, feedback_id: str) -> FeedbackRow:
        """The row with this id.

        Raises:
            InvalidInput: there is none.
            StoreError: it cannot be read.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(feedback).where(feedback.c.id == feedback_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no feedback {feedback_id!r}", hint="see `smallai feedback list`")
        for found in self._database.reader.read(feedback, [row], _to_feedback_row):
            return found
        raise StoreError(
            f"the feedback {feedback_id!r} cannot be read", hint="erase it, or see `smallai doctor --repair`"
        )

    def rows_by_id(self, ids: Sequence[str]) -> list[FeedbackRow]:
        """The rows with these ids that can be read, in no particular order."""
        rows: list[sa.Row[Any]] = []
        with self._database.read() as connection:
            for chunk in chunks(ids):
                rows += rows_or_one_by_one(connection, feedback, chunk, sa.select(feedback))
        return self._database.reader.read(feedback, rows, _to_feedback_row)

    def rows(
        self, *, task: str | None = None, turn_id: str | None = None, limit: int | None = None
    ) -> list[FeedbackRow]:
        """Rows of every state, oldest first; a limit keeps the last ones."""
        given = {"task": task, "turn_id": turn_id}
        where = {name: value for name, value in given.items() if value is not None}
        reader = self._database.reader
        with self._database.read() as connection:
            found = reader.select(connection, feedback, where, limit=limit)
        return reader.read(feedback, found, _to_feedback_row)

    def rows_of_turns(self, turn_ids: Sequence[str]) -> list[FeedbackRow]:
        """The rows about these turns that can be read, in no particular order."""
        rows: list[sa.Row[Any]] = []
        with self._database.read() as connection:
            for chunk in chunks(turn_ids):
                query = sa.select(feedback.c.id).where(feedback.c.turn_id.in_(chunk))
                ids = list(connection.scalars(query))
                rows += [
                    row
                    for part in chunks(ids)
                    for row in rows_or_one_by_one(connection, feedback, part, sa.select(feedback))
                ]
        return self._database.reader.read(feedback, rows, _to_feedback_row)

    def judged_turns(self, task: str) -> list[JudgedTurn]:
        """The active feedback of a task, each with its turn, in the order in which it was said.

        This is the one place that decides which word is the last: when it was said, then when it came.
        """
        reader = self._database.reader
        with self._database.read() as connection:
            found = reader.select(connection, feedback, {"task": task, "state": "active"})
        given = [row for row in reader.read(feedback, found, row_to_feedback) if row is not None]
        given.sort(key=lambda row: row.created_at)  # a stable sort: rows of one time stay in the order of `seq`
        by_id = self._turns.turns_by_id([row.turn_id for row in given])
        # A turn that was erased or cannot be read teaches nothing.
        return [JudgedTurn(row, by_id[row.turn_id]) for row in given if row.turn_id in by_id]

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
            if n_changed:
                task = connection.scalar(sa.select(feedback.c.task).where(feedback.c.id == feedback_id))
                increment(connection, feedback_key(str(task)))
        row = self.get(feedback_id)  # it raises if there is no such row
        if not n_changed:
            raise InvalidInput(f"the feedback {feedback_id!r} was erased", hint="there is nothing left to undo")
        return row

    def erase(
        self,
        ids: Iterable[str] = (),
        *,
        turn_ids: Iterable[str] = (),
        and_then: Callable[[sa.Connection, ErasedRows], None] = lambda *_: None,
    ) -> ErasedRows:
        """Deletes the content of feedback, and of turns with all of their feedback, for good. Idempotent.

        Reports of learning cycles that trained on the rows or evaluated with them lose their examples; their figures
        stay. A taught turn goes with the last feedback on it that counts. `finish_erasure` deletes the files.

        Args:
            and_then: called in the same transaction, with what is erased.

        Raises:
            InvalidInput: an id is unknown; nothing was erased.
        """
        with self._database.write() as connection:
            done = erase_rows(connection, ids, turn_ids)
            and_then(connection, done)
        return done

    def ids_from(self, source: str) -> list[str]:
        """The ids of the feedback that a source gave and that is not erased yet."""
        with self._database.read() as connection:
            of_source = sa.select(feedback.c.id).where(feedback.c.source == source, feedback.c.state != "erased")
            return list(connection.scalars(of_source))

    def forget_source(self, source: str) -> None:
        """Forgets who gave the erased feedback of a source."""
        erased = sa.update(feedback).where(feedback.c.source == source, feedback.c.state == "erased")
        with self._database.write() as connection:
            connection.execute(erased.values(source=FORGOTTEN))

    def finish_erasure(self, *, only_unfinished: bool = False) -> ErasedFiles:
        """Deletes the files that an erasure leaves behind. Idempotent.

        Args:
            only_unfinished: does nothing unless a kill kept an erasure from its end.
        """
        if only_unfinished and not has_marked(self._database):
            return ErasedFiles()
        backups = tuple(path.name for path in self._database.remove_backups())
        n_media = delete_unused(self._database, self._turns.media_dir)
        is_log_empty = self._database.truncate_log()  # the erased content is also in the pages of the write-ahead log
        if not is_log_empty:
            with self._database.write() as connection:
                mark_unused(connection, ())  # the next start tries again
        return ErasedFiles(n_media, backups, is_log_empty)

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
            values["created_at"] = read_time("created_at", values["created_at"])
        return Feedback(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"malformed feedback: {error}", hint="give what `smallai feedback export` writes") from error


def _add(connection: sa.Connection, given: Sequence[Feedback], audience: str) -> list[Added]:
    known = known_rows(connection, given)
    turn_ids = {row.turn_id for row in given}
    query = sa.select(turns.c.id, turns.c.user_id, turns.c.task, (turns.c.body == ERASED).label("is_erased"))
    found = {row.id: row for row in connection.execute(query.where(turns.c.id.in_(turn_ids)))}
    latest = _latest_times(connection, {row.task for row in found.values()})
    out: list[Added] = []
    rows = []
    for new in given:
        earlier = known.get(("id", new.id)) or known.get(("key", new.key))
        if earlier is not None:
            if earlier.feedback is None:
                what = "was erased" if earlier.state == "erased" else "is stored already, and cannot be read"
                raise InvalidInput(f"the feedback {new.id!r} {what}", hint="give a new one if it is meant again")
            out.append(Added(earlier.feedback, is_new=False))
            continue
        if new.turn_id not in found:
            raise InvalidInput(f"there is no turn {new.turn_id!r}", hint="use the turn_id of an answer")
        if found[new.turn_id].is_erased:
            raise InvalidInput(f"the turn {new.turn_id!r} was erased", hint="there is nothing left to judge")
        turn = found[new.turn_id]
        stored = replace(new, task=str(turn.task), audience=new.audience or audience or default_audience(turn.user_id))
        at = stored.created_at.timestamp()
        rows.append(feedback_to_row(stored))
        out.append(Added(stored, is_new=True, is_latest=at >= latest.get(stored.task, at)))
        latest[stored.task] = max(at, latest.get(stored.task, at))
        # The same batch may hold the same key again: the first of them is the one that is stored.
        row = FeedbackRow(new.id, new.turn_id, stored.task, new.source, "active", new.created_at, stored)
        known["id", new.id] = row
        if new.key is not None:
            known["key", new.key] = row
    if rows:
        connection.execute(sa.insert(feedback), rows)
    return out


def _latest_times(connection: sa.Connection, tasks: set[str]) -> dict[str, float]:
    """When the latest feedback of each task was said; retracted feedback counts, which costs at most a rebuild."""
    said = sa.func.max(feedback.c.created_at)
    query = sa.select(feedback.c.task, said.label("at")).where(feedback.c.task.in_(tasks)).group_by(feedback.c.task)
    return {row.task: row.at for row in connection.execute(query)}


def known_rows(connection: sa.Connection, given: Sequence[Feedback]) -> dict[tuple[str, str | None], FeedbackRow]:
    """The stored rows that share an id or a key with one of `given`, by `("id", id)` and `("key", key)`."""
    ids, keys = [row.id for row in given], [row.key for row in given if row.key is not None]
    known: dict[tuple[str, str | None], FeedbackRow] = {}
    query = sa.select(feedback).where(sa.or_(feedback.c.id.in_(ids), feedback.c.key.in_(keys)))
    for row in connection.execute(query):
        try:
            found = _to_feedback_row(row)
        except Exception:  # it is known all the same; `RowReader` names it if somebody reads it
            found = FeedbackRow(row.id, row.turn_id, row.task, row.source, row.state, now(), None)
        known["id", row.id] = found
        if row.key is not None:
            known["key", row.key] = found
    return known


def feedback_to_row(given: Feedback) -> dict[str, Any]:
    """The table row of an active feedback; the inverse of `row_to_feedback`.

    Raises:
        InvalidInput: the row would not be read as it was given.
    """
    row = {
        "id": given.id,
        "key": given.key,
        "turn_id": given.turn_id,
        "task": given.task,
        "source": given.source,
        "state": "active",
        "created_at": given.created_at.timestamp(),
        "body": json.dumps({name: getattr(given, name) for name in _BODY}),
    }
    # Read as every later reader will: what cannot be read back is refused while its giver still listens.
    if row_to_feedback(SimpleNamespace(**row)) != given:
        raise InvalidInput(f"the feedback {given.id!r} cannot be stored as it is")
    return row


def row_to_feedback(row: Any) -> Feedback | None:
    """The feedback in a table row; None if its content was erased."""
    if row.state == "erased":
        return None
    head = {"id": row.id, "key": row.key, "turn_id": row.turn_id, "task": row.task, "source": row.source}
    return Feedback(**json.loads(row.body), **head, created_at=datetime.fromtimestamp(row.created_at, UTC))


def _to_feedback_row(row: sa.Row[Any]) -> FeedbackRow:
    created_at = datetime.fromtimestamp(row.created_at, UTC)
    return FeedbackRow(row.id, row.turn_id, row.task, row.source, row.state, created_at, row_to_feedback(row))
