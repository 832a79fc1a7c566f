"""Erases feedback and turns for good, in the caller's transaction; the rows stay as tombstones without content.

A tombstone keeps an import or a repeated call from bringing back what was erased. Every reader skips it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput
from smallai_assistant.storage.media import digests_in, mark_unused
from smallai_assistant.storage.revisions import ERASURES, feedback_key, increment
from smallai_assistant.storage.row_reader import chunks, rows_or_one_by_one
from smallai_assistant.storage.schema import ERASED, FAILURE_PREFIX, adapters, feedback, learned, meta, turns


@dataclass(frozen=True, slots=True)
class ErasedFiles:
    """What an erasure deleted beside the rows.

    Attributes:
        n_media: pictures and recordings that no turn refers to any more.
        backups: names of the copies of the database that migrations or a repair made.
        is_log_empty: False if a reader still needs SQLite's log, in which the content can be read until it ends.
    """

    n_media: int = 0
    backups: tuple[str, ...] = ()
    is_log_empty: bool = True


@dataclass(slots=True)
class ErasedRows:
    """What an erasure reached.

    Attributes:
        feedback_ids: the feedback that was asked for, and all feedback on erased turns.
        turn_ids: the turns that were asked for, and taught turns without any active feedback left.
        adapter_ids: the adapters that learned from the feedback, oldest first.
        tasks: the tasks of the rows.
    """

    feedback_ids: list[str] = field(default_factory=list)
    turn_ids: list[str] = field(default_factory=list)
    adapter_ids: list[str] = field(default_factory=list)
    tasks: set[str] = field(default_factory=set)


def erase_rows(connection: sa.Connection, feedback_ids: Iterable[str] = (), turn_ids: Iterable[str] = ()) -> ErasedRows:
    """Erases feedback, and turns with all of their feedback. Idempotent.

    Reports of learning cycles that trained on the rows or evaluated with them lose their examples; their figures stay.
    The pictures and recordings of the turns are marked, and `media.delete_unused` deletes them after the commit.

    Raises:
        InvalidInput: an id is unknown.
    """
    done = ErasedRows()
    asked = list(dict.fromkeys(feedback_ids))
    found = _known(connection, feedback, asked, "see `smallai feedback list`")
    named = list(dict.fromkeys(turn_ids))
    done.turn_ids = [row.id for row in _known(connection, turns, named, "use the turn_id of an answer")]
    done.turn_ids += _taught_only(connection, found, set(asked), set(done.turn_ids))
    of_turns = _select(connection, sa.select(*_HEAD), feedback.c.turn_id, done.turn_ids)
    done.feedback_ids = list(dict.fromkeys([*asked, *(row.id for row in of_turns)]))
    done.tasks = {row.task for row in [*found, *of_turns]}
    for chunk in chunks(done.feedback_ids):
        # The key goes too: a user may have put something personal into it.
        erased = sa.update(feedback).where(feedback.c.id.in_(chunk))
        connection.execute(erased.values(state="erased", body=ERASED, key=None))
    _erase_turns(connection, done)
    learners = _select(connection, sa.select(learned.c.adapter_id), learned.c.feedback_id, done.feedback_ids)
    affected = {row.adapter_id for row in learners}
    _drop_examples(connection, affected, set(done.feedback_ids))
    order = connection.scalars(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
    done.adapter_ids = [adapter_id for adapter_id in order if adapter_id in affected]
    for task in sorted(done.tasks):
        increment(connection, feedback_key(task))
    increment(connection, ERASURES)
    connection.execute(sa.delete(meta).where(meta.c.key.startswith(FAILURE_PREFIX, autoescape=True)))
    return done


# Without the body: a row whose content cannot be read can still be erased.
_HEAD = (feedback.c.id, feedback.c.turn_id, feedback.c.task, feedback.c.state)


def _known(connection: sa.Connection, table: sa.Table, ids: Sequence[str], hint: str) -> list[sa.Row[Any]]:
    names = _HEAD if table is feedback else (turns.c.id, turns.c.task)
    rows = _select(connection, sa.select(*names), table.c.id, ids)
    if unknown := sorted({*ids} - {row.id for row in rows}):
        what = "feedback" if table is feedback else "turn"
        raise InvalidInput(f"there is no {what} {unknown[0]!r}", hint=hint)
    return rows


def _select(
    connection: sa.Connection, query: sa.Select[Any], column: sa.Column[Any], values: Sequence[str]
) -> list[sa.Row[Any]]:
    return [row for chunk in chunks(values) for row in connection.execute(query.where(column.in_(chunk))).all()]


def _taught_only(
    connection: sa.Connection, found: Sequence[sa.Row[Any]], asked: set[str], known: set[str]
) -> list[str]:
    """The turns that were taught and lose all of their feedback that counts: nobody asked them, so they go too."""
    judged = sorted({row.turn_id for row in found} - known)
    others = _select(connection, sa.select(*_HEAD), feedback.c.turn_id, judged)
    kept = {row.turn_id for row in others if row.state == "active" and row.id not in asked}
    query = sa.select(turns.c.id, turns.c.body)
    bodies = [row for chunk in chunks(judged) for row in rows_or_one_by_one(connection, turns, chunk, query)]
    return [row.id for row in bodies if row.id not in kept and _is_taught(row.body)]


def _is_taught(body: str) -> bool:
    try:
        return bool(json.loads(body).get("details", {}).get("taught"))
    except (ValueError, AttributeError, RecursionError):  # it cannot be read, and is erased only if it is named
        return False


def _erase_turns(connection: sa.Connection, done: ErasedRows) -> None:
    rows = _select(connection, sa.select(turns.c.task, turns.c.body), turns.c.id, done.turn_ids)
    done.tasks |= {row.task for row in rows}
    mark_unused(connection, {digest for row in rows for digest in digests_in(row.body)})
    for chunk in chunks(done.turn_ids):
        connection.execute(sa.update(turns).where(turns.c.id.in_(chunk)).values(body=ERASED, user_id=None))


def _drop_examples(connection: sa.Connection, affected: set[str], erased: set[str]) -> None:
    """Removes the quoted answers from the reports of cycles that trained on erased rows or evaluated with them."""
    for row in connection.execute(sa.select(adapters.c.id, adapters.c.report)).all():
        try:
            report = json.loads(row.report)
        except (ValueError, RecursionError):  # nobody can tell what it quotes
            connection.execute(sa.update(adapters).where(adapters.c.id == row.id).values(report="{}"))
            continue
        # A protected slice may ask about a turn whose feedback was neither learned nor held out: its change names it.
        quoted = {feedback_id for change in report.get("changes", ()) for feedback_id in change.get("feedback_ids", ())}
        is_quoting = row.id in affected or erased & {*report.get("held_out_ids", ()), *quoted}
        if is_quoting and (report.get("changes") or report.get("taught")):
            report |= {"changes": [], "taught": {}}
            connection.execute(sa.update(adapters).where(adapters.c.id == row.id).values(report=json.dumps(report)))
