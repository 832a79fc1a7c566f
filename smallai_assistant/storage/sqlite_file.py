"""The file of a SQLite database: who may read it, who holds it, whether it was lost, and its copies."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from smallai_assistant.errors import StoreError
from smallai_assistant.filesystem import sync_path

# The folders of a data directory that hold what a database refers to.
KEPT_FOLDERS = ("adapters", "media")
SET_ASIDE = "set_aside"  # the folder of what `smallai doctor --repair` moved away
PRIVATE_FOLDERS = (*KEPT_FOLDERS, "learning", "tasks", SET_ASIDE)
HISTORY = "chat_history"  # what people typed in `smallai chat`
_OURS = {*PRIVATE_FOLDERS, "models", HISTORY}  # what a data directory of ours holds beside the database
_SUFFIXES = ("", "-journal", "-wal", "-shm")  # SQLite's own files beside a database
_PROC_LOCKS = Path("/proc/locks")


def check_not_lost(path: Path, data_dir: Path) -> None:
    """Checks that a database is there if the files are there that it refers to.

    Raises:
        StoreError: the file is missing or empty beside adapters or media. A new database would forget all of them.
    """
    if path.parent != data_dir or (path.is_file() and path.stat().st_size > 0):
        return
    if full := [name for name in KEPT_FOLDERS if _has_files(data_dir / name)]:
        raise StoreError(
            f"{path.name} is {'empty' if path.is_file() else 'missing'}, and {data_dir} still has "
            f"{' and '.join(full)} of it",
            hint="put the file back from a backup, or let `smallai doctor --repair` begin a new one",
        )


def _has_files(folder: Path) -> bool:
    # Lock files and folders of work that was killed are no loss.
    return folder.is_dir() and any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())


def make_private(path: Path, data_dir: Path) -> list[Path]:
    """Creates a database file for its owner alone, and takes away the rights that others have to a data directory.

    A file that exists elsewhere is left as it is: whoever named it decides who may read it.

    Returns:
        The files and folders whose rights were changed.
    """
    with contextlib.suppress(OSError):  # it is there already; or SQLite says better why it cannot be made
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if path.parent != data_dir:
        return []
    folders = [data_dir / name for name in PRIVATE_FOLDERS]
    # A folder that holds other things too, or is shared as /tmp is, is not only ours: somebody may have to reach it.
    is_for_all = data_dir.stat().st_mode & stat.S_ISVTX
    ours = (entry.name in _OURS or entry.name.startswith(f"{path.stem}.") for entry in data_dir.iterdir())
    if not is_for_all and all(ours):
        folders.append(data_dir)
    files = [path.with_name(path.name + suffix) for suffix in _SUFFIXES]
    wanted = [(entry, stat.S_ISDIR) for entry in folders]
    wanted += [(entry, stat.S_ISREG) for entry in (*files, *backups_of(path), data_dir / HISTORY)]
    changed = []
    for entry, is_kind in wanted:
        with contextlib.suppress(OSError):  # it may belong to somebody else, who decides about it
            mode = entry.lstat().st_mode  # of a link itself: what it leads to is not ours
            if is_kind(mode) and mode & 0o077:
                entry.chmod(stat.S_IMODE(mode) & 0o700)
                changed.append(entry)
    return changed


def backups_of(path: Path) -> list[Path]:
    """The copies that migrations made of a database."""
    return sorted([*path.parent.glob(f"{path.stem}.schema*.sqlite"), *path.parent.glob(f"{path.stem}.schema*.begun")])


def back_up(path: Path, target: Path) -> None:
    """Copies a database; the copy gets its final name when it is complete and on disk.

    Raises:
        OSError: it could not be written.
        sqlite3.Error: the database cannot be read or written.
    """
    begun = target.with_suffix(".begun")
    try:
        begun.unlink(missing_ok=True)
        os.close(os.open(begun, os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(begun)) as out:
            source.backup(out)
        sync_path(begun)
        os.replace(begun, target)
        sync_path(target.parent)
    except (OSError, sqlite3.Error):
        begun.unlink(missing_ok=True)
        raise


def holders(path: Path) -> str:
    """Who holds locks on a database file, for a message: `the process 4711 (smallai)`."""
    try:
        inode = path.stat().st_ino
        rows = [line.split() for line in _PROC_LOCKS.read_text().splitlines()]
        # "1: POSIX ADVISORY WRITE 4711 08:01:123456 ...": the fifth word is the process, the sixth the file.
        pids = {row[4] for row in rows if len(row) > 5 and row[3] == "WRITE" and row[5].endswith(f":{inode}")}
    except OSError:  # another system than Linux
        return "another process"
    names = []
    for pid in sorted(pids - {str(os.getpid())}):
        with contextlib.suppress(OSError):
            names.append(f"the process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})")
    return " and ".join(names) or "another connection"
