"""Feedback as a file (`feedback_file`): exported with its turns and media, imported completely or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput, StoreError
from smallai_assistant.feedback import Feedback, default_audience
from smallai_assistant.filesystem import sync_path
from smallai_assistant.storage.database import Database, insert_missing
from smallai_assistant.storage.feedback_file import FeedbackLine, MediaLine, header, line_of, read_lines
from smallai_assistant.storage.feedback_store import feedback_to_json, feedback_to_row, known_rows, row_to_feedback
from smallai_assistant.storage.import_lines import ImportLines, in_line
from smallai_assistant.storage.media import delete_unused, keep_media, mark_unused, media_path
from smallai_assistant.storage.revisions import feedback_key, increment
from smallai_assistant.storage.row_reader import rows_or_one_by_one
from smallai_assistant.storage.schema import ERASED, feedback, sessions, turns
from smallai_assistant.storage.serialization import TURN_BODY
from smallai_assistant.storage.turn_store import row_to_turn

# Rows read or written at once. In the rollback journal mode a long read would make SQLite's writers wait.
_PAGE, _PAGE_BYTES = 200, 16 * 2**20


@dataclass(slots=True)
class Transfer:
    """What an export or an import did.

    Attributes:
        n_feedback: feedback rows written.
        n_turns: turns written.
        n_media: pictures and recordings written.
        n_known: rows skipped because their id or key is already stored or occurs earlier in the file.
        n_erased: rows left out because their content was erased, or the turn that they are about.
        n_unreadable: rows left out of an export because they cannot be read; `smallai doctor` names them.
        n_ahead: rows of an import that were said in the future, and count as said now.
        n_without_media: pictures and recordings that were never kept, are gone or damaged, or were left out.
        tasks: tasks of the rows written; after an import their fast memory must be rebuilt.
    """

    n_feedback: int = 0
    n_turns: int = 0
    n_media: int = 0
    n_known: int = 0
    n_erased: int = 0
    n_unreadable: int = 0
    n_ahead: int = 0
    n_without_media: int = 0
    tasks: set[str] = field(default_factory=set)


class FeedbackTransfer:
    """Exports feedback to files and imports it from them.

    Args:
        media_dir: the folder in which the turn store keeps pictures and recordings.
    """

    def __init__(self, database: Database, media_dir: Path) -> None:
        self._database = database
        self._media_dir = media_dir

    def export_to(self, path: Path, *, task: str | None = None, with_media: bool = True) -> Transfer:
        """Writes the feedback of one task, or of all tasks, into a file.

        The file is readable by its owner only. After a failure it is not there, or an earlier file is unchanged.

        Raises:
            StoreError: the file could not be written, or the database could not be read.
        """
        done = Transfer()
        temporary: str | None = None
        try:
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                for line in self.lines(done, task=task, with_media=with_media):
                    file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            temporary = None  # it has its final name: nothing to clean up
            sync_path(path.parent)
        except OSError as error:
            raise StoreError(f"{path} could not be written: {error.strerror}") from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
        return done

    def lines(self, done: Transfer, *, task: str | None = None, with_media: bool = True) -> Iterator[str]:
        """The lines of an export; `done` is updated along the way."""
        yield line_of(header())
        seen_turns: set[str] = set()
        seen_media: set[str] = set()
        for row, stored, turn in self._judged(done, task):
            for part in _file_parts(turn):
                digest = part["media"]
                data = self._read_media(digest) if with_media and digest not in seen_media else None
                if data is not None:
                    seen_media.add(digest)
                    done.n_media += 1
                    yield line_of({"media": digest, "data": base64.b64encode(data).decode()})
                elif digest not in seen_media:
                    done.n_without_media += 1
            done.n_feedback += 1
            done.n_turns += row.turn_id not in seen_turns
            seen_turns.add(row.turn_id)
            done.tasks.add(row.task)
            yield line_of({"feedback": feedback_to_json(stored), "state": row.state, "turn": turn})

    def import_from(self, path: Path) -> Transfer:
        """Reads a file that `export_to` wrote, or a pipe of its lines, completely or not at all.

        Known turns and sessions are not changed, and what was erased here does not come back. The lines are read three
        times: to check all of them before anything is written, to store the media, and to insert the rows. Other
        writers wait only during the insertion.

        Raises:
            InvalidInput: the file is not a valid export; the message names the line. No row was imported.
            StoreError: the rows or the media could not be stored. No row was imported.
        """
        done = Transfer()
        with ImportLines(path) as lines:
            digests = {line.digest for line in read_lines(lines) if isinstance(line, MediaLine)}
            # Media come before the rows that name them: no turn lacks its picture, whenever this ends.
            new = {digest for digest in digests if not media_path(self._media_dir, digest).exists()}
            try:
                for line in read_lines(lines):
                    if isinstance(line, MediaLine):
                        keep_media(self._media_dir, line.digest, line.data)
                done.n_media = len(digests)
                rows = (line for line in read_lines(lines, with_data=False) if isinstance(line, FeedbackLine))
                with self._database.write() as connection:
                    for page in _pages(rows):
                        self._insert(connection, page, done, lines)
                    for task in sorted(done.tasks):
                        increment(connection, feedback_key(task))
            finally:
                # Pictures of rows that were not inserted: erased here, or the import failed.
                if new:
                    with self._database.write() as connection:
                        mark_unused(connection, new)
                    done.n_media -= delete_unused(self._database, self._media_dir)
        return done

    def _insert(self, connection: sa.Connection, page: list[FeedbackLine], done: Transfer, lines: ImportLines) -> None:
        known = set(known_rows(connection, [row.given for row in page]))
        query = sa.select(turns.c.id, turns.c.user_id, turns.c.task, (turns.c.body == ERASED).label("is_erased"))
        stored = connection.execute(query.where(turns.c.id.in_([row.given.turn_id for row in page]))).all()
        erased = {row.id for row in stored if row.is_erased}
        fresh: list[FeedbackLine] = []
        for row in page:
            names = {("id", row.given.id), *([("key", row.given.key)] if row.given.key is not None else ())}
            if names & known:
                done.n_known += 1
            elif row.given.turn_id in erased:
                done.n_erased += 1
            else:
                known |= names
                fresh.append(row)
        tasks = {row.id: str(row.task) for row in stored}
        users = {row.id: row.user_id for row in stored} | {row.given.turn_id: row.turn["user_id"] for row in fresh}
        new = [row for row in fresh if row.given.turn_id not in tasks]
        # Several feedbacks may be about one turn: it is inserted once, as the first of them has it.
        new = list({row.given.turn_id: row for row in reversed(new)}.values())[::-1]
        self._insert_turns(connection, new, done, lines)
        tasks |= {row.given.turn_id: row.turn["task"] for row in new}
        # A file of an earlier version names no audience.
        given = [
            replace(row.given, audience=row.given.audience or default_audience(users[row.given.turn_id]))
            for row in fresh
        ]
        values = [
            feedback_to_row(new) | {"task": tasks[new.turn_id], "state": row.state}
            for new, row in zip(given, fresh, strict=True)
        ]
        if values:
            connection.execute(sa.insert(feedback), values)
        done.n_feedback += len(fresh)
        done.n_ahead += sum(row.is_ahead for row in fresh)
        done.tasks |= {value["task"] for value in values}

    def _insert_turns(
        self, connection: sa.Connection, new: list[FeedbackLine], done: Transfer, lines: ImportLines
    ) -> None:
        if not new:
            return
        times = {row.number: datetime.fromisoformat(row.turn["created_at"]).timestamp() for row in new}
        # The first turn of a session gives its user and time, so the first must come last in the dict.
        opened = {row.turn["session_id"]: (row.turn["user_id"], times[row.number]) for row in reversed(new)}
        values = [{"id": key, "user_id": user, "created_at": at} for key, (user, at) in opened.items()]
        insert_missing(connection, sessions, values, key="id")
        query = sa.select(sessions.c.id, sessions.c.user_id).where(sessions.c.id.in_(opened))
        owners = {row.id: row.user_id for row in connection.execute(query)}
        values = []
        for row in new:
            session_id = row.turn["session_id"]
            # Otherwise a foreign file could put turns into a conversation of somebody else.
            if owners[session_id] != row.turn["user_id"]:
                lines.number = row.number  # the page ends some lines further on
                raise in_line(lines, InvalidInput(f"the session {session_id!r} belongs to another user here"))
            body = {name: row.turn[name] for name in TURN_BODY}
            for part in _file_parts(body):
                if part["media"] is not None and not media_path(self._media_dir, part["media"]).exists():
                    part["media"] = None
                done.n_without_media += part["media"] is None
            head = {name: row.turn[name] for name in ("id", "session_id", "user_id", "task")}
            values.append(head | {"created_at": times[row.number], "body": json.dumps(body)})
            row_to_turn(SimpleNamespace(**values[-1]), self._media_dir)  # as every later reader reads it
        connection.execute(sa.insert(turns), values)
        done.n_turns += len(new)

    def _judged(self, done: Transfer, task: str | None) -> Iterator[tuple[sa.Row[Any], Feedback, dict[str, Any]]]:
        """Each feedback with the row that holds it and its turn as JSON, oldest first."""
        reader = self._database.reader
        query = sa.select(turns).where(turns.c.body != ERASED)
        for page in self._feedback_pages(task):
            done.n_erased += sum(row.state == "erased" for row in page)
            read = reader.read(feedback, page, lambda row: (row, row_to_feedback(row)))
            with self._database.read() as connection:
                ids = sorted({row.turn_id for row in page})
                found = rows_or_one_by_one(connection, turns, ids, query) if ids else []
                erased = sa.select(turns.c.id).where(turns.c.body == ERASED)
                gone = {row.id for row in (rows_or_one_by_one(connection, turns, ids, erased) if ids else [])}
            by_id = {turn["id"]: turn for turn in reader.read(turns, found, _turn_to_json)}
            for row, stored in read:
                if stored is None:
                    continue  # counted above
                if row.turn_id in by_id:
                    yield row, stored, by_id[row.turn_id]
                elif row.turn_id in gone:
                    done.n_erased += 1
                else:
                    done.n_unreadable += 1
        done.n_unreadable += sum(row.table == feedback.name for row in reader.found.values())

    def _feedback_pages(self, task: str | None) -> Iterator[list[sa.Row[Any]]]:
        """Feedback rows, oldest first. Rows that are stored meanwhile are left out."""
        where = {} if task is None else {"task": task}
        reader = self._database.reader
        with self._database.read() as connection:
            last = connection.scalar(sa.select(sa.func.max(feedback.c.seq))) or 0
        after = 0
        while True:
            with self._database.read() as connection:
                page = reader.select(connection, feedback, where, between=(after + 1, last), limit=_PAGE)
            if page:
                yield page
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    def _read_media(self, digest: str | None) -> bytes | None:
        if digest is None:
            return None
        try:
            data = media_path(self._media_dir, digest).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None  # an import would refuse a damaged file


def _pages(rows: Iterable[FeedbackLine]) -> Iterator[list[FeedbackLine]]:
    """The rows in pieces that fit the memory and one statement."""
    page: list[FeedbackLine] = []
    n_bytes = 0
    for row in rows:
        page.append(row)
        n_bytes += row.n_bytes
        if len(page) == _PAGE or n_bytes > _PAGE_BYTES:
            yield page
            page, n_bytes = [], 0
    if page:
        yield page


def _turn_to_json(row: sa.Row[Any]) -> dict[str, Any]:
    body = json.loads(row.body)
    at = datetime.fromtimestamp(row.created_at, UTC).isoformat()
    head = {"id": row.id, "session_id": row.session_id, "user_id": row.user_id, "task": row.task}
    turn = {**head, "created_at": at, **{name: body[name] for name in TURN_BODY}}
    for part in _file_parts(turn):
        part["path"] = None
        part.setdefault("media", None)
    return turn


def _file_parts(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [part for part in [*turn["request"], *turn["response"]] if part["type"] in ("image", "audio")]
