"""Compares a model's files with their recorded hashes, on a thread beside the load.

A hash says what was read, so a file must not change between the two readings. What the system notes of a file (its
number, size and times) is therefore compared as well, from before the first reading to after the load. The time of the
last change of the note itself (ctime) cannot be set by a program.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from smallai_assistant.errors import IntegrityError
from smallai_assistant.models.boundary import model_errors
from smallai_assistant.models.convert import is_served, needs_conversion
from smallai_assistant.models.entries import Entry
from smallai_assistant.models.files import file_sha256, loadable_files
from smallai_assistant.models.folders import MANIFEST, ModelFolders, read_manifest

_CHANGED = "start the program again to use the changed files; what was learned for the earlier ones will not fit them"
# What the system notes of a file, see `_stamp`.
_Stamp = tuple[int, int, int, int, int]


class HashCheck:
    """Compares files with their recorded hashes, beginning now, on a thread of its own.

    Args:
        folder: of the model.
        recorded: path below the folder -> sha256; None if there is no record yet.
        name: of the model, for the error.
        hint: what to do about a changed file; None is the general hint of `IntegrityError`.

    Attributes:
        folder: of the model.
        found: the hashes of the files, complete after `finish`.
    """

    def __init__(self, folder: Path, recorded: Mapping[str, str | None], name: str, *, hint: str | None = None) -> None:
        self.folder, self._recorded, self._name, self._hint = folder, dict(recorded), name, hint
        self.found: dict[str, str] = {}
        self._stop = threading.Event()
        self._problem: str | None = None
        self._stamps = {file: self._stamp_of(file) for file in self._recorded}
        # A daemon: a file on a disk that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"hash-{name}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits for the comparison. Call it after the files were read.

        Raises:
            IntegrityError: a file is missing or has changed, before or meanwhile; the message names the first.
        """
        self._thread.join()
        if self._problem is None:
            self._problem = next(
                (
                    f"{file} has changed while it was read"
                    for file, stamp in self._stamps.items()
                    if self._stamp_of(file) != stamp
                ),
                None,
            )
        if self._problem is not None:
            raise IntegrityError(f"{self._name}: {self._problem}", hint=self._hint)

    def abandon(self) -> None:
        """Ends the comparison: nobody wants its result."""
        self._stop.set()

    def _run(self) -> None:
        # The small files first: they are the likelier to be edited by hand.
        for file in sorted(self._recorded, key=lambda file: (self._stamps[file] or (0,) * 5)[2]):
            try:
                self.found[file] = file_sha256(self.folder / file, stop=self._stop)
                if self._recorded[file] not in (None, self.found[file]):
                    self._problem = f"{file} has changed"
            except FileNotFoundError:
                self._problem = f"{file} is missing"
            except OSError as error:
                self._problem = f"{file} cannot be read: {error.strerror}"
            if self._problem is not None or self._stop.is_set():
                return

    def _stamp_of(self, file: str) -> _Stamp | None:
        try:
            return _stamp(self.folder / file)
        except OSError:
            return None


