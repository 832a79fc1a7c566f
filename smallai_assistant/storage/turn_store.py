"""Sessions and turns: a background thread writes them, and a future tells when a turn is on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import AssistantError, InvalidInput, StoreError
from smallai_assistant.storage.database import Database, insert_missing
from smallai_assistant.storage.import_lines import depth
from smallai_assistant.storage.media import MAX_KEPT_MEDIA_BYTES, digests_in, keep_media, media_path
from smallai_assistant.storage.row_reader import chunks, means_damage, rows_or_one_by_one
from smallai_assistant.storage.schema import ERASED, sessions, turns
from smallai_assistant.storage.serialization import MAX_DETAILS_DEPTH, parts_from_json, parts_to_json
from smallai_assistant.types import AudioPart, ImagePart, Message, Notice, Part, Turn

log = logging.getLogger(__name__)

# What the writer thread takes from its queue: a turn to store, an event to set once all turns before it are stored, or
# None, the end.
_Entry = tuple[Turn, "Future[Turn]"] | threading.Event | None


class TurnStore:
    """Sessions and turns in the database, and their pictures and recordings as files.

    One writer thread commits the turns, several in one transaction if they arrive quickly. So an answer does not wait
    for the disk; a caller that needs durability waits for the future of `add_turn`.

    Args:
        media_dir: the folder of the pictures and recordings, each under its sha256.
    """

    def __init__(self, database: Database, media_dir: Path) -> None:
        self._database = database
        self._media_dir = media_dir
        self._queue: SimpleQueue[_Entry] = SimpleQueue()
        self._is_closed = False
        self._closing = threading.Lock()  # so that no turn is queued after the end: nobody would store it
        self._writer = threading.Thread(target=self._write_loop, name="turn-writer", daemon=True)
        self._writer.start()

    @property
    def media_dir(self) -> Path:
        """The folder that keeps the pictures and recordings of the turns."""
        return self._media_dir

    def user_of_session(self, session_id: str) -> str | None:
        """The user that a session was opened for, None if none was named.

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
        """Sessions that have turns, the most recently used first.

        Returns:
            A dict for each session: id, user_id, n_turns, first_text (of the first request), last_at (of the last turn,
            seconds since 1970).
        """
        counted = (
            sa.select(
                turns.c.session_id,
                sa.func.count().label("n_turns"),
                sa.func.min(turns.c.seq).label("first_seq"),
                sa.func.max(turns.c.created_at).label("last_at"),
            )
            .where(turns.c.body != ERASED)
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
            try:
                rows = list(connection.execute(query).all())
            except sa.exc.DBAPIError as error:
                if not means_damage(error):
                    raise
                return self._list_slowly(connection, limit)
        return [
            {
                "id": row.id,
                "user_id": row.user_id,
                "n_turns": row.n_turns,
                "last_at": row.last_at,
                "first_text": _first_text(row.body),
            }
            for row in rows
        ]

    def _list_slowly(self, connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
        """What `session_list` returns, from the rows that can still be read."""
        found: dict[str, list[sa.Row[Any]]] = {}
        for row in self._database.reader.select(connection, turns, {}, but={"body": ERASED}):
            found.setdefault(row.session_id, []).append(row)
        listed = [
            {
                "id": session_id,
                "user_id": rows[0].user_id,
                "n_turns": len(rows),
                "last_at": max(row.created_at for row in rows),
                "first_text": _first_text(rows[0].body),
            }
            for session_id, rows in found.items()
        ]
        return sorted(listed, key=lambda session: float(session["last_at"]), reverse=True)[:limit]

    def add_turn(self, turn: Turn) -> Future[Turn]:
        """Queues a turn; the future is done when the turn is on disk, or fails with StoreError."""
        future: Future[Turn] = Future()
        with self._closing:
            if not self._is_closed:
                self._queue.put((turn, future))
                return future
        future.set_exception(StoreError("the assistant is closed"))
        return future

    def turns(self, session_id: str | None, *, limit: int | None = None) -> list[Turn]:
        """A session's turns, or with None those of all sessions, oldest first; a limit keeps the last ones."""
        reader = self._database.reader
        where = {} if session_id is None else {"session_id": session_id}
        with self._database.read() as connection:
            rows = reader.select(connection, turns, where, but={"body": ERASED}, limit=limit)
        return reader.read(turns, rows, self._read)

    def turn(self, turn_id: str) -> Turn:
        """The turn with this id.

        Raises:
            InvalidInput: there is none, or it was erased.
            StoreError: it cannot be read.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(turns).where(turns.c.id == turn_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no turn {turn_id!r}", hint="use the turn_id of an answer")
        if row.body == ERASED:
            raise InvalidInput(f"the turn {turn_id!r} was erased", hint="there is nothing left of it")
        for turn in self._database.reader.read(turns, [row], self._read):
            return turn
        raise StoreError(f"the turn {turn_id!r} cannot be read", hint="see `smallai doctor`")

    def turns_by_id(self, ids: Sequence[str]) -> dict[str, Turn]:
        """The turns with these ids, without those that are unknown, erased, or cannot be read."""
        query = sa.select(turns).where(turns.c.body != ERASED)
        rows: list[sa.Row[Any]] = []
        with self._database.read() as connection:
            for chunk in chunks(ids):
                rows += rows_or_one_by_one(connection, turns, chunk, query)
        return {turn.id: turn for turn in self._database.reader.read(turns, rows, self._read)}

    def forget_session(self, session_id: str) -> list[str]:
        """Forgets whose session it is. Returns the ids of its turns that are not erased yet.

        Raises:
            InvalidInput: there is no such session.
        """
        self.user_of_session(session_id)
        with self._database.write() as connection:
            connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(user_id=None))
            of_session = turns.c.session_id == session_id
            return list(connection.scalars(sa.select(turns.c.id).where(of_session, turns.c.body != ERASED)))

    def forget_user(self, user_id: str) -> list[str]:
        """Forgets whose sessions a user's were. Returns the ids of the user's turns that are not erased yet."""
        with self._database.write() as connection:
            connection.execute(sa.update(sessions).where(sessions.c.user_id == user_id).values(user_id=None))
            return list(connection.scalars(sa.select(turns.c.id).where(turns.c.user_id == user_id)))

    def users(self) -> list[dict[str, Any]]:
        """Everybody who asked something: dicts with id, n_turns and last_at (seconds since 1970), the latest first."""
        last_at = sa.func.max(turns.c.created_at).label("last_at")
        query = sa.select(turns.c.user_id.label("id"), sa.func.count().label("n_turns"), last_at)
        query = query.where(turns.c.user_id.is_not(None)).group_by(turns.c.user_id).order_by(last_at.desc())
        with self._database.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def not_erased(self, ids: Sequence[str]) -> set[str]:
        """The ids among these whose turns are erased are left out; a turn that is not stored yet stays."""
        erased: set[str] = set()
        with self._database.read() as connection:
            for chunk in chunks(ids):
                erased |= set(
                    connection.scalars(sa.select(turns.c.id).where(turns.c.id.in_(chunk), turns.c.body == ERASED))
                )
        return set(ids) - erased

    def flush(self) -> None:
        """Returns when all turns that were queued before are on disk or have failed."""
        # A callback of a turn's future runs in the writer thread. It must not wait for that thread, so it stores the
        # queued turns itself.
        if threading.current_thread() is self._writer:
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
        """Commits the queued turns and stops the writer. Idempotent."""
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
        """Commits `first` and the entries queued behind it. Returns False if one of them is the end of the queue."""
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
            for event in waiting:  # also after a failure: whoever waits would wait forever
                event.set()
        if entry is None:
            self._queue.put(None)  # a callback's `flush` may have taken the end, which the writer's loop needs
        return entry is not None

    def _commit(self, batch: list[tuple[Turn, Future[Turn]]]) -> None:
        try:
            rows = [self._turn_to_row(turn) for turn, _ in batch]
            for row in rows:
                row_to_turn(
                    SimpleNamespace(**row), self._media_dir
                )  # as it is read later: what cannot be read is refused now
            # Of several turns of a new session the first one gives the user and the time, so the first must come last.
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
                for row, (turn, _) in zip(rows, batch, strict=True):
                    # An erasure may have deleted the same picture since it was kept. In this transaction none can.
                    if not all(media_path(self._media_dir, digest).exists() for digest in digests_in(row["body"])):
                        self._stored_parts((*turn.request.parts, *turn.response))
                connection.execute(sa.insert(turns), rows)
        except BaseException as error:
            if len(batch) > 1:  # one turn that cannot be stored must not prevent the others
                for entry in batch:
                    self._commit([entry])
                return
            failure = error if isinstance(error, AssistantError) else StoreError(f"the turn was not stored: {error}")
            batch[0][1].set_exception(failure)
        else:
            for turn, future in batch:
                future.set_result(turn)

    def _turn_to_row(self, turn: Turn) -> dict[str, Any]:
        body = {
            "role": turn.request.role,
            "request": self._stored_parts(turn.request.parts),
            "response": self._stored_parts(turn.response),
            "model": turn.model,
            "adapter": turn.adapter,
            "notices": [[notice.code, notice.text] for notice in turn.notices],
            "details": _storable_details(turn),
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

    def _read(self, row: sa.Row[Any]) -> Turn:
        return row_to_turn(row, self._media_dir)

    def _stored_parts(self, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
        rows = parts_to_json(parts)
        for part, row in zip(parts, rows, strict=True):
            if isinstance(part, (ImagePart, AudioPart)):
                row["media"] = self._keep_media(part)
        return rows

    def _keep_media(self, part: ImagePart | AudioPart) -> str | None:
        """Copies the file into the media folder, so that a later correction still has what it is about.

        Returns:
            The sha256 under which it is kept; None if it is too large or gone, and then the turn keeps its path alone.
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


def row_to_turn(row: Any, media_dir: Path) -> Turn:
    """The turn in a table row; its files are those that the store kept."""
    body = json.loads(row.body)
    return Turn(
        id=row.id,
        session_id=row.session_id,
        user_id=row.user_id,
        task=row.task,
        request=Message(_loaded_parts(body["request"], media_dir), role=body["role"]),
        response=_loaded_parts(body["response"], media_dir),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        model=body["model"],
        adapter=body["adapter"],
        notices=tuple(Notice(code, text) for code, text in body["notices"]),
        details=body["details"],
        timings=body["timings"],
        error=body["error"],
    )


def _loaded_parts(rows: list[dict[str, Any]], media_dir: Path) -> tuple[Part, ...]:
    for row in rows:
        if row.get("media"):
            row["path"] = str(media_path(media_dir, row["media"]))
    return parts_from_json(rows)


def _first_text(body: str) -> str:
    """The text of the request; empty if the row cannot be read."""
    try:
        return "".join(part.get("text") or "" for part in json.loads(body)["request"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""


def _storable_details(turn: Turn) -> dict[str, Any]:
    """The details of a turn; none if a plugin yielded something that is not JSON, or that could not be read again."""
    details = dict(turn.details)
    try:
        if depth(details) <= MAX_DETAILS_DEPTH and isinstance(json.loads(json.dumps(details)), dict):
            return details
        reason = f"they are nested over {MAX_DETAILS_DEPTH} levels deep"
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    log.error("the details of a turn of %s are not stored: %s", turn.task, reason)
    return {}
