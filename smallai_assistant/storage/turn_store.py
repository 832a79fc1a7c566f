"""Sessions and turns: written behind the answer, acknowledged by a future once on disk."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import AssistantError, InvalidInput, StoreError
from smallai_assistant.filesystem import sync_path, write_atomically
from smallai_assistant.storage.database import Database, insert_missing
from smallai_assistant.storage.schema import sessions, turns
from smallai_assistant.storage.serialization import parts_from_json, parts_to_json
from smallai_assistant.types import AudioPart, ImagePart, Message, Notice, Part, Turn

MAX_KEPT_MEDIA_BYTES = 64 * 2**20
_IDS_PER_STATEMENT = 500  # SQLite's default limit is 32,766 bound values; older builds allow 999

_Entry = tuple[Turn, "Future[Turn]"] | threading.Event | None  # a turn, somebody who waits for those before, the end


class TurnStore:
    """Sessions and turns in the database, their pictures and recordings beside it.

    Turns are committed by one writer thread, several at a time where they come fast: an answer never waits
    for the disk, whoever needs the promise waits for the future.
    """

    def __init__(self, database: Database, media_dir: Path) -> None:
        self._database = database
        self._media_dir = media_dir
        self._queue: SimpleQueue[_Entry] = SimpleQueue()
        self._is_closed = False
        self._closing = threading.Lock()  # nothing is queued behind the end
        self._writer = threading.Thread(target=self._write_loop, name="turn-writer", daemon=True)
        self._writer.start()

    def user_of_session(self, session_id: str) -> str | None:
        """The user a session was opened for.

        Raises:
            InvalidInput: there is no such session.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(sessions).where(sessions.c.id == session_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no session {session_id!r}", hint="see `smallai sessions list`")
        user_id: str | None = row.user_id
        return user_id

    def session_list(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """Sessions with turns, newest first: id, user_id, n_turns, first_text, last_at (seconds since 1970)."""
        counted = (
            sa.select(
                turns.c.session_id,
                sa.func.count().label("n_turns"),
                sa.func.min(turns.c.seq).label("first_seq"),
                sa.func.max(turns.c.created_at).label("last_at"),
            )
            .group_by(turns.c.session_id)
            .subquery()
        )
        query = (
            sa.select(sessions.c.id, sessions.c.user_id, counted.c.n_turns, counted.c.last_at, turns.c.body)
            .join(counted, counted.c.session_id == sessions.c.id)
            .join(turns, turns.c.seq == counted.c.first_seq)
            .order_by(counted.c.last_at.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            {
                "id": row.id,
                "user_id": row.user_id,
                "n_turns": row.n_turns,
                "last_at": row.last_at,
                "first_text": "".join(part.get("text") or "" for part in json.loads(row.body)["request"]),
            }
            for row in rows
        ]

    def add_turn(self, turn: Turn) -> Future[Turn]:
        """Queues a turn; the future is done once it is on disk, or fails with StoreError."""
        future: Future[Turn] = Future()
        with self._closing:
            if not self._is_closed:
                self._queue.put((turn, future))
                return future
        future.set_exception(StoreError("the assistant is closed"))
        return future

    def turns(self, session_id: str, *, limit: int | None = None) -> list[Turn]:
        """A session's turns, oldest first; with a limit, the last ones."""
        query = sa.select(turns).where(turns.c.session_id == session_id).order_by(turns.c.seq.desc())
        with self._database.read() as connection:
            rows = connection.execute(query.limit(limit) if limit is not None else query).all()
        return [self._turn_of(row) for row in reversed(rows)]

    def turn(self, turn_id: str) -> Turn:
        """One turn.

        Raises:
            InvalidInput: there is none of that id.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(turns).where(turns.c.id == turn_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no turn {turn_id!r}", hint="use the turn_id of an answer")
        return self._turn_of(row)

    def turns_by_id(self, ids: Sequence[str]) -> dict[str, Turn]:
        """The turns of these ids that there are."""
        found: dict[str, Turn] = {}
        with self._database.read() as connection:
            for start in range(0, len(ids), _IDS_PER_STATEMENT):
                query = sa.select(turns).where(turns.c.id.in_(ids[start : start + _IDS_PER_STATEMENT]))
                found |= {row.id: self._turn_of(row) for row in connection.execute(query)}
        return found

    def flush(self) -> None:
        """Returns once the turns that were queued before are on disk, or have failed."""
        if threading.current_thread() is self._writer:  # an observer of a stored turn: waiting would never end
            if not self._queue.empty():
                self._commit_queued(self._queue.get())
            return
        done = threading.Event()
        with self._closing:
            if self._is_closed:
                return
            self._queue.put(done)
        done.wait()

    def close(self) -> None:
        """Commits what is queued and stops the writer."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        self._writer.join()

    def _write_loop(self) -> None:
        while self._commit_queued(self._queue.get()):
            pass

    def _commit_queued(self, first: _Entry) -> bool:
        """Commits `first` and what came meanwhile. Returns False at the end of the queue."""
        batch: list[tuple[Turn, Future[Turn]]] = []
        waiting: list[threading.Event] = []
        entry = first
        while entry is not None:
            if isinstance(entry, threading.Event):
                waiting.append(entry)
            else:
                batch.append(entry)
            if self._queue.empty():
                break
            entry = self._queue.get()
        try:
            if batch:
                self._commit(batch)
        finally:
            for event in waiting:
                event.set()
        if entry is None:
            self._queue.put(None)  # for the loop, where it was an observer's flush that met the end
        return entry is not None

    def _commit(self, batch: list[tuple[Turn, Future[Turn]]]) -> None:
        try:
            rows = [self._row_of(turn) for turn, _ in batch]
            opened = {
                turn.session_id: {
                    "id": turn.session_id,
                    "user_id": turn.user_id,
                    "created_at": turn.created_at.timestamp(),
                }
                for turn, _ in reversed(batch)
            }
            with self._database.write() as connection:
                insert_missing(connection, sessions, list(opened.values()), key="id")
                connection.execute(sa.insert(turns), rows)
        except BaseException as error:
            if len(batch) > 1:  # one that cannot be stored must not take the others with it
                for each in batch:
                    self._commit([each])
                return
            failure = error if isinstance(error, AssistantError) else StoreError(f"the turn was not stored: {error}")
            batch[0][1].set_exception(failure)
        else:
            for turn, future in batch:
                future.set_result(turn)

    def _row_of(self, turn: Turn) -> dict[str, Any]:
        body = {
            "role": turn.request.role,
            "request": self._stored_parts(turn.request.parts),
            "response": self._stored_parts(turn.response),
            "model": turn.model,
            "adapter": turn.adapter,
            "notices": [[notice.code, notice.text] for notice in turn.notices],
            "details": dict(turn.details),
            "timings": dict(turn.timings),
            "error": turn.error,
        }
        return {
            "id": turn.id,
            "session_id": turn.session_id,
            "user_id": turn.user_id,
            "task": turn.task,
            "created_at": turn.created_at.timestamp(),
            "body": json.dumps(body),
        }

    def _stored_parts(self, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
        rows = parts_to_json(parts)
        for part, row in zip(parts, rows, strict=True):
            if isinstance(part, (ImagePart, AudioPart)):
                row["media"] = self._keep(part)
        return rows

    def _keep(self, part: ImagePart | AudioPart) -> str | None:
        """Stores the file under its hash, so that a later correction still has what it is about.

        Returns None where it is too large or gone: the turn then has the path alone.
        """
        try:
            if part.path is not None and part.path.stat().st_size > MAX_KEPT_MEDIA_BYTES:
                return None
            data = part.read()
        except (InvalidInput, OSError):
            return None
        digest = hashlib.sha256(data).hexdigest()
        keep_media(self._media_dir, digest, data)
        return digest

    def _turn_of(self, row: sa.Row[Any]) -> Turn:
        body = json.loads(row.body)
        return Turn(
            id=row.id,
            session_id=row.session_id,
            user_id=row.user_id,
            task=row.task,
            request=Message(self._loaded_parts(body["request"]), role=body["role"]),
            response=self._loaded_parts(body["response"]),
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            model=body["model"],
            adapter=body["adapter"],
            notices=tuple(Notice(code, text) for code, text in body["notices"]),
            details=body["details"],
            timings=body["timings"],
            error=body["error"],
        )

    def _loaded_parts(self, rows: list[dict[str, Any]]) -> tuple[Part, ...]:
        for row in rows:
            if row.get("media"):
                row["path"] = str(media_path(self._media_dir, row["media"]))
        return parts_from_json(rows)


def media_path(folder: Path, digest: str) -> Path:
    """Where the file with that sha256 lies, if it is kept."""
    return folder / digest[:2] / digest


def keep_media(folder: Path, digest: str, data: bytes) -> None:
    """Stores a picture or recording under its sha256, durably.

    Raises:
        StoreFull: the disk is full.
        StoreError: it cannot be written.
    """
    target = media_path(folder, digest)
    if target.exists():
        sync_path(target.parent)  # whoever wrote it may have been killed just before that
    else:
        write_atomically(target, data)
