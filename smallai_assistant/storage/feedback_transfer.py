"""Feedback as a file: exported with its turns, pictures and recordings, imported completely or not at all.

One JSON object a line, the first one is the header. A feedback is `{"feedback": ..., "state": ..., "turn": ...}`. A
picture or recording is `{"media": SHA256, "data": BASE64}`, before the first feedback that needs it. A file needs no
other files and can be piped. Paths are neither written nor read: they would reveal the sender's folders, and a foreign
file could name any file of this machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import InputTooLarge, InvalidInput, StoreError
from smallai_assistant.feedback import Feedback
from smallai_assistant.filesystem import sync_path
from smallai_assistant.storage.database import Database, insert_missing
from smallai_assistant.storage.feedback_store import (
    feedback_from_json,
    feedback_to_json,
    feedback_to_row,
    known_rows,
    row_to_feedback,
)
from smallai_assistant.storage.schema import feedback, sessions, turns
from smallai_assistant.storage.serialization import TURN_BODY, checked_turn
from smallai_assistant.storage.turn_store import MAX_KEPT_MEDIA_BYTES, keep_media, media_path
from smallai_assistant.types import now

FORMAT = "smallai-feedback"
VERSION = 1
MAX_LINE_BYTES = MAX_KEPT_MEDIA_BYTES * 4 // 3 + 10_000  # base64 of the largest file that is kept
# Rows read in one transaction. In the rollback journal mode a long read would make SQLite's writers wait.
_PAGE = 200


@dataclass(slots=True)
class Transfer:
    """What an export or an import did.

    Attributes:
        n_feedback: feedback rows written.
        n_turns: turns written.
        n_media: pictures and recordings written.
        n_known: rows skipped because their id or key is already stored or occurs earlier in the file.
        n_erased: rows left out of an export because their content was erased.
        n_without_media: pictures and recordings that were never kept, are gone or damaged, or were left out.
        tasks: tasks of the rows written; after an import their fast memory must be rebuilt.
    """

    n_feedback: int = 0
    n_turns: int = 0
    n_media: int = 0
    n_known: int = 0
    n_erased: int = 0
    n_without_media: int = 0
    tasks: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Row:
    number: int  # of the line, for error messages
    given: Feedback
    state: str
    turn: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Media:
    digest: str
    data: bytes


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
        yield _line({"format": FORMAT, "version": VERSION, "created_at": now().isoformat()})
        seen_turns: set[str] = set()
        seen_media: set[str] = set()
        for row in self._rows(task):
            stored = row_to_feedback(row)
            if stored is None:
                done.n_erased += 1
                continue
            turn = _turn_to_json(row)
            for part in _file_parts(turn):
                digest = part["media"]
                data = self._read_media(digest) if with_media and digest not in seen_media else None
                if data is not None:
                    seen_media.add(digest)
                    done.n_media += 1
                    yield _line({"media": digest, "data": base64.b64encode(data).decode()})
                elif digest not in seen_media:
                    done.n_without_media += 1
            done.n_feedback += 1
            done.n_turns += row.turn_id not in seen_turns
            seen_turns.add(row.turn_id)
            done.tasks.add(row.task)
            yield _line({"feedback": feedback_to_json(stored), "state": row.state, "turn": turn})

    def import_from(self, path: Path) -> Transfer:
        """Reads a file that `export_to` wrote, completely or not at all.

        Known turns and sessions are not changed. The file is read three times: to check all of it before anything is
        written, to store the media, and to insert the rows. Other writers wait only during the insertion.

        Raises:
            InvalidInput: the file is not a valid export; the message names the line. No row was imported.
            StoreError: the rows or the media could not be stored. No row was imported.
        """
        done = Transfer()
        digests = {line.digest for line in self._read(path) if isinstance(line, _Media)}
        # Media come before the rows that name them. If a row fails after that, a file too much is kept, and no turn
        # lacks its picture.
        for line in self._read(path):
            if isinstance(line, _Media):
                keep_media(self._media_dir, line.digest, line.data)
        done.n_media = len(digests)
        rows = (line for line in self._read(path, with_data=False) if isinstance(line, _Row))
        with self._database.write() as connection:
            while page := list(itertools.islice(rows, _PAGE)):
                self._insert(connection, page, done, path)
        return done

    def _insert(self, connection: sa.Connection, page: list[_Row], done: Transfer, path: Path) -> None:
        known = set(known_rows(connection, [row.given for row in page]))
        fresh: list[_Row] = []
        for row in page:
            names = {("id", row.given.id), *([("key", row.given.key)] if row.given.key is not None else ())}
            if names & known:
                done.n_known += 1
            else:
                known |= names
                fresh.append(row)
        query = sa.select(turns.c.id, turns.c.task).where(turns.c.id.in_([row.given.turn_id for row in fresh]))
        tasks = {row.id: str(row.task) for row in connection.execute(query)}
        new = [row for row in fresh if row.given.turn_id not in tasks]
        # Several feedbacks may be about one turn: it is inserted once, as the first of them has it.
        new = list({row.given.turn_id: row for row in reversed(new)}.values())[::-1]
        self._insert_turns(connection, new, done, path)
        tasks |= {row.given.turn_id: row.turn["task"] for row in new}
        values = [feedback_to_row(row.given) | {"task": tasks[row.given.turn_id], "state": row.state} for row in fresh]
        if values:
            connection.execute(sa.insert(feedback), values)
        done.n_feedback += len(fresh)
        done.tasks |= {value["task"] for value in values}

    def _insert_turns(self, connection: sa.Connection, new: list[_Row], done: Transfer, path: Path) -> None:
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
                error = InvalidInput(f"the session {session_id!r} belongs to another user here")
                raise _with_line(path, row.number, error)
            body = {name: row.turn[name] for name in TURN_BODY}
            for part in _file_parts(body):
                if part["media"] is not None and not media_path(self._media_dir, part["media"]).exists():
                    part["media"] = None
                done.n_without_media += part["media"] is None
            head = {name: row.turn[name] for name in ("id", "session_id", "user_id", "task")}
            values.append(head | {"created_at": times[row.number], "body": json.dumps(body)})
        connection.execute(sa.insert(turns), values)
        done.n_turns += len(new)

    def _read(self, path: Path, *, with_data: bool = True) -> Iterator[_Row | _Media]:
        """The checked lines after the header; `with_data=False` skips decoding and checking the data of media."""
        number = 0
        try:
            with path.open("rb") as file:
                # The limit keeps a hostile file without line ends from filling the memory.
                while raw := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    row = _parse(raw)
                    if number == 1:
                        _check_header(row)
                    elif "media" in row:
                        yield _media(row, with_data=with_data)
                    else:
                        yield _checked_row(number, row)
            if number == 0:
                raise InvalidInput("the file is empty")
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror}", hint="give a file that was exported") from error
        except InvalidInput as error:
            raise _with_line(path, max(number, 1), error) from error

    def _rows(self, task: str | None) -> Iterator[sa.Row[Any]]:
        """Feedback rows joined with their turns, oldest first. Rows that are stored meanwhile are left out."""
        columns = [turns.c[name].label(f"turn_{name}") for name in ("session_id", "user_id", "task", "created_at")]
        query = sa.select(feedback, *columns, turns.c.body.label("turn_body")).join(
            turns, turns.c.id == feedback.c.turn_id
        )
        if task is not None:
            query = query.where(feedback.c.task == task)
        with self._database.read() as connection:
            last = connection.scalar(sa.select(sa.func.max(feedback.c.seq))) or 0
        after = 0
        while True:
            page = query.where(feedback.c.seq > after, feedback.c.seq <= last).order_by(feedback.c.seq).limit(_PAGE)
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1].seq

    def _read_media(self, digest: str | None) -> bytes | None:
        if digest is None:
            return None
        try:
            data = media_path(self._media_dir, digest).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None  # an import would refuse a damaged file


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value) + "\n"


def _with_line(path: Path, number: int, error: InvalidInput) -> InvalidInput:
    """The same error with the file and the line in its message."""
    kind = InputTooLarge if isinstance(error, InputTooLarge) else InvalidInput
    return kind(f"{path}, line {number}: {error.message}", hint=error.hint or "nothing was imported")


def _turn_to_json(row: sa.Row[Any]) -> dict[str, Any]:
    body = json.loads(row.turn_body)
    at = datetime.fromtimestamp(row.turn_created_at, now().tzinfo).isoformat()
    head = {"id": row.turn_id, "session_id": row.turn_session_id, "user_id": row.turn_user_id, "task": row.turn_task}
    turn = {**head, "created_at": at, **{name: body[name] for name in TURN_BODY}}
    for part in _file_parts(turn):
        part["path"] = None
        part.setdefault("media", None)
    return turn


def _file_parts(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [part for part in [*turn["request"], *turn["response"]] if part["type"] in ("image", "audio")]


def _parse(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise InputTooLarge(f"the line is over {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON in UTF-8: {error}") from error
    if not isinstance(row, dict):
        raise InvalidInput("not a JSON object")
    return row


def _check_header(row: Mapping[str, Any]) -> None:
    if row.get("format") != FORMAT:
        raise InvalidInput("the header is missing", hint="give a file that `smallai feedback export` wrote")
    version = row.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise InvalidInput(f"version {version!r}, this program reads {VERSION}", hint="upgrade smallai-assistant")


def _media(row: Mapping[str, Any], *, with_data: bool) -> _Media:
    if row.keys() != {"media", "data"} or not isinstance(row["media"], str) or not isinstance(row["data"], str):
        raise InvalidInput("a media line has the texts `media` and `data`, and nothing else")
    if not with_data:
        return _Media(row["media"], b"")
    try:
        data = base64.b64decode(row["data"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"not base64: {error}") from error
    if hashlib.sha256(data).hexdigest() != row["media"]:
        raise InvalidInput("the data does not have the sha256 that the line states")
    return _Media(row["media"], data)


def _checked_row(number: int, row: Mapping[str, Any]) -> _Row:
    if row.keys() != {"feedback", "state", "turn"} or not isinstance(row["feedback"], dict):
        raise InvalidInput("a feedback line has `feedback`, `state` and `turn`, and nothing else")
    if row["state"] not in ("active", "retracted"):
        raise InvalidInput(f"state is {row['state']!r}", hint="known: active, retracted")
    given = feedback_from_json(row["feedback"])
    if "id" not in row["feedback"] or not given.id:
        raise InvalidInput("the feedback has no id")
    turn = checked_turn(row["turn"])
    if given.turn_id != turn["id"]:
        raise InvalidInput(f"the feedback is about {given.turn_id!r}, the turn is {turn['id']!r}")
    return _Row(number, given, row["state"], turn)
