"""The pictures and recordings of turns, each kept once under its sha256, until no turn refers to it any more."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa

from smallai_assistant.filesystem import sync_path, write_atomically
from smallai_assistant.storage.database import Database, upsert
from smallai_assistant.storage.row_reader import RowReader
from smallai_assistant.storage.schema import ERASED, meta, turns

# A larger file is not copied: the turn keeps its path alone. 64 MiB hold half an hour of 16-bit speech at 16 kHz.
MAX_KEPT_MEDIA_BYTES = 64 * 2**20
# The key in `meta` of what may have to be deleted. It is written together with the erasure, an empty list too, so that
# the next start finishes an erasure that was killed after its commit.
_TO_DELETE = "media_to_delete"
_IN_BODY = re.compile(r'"media": "([0-9a-f]{64})"')  # as `json.dumps` writes it; in a text its quotes are escaped


def media_path(folder: Path, digest: str) -> Path:
    """The path of the picture or recording with this sha256, whether it exists or not."""
    return folder / digest[:2] / digest  # 256 folders: one folder with very many files is slow to list


def media_digest(path: Path) -> str | None:
    """The sha256 of a kept file, from its path; None if the path is not one that `media_path` gives."""
    is_kept = len(path.name) == 64 and path.parent.name == path.name[:2]
    return path.name if is_kept else None


def keep_media(folder: Path, digest: str, data: bytes) -> None:
    """Stores a picture or recording under its sha256, durably. Idempotent.

    Raises:
        StoreFull: the disk is full.
        StoreError: the file cannot be written for another reason.
    """
    target = media_path(folder, digest)
    if target.exists():
        sync_path(target.parent)  # the process that wrote it may have been killed just before its sync
    else:
        write_atomically(target, data)


def digests_in(body: str) -> set[str]:
    """The sha256 of every picture and recording that the body of a stored turn refers to."""
    return set(_IN_BODY.findall(body))


def mark_unused(connection: sa.Connection, digests: Collection[str]) -> None:
    """Records, in the caller's transaction, that these files may have lost their last turn."""
    waiting = sorted(set(digests) | (_marked(connection) or set()))
    upsert(connection, meta, [{"key": _TO_DELETE, "value": json.dumps(waiting)}], key="key")


def has_marked(database: Database) -> bool:
    """Whether marked files wait for `delete_unused`: it was killed, or has not begun."""
    with database.read() as connection:
        return _marked(connection) is not None


def delete_unused(database: Database, folder: Path) -> int:
    """Deletes the marked files that no turn refers to, and returns how many there were. Idempotent."""
    if not has_marked(database):  # nobody has to wait for a writer
        return 0
    n_deleted = 0
    # Only one transaction writes at a time: no turn that refers to one of these files can be stored meanwhile.
    with database.write() as connection:
        marked = _marked(connection) or set()
        for digest in marked - (_used(connection, database.reader, marked) if marked else set()):
            path = media_path(folder, digest)
            if path.exists():
                path.unlink()
                sync_path(path.parent)
                n_deleted += 1
            with contextlib.suppress(OSError):  # other files are in it
                path.parent.rmdir()
        connection.execute(sa.delete(meta).where(meta.c.key == _TO_DELETE))
    return n_deleted


def _marked(connection: sa.Connection) -> set[str] | None:
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == _TO_DELETE))
    return None if value is None else set(json.loads(value))


def _used(connection: sa.Connection, reader: RowReader, digests: set[str]) -> set[str]:
    # The bodies are searched as texts: one that cannot be read as a turn still keeps its picture.
    return {
        digest
        for row in reader.select(connection, turns, {}, but={"body": ERASED})
        for digest in digests_in(row.body) & digests
    }