class ModelHashes:
    """The hashes of models' files that this process relies on.

    Those of a pulled model were recorded when it was made, and for files that are served as they were fetched they are
    those of the catalogue. A folder of the user's has no record: its hashes are those of its first use in this process,
    on which the choice of its adapters rests.
    """

    def __init__(self, folders: ModelFolders) -> None:
        self._folders = folders
        self._of_folder: dict[Path, dict[str, str]] = {}
        self._of_file: dict[tuple[str, _Stamp], str] = {}

    def of(self, folder: Path) -> dict[str, str]:
        """The hashes of the files that a loader may read, by their paths below the folder.

        Raises:
            IntegrityError: the record of a pulled model is damaged.
            ModelInvalid: a file of another folder cannot be read, or is not a regular file.
        """
        if folder not in self._of_folder:
            if self._folders.holds(folder):
                found = read_manifest(folder)["files"]
            else:
                with model_errors(folder.name):
                    found = {file: self.of_file(folder / file) for file in loadable_files(folder)}
            self._of_folder.setdefault(folder, found)  # of two threads the first decides
        return self._of_folder[folder]

    def of_file(self, path: Path) -> str:
        """The sha256 of a file, computed again only if what the system notes of it differs."""
        key = (str(path.resolve()), _stamp(path))
        if key not in self._of_file:
            self._of_file[key] = file_sha256(path)
        return self._of_file[key]

    def forget(self, folder: Path) -> None:
        """Forgets a folder that is deleted."""
        self._of_folder.pop(folder, None)

    def begin_check(self, folder: Path, name: str, entry: Entry | None, *, unread: Sequence[str] = ()) -> HashCheck:
        """Begins to compare the files of a model with their hashes.

        Args:
            entry: the model's entry in the catalogue.
            unread: suffixes of files of a pulled model that the loader does not open.

        Raises:
            IntegrityError: a pulled model has not exactly its files, its record is not that of the catalogue, or files
                were added to another folder or removed from it since its first use.
            ModelInvalid: a file is not a regular file.
        """
        if not self._folders.holds(folder):
            here = loadable_files(folder)
            known = self._of_folder.get(folder)
            if known is not None and known.keys() != set(here):
                raise IntegrityError(f"{folder.name}: files were added or removed", hint=_CHANGED)
            return HashCheck(folder, known or dict.fromkeys(here), folder.name, hint=_CHANGED)
        recorded = self.of(folder)
        check_listed(folder, recorded, name, ignored=MANIFEST)
        for file in entry.files if entry is not None and is_served(entry.format) else ():
            # A model that was pulled before its file was kept has no record of it.
            is_optional = needs_conversion(entry.format) if entry is not None else False
            if recorded.get(file.path, file.sha256 if is_optional else None) != file.sha256:
                raise IntegrityError(f"{name}: the record of {file.path} is not that of the catalogue")
        return HashCheck(
            folder, {file: digest for file, digest in recorded.items() if Path(file).suffix not in unread}, name
        )

    def end_check(self, check: HashCheck) -> None:
        """Ends a comparison after the model was loaded.

        Raises:
            IntegrityError: a file is missing or has changed; the message names the first.
        """
        check.finish()
        known = self._of_folder.setdefault(check.folder, check.found)
        if any(known.get(file) != digest for file, digest in check.found.items()):
            raise IntegrityError(f"{check.folder.name}: its files have changed", hint=_CHANGED)


def check_listed(folder: Path, recorded: Iterable[str], name: str, *, ignored: str) -> None:
    """Checks that a folder has exactly the files that were recorded.

    Args:
        ignored: a file that may be there besides.

    Raises:
        IntegrityError: a file is missing, or is not one of the model's; the message names the first.
    """
    listed = set(recorded)
    here = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {ignored}
    if missing := sorted(listed - here):
        raise IntegrityError(f"{name}: {missing[0]} is missing")
    # A loader takes files that it finds: a chat_template.jinja replaces the template of the configuration.
    if strange := sorted(here - listed):
        raise IntegrityError(f"{name}: {strange[0]} is not one of its files")


def _stamp(path: Path) -> _Stamp:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class ModelFiles(Protocol):
    """What the runtime needs of the model catalogue."""

    def name_for(self, name: str, task: str) -> str:
        """The model's full name; `auto` becomes a model for the task."""

    def resolve(self, name: str, *, task: str | None = None, revision: str | None = None) -> Path:
        """The folder of the model's files, checked."""

    def fingerprint(self, name: str, *, task: str | None = None, revision: str | None = None) -> dict[str, str]:
        """The model's revision and the hashes of its weights and tokenizer."""

    def begin_check(
        self, name: str, *, task: str | None = None, revision: str | None = None, unread: Sequence[str] = ()
    ) -> HashCheck:
        """Begins to compare the model's files with their hashes, without those with a suffix of `unread`."""

    def end_check(self, check: HashCheck) -> None:
        """Ends the comparison after the load; raises IntegrityError if a file has changed."""
