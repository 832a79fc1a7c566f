"""The models folder on disk: one folder for each model, complete when its manifest is there.

The manifest is written last, so a folder without one is half a model and does not count. Folders whose name begins with
a dot are work in progress.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallai_assistant.errors import IntegrityError, InvalidInput, StoreError, StoreFull
from smallai_assistant.filesystem import exclusive, sync_path
from smallai_assistant.models.child_process import DISK_FULL
from smallai_assistant.models.entries import Entry
from smallai_assistant.models.files import check_name, file_sha256
from smallai_assistant.models.hub import folder_bytes

MANIFEST = "smallai-model.json"
_LOCK = ".lock"
# Prefixes of folders that are useless once their process is gone: half a model, a removal, a converter's input.
_LEFTOVERS = (".work-", ".gone-", ".source-")


class ModelFolders:
    """The folders of the models that are here.

    Args:
        root: holds one folder for each model; nothing else is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder_of(self, name: str) -> Path:
        """The folder that a model has or would have; a hub id `owner/name@revision` becomes one folder name.

        Raises:
            InvalidInput: the name can be neither a catalogue name nor a hub id.
        """
        if "/" not in name:
            return self.root / check_name(name)
        repo, _, revision = name.partition("@")
        owner, _, rest = repo.partition("/")
        words = [check_name(word) for word in (owner, rest, *([revision] if revision else []))]
        if any("--" in word for word in words):  # the hub allows no such name; here two ids would share a folder
            raise InvalidInput(f"{name!r} is not a hub id", hint="give owner/name, or owner/name@revision")
        return self.root / "--".join(["hub", *words])

    def parts_folder_of(self, name: str) -> Path:
        """The folder of the files of an unfinished pull. It survives a stop, so that the next pull continues."""
        return self.root / f".parts-{self.folder_of(name).name}"

    def is_complete(self, name: str) -> bool:
        """Whether the model is here and complete."""
        return has_manifest(self.folder_of(name))

    def holds(self, folder: Path) -> bool:
        """Whether a folder is a model that `publish` made, and not one of the user's with such a record."""
        return folder.parent == self.root and has_manifest(folder)

    @contextmanager
    def changing(
        self,
        *,
        cancel: threading.Event | None = None,
        on_wait: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
    ) -> Iterator[None]:
        """Holds the lock of the folder for the block and removes what killed processes left.

        Args:
            cancel: set it to stop waiting.
            on_wait: called once if another process holds the lock.
            timeout_s: None waits without a limit.

        Raises:
            Busy: another process held the lock for `timeout_s`.
            Cancelled: `cancel` was set.
            StoreFull: the disk is full.
            StoreError: the folder cannot be written for another reason.
        """
        try:
            with exclusive(self.root / _LOCK, cancel=cancel, on_wait=on_wait, timeout_s=timeout_s):
                self._sweep()
                yield
        except OSError as error:
            kind = StoreFull if error.errno in DISK_FULL else StoreError
            raise kind(f"the models could not be written: {error.strerror or error}") from error

    @contextmanager
    def work_folder(self, prefix: str = ".work-") -> Iterator[Path]:
        """An empty folder that is deleted at the end of the block, unless `publish` gave it another name."""
        # Below the root, not in the system's temporary folder: a rename works within one file system only.
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, work: Path, folder: Path, origin: Mapping[str, Any]) -> None:
        """Makes the finished files in `work` the model in `folder`: records their hashes, flushes, renames.

        Args:
            origin: goes into the manifest beside the hashes.
        """
        found = sorted(path for path in work.rglob("*") if path.is_file() and path != work / MANIFEST)
        hashes = {str(path.relative_to(work)): file_sha256(path) for path in found}
        manifest = {"name": folder.name, **origin, "files": hashes}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2))
        work.chmod(0o755)  # mkdtemp and safetensors make files that only their owner can read; models may be shared
        for path in [*found, work / MANIFEST]:
            path.chmod(0o644)
            sync_path(path)
        for path in [*(path for path in work.rglob("*") if path.is_dir()), work]:
            sync_path(path)
        if folder.exists():  # it has no manifest, otherwise nothing would have been pulled
            shutil.rmtree(folder)
        # Only now, with everything on disk: a crash before leaves no model, a crash after it a complete one.
        os.replace(work, folder)
        sync_path(self.root)

    def delete(self, name: str) -> int:
        """Deletes a model and the files of an unfinished pull of it, under the lock. Returns the bytes freed."""
        leftovers = [path for path in (self.folder_of(name), self.parts_folder_of(name)) if path.is_dir()]
        n_bytes = sum(folder_bytes(path) for path in leftovers)
        for path in leftovers:
            # The rename removes the model at once for every reader; a deletion that is stopped would leave half of it.
            os.replace(path, self.root / f".gone-{path.name.lstrip('.')}")
            self._sweep()
        return n_bytes

    def check_room(self, entry: Entry) -> None:
        """Checks that the disk has room for a pull.

        At the worst, packages and files are there at the same time, and later the files and the converted model.

        Raises:
            StoreFull: it has not.
        """
        n_here = folder_bytes(self.parts_folder_of(entry.name))
        need = entry.n_bytes + max(entry.n_bytes, entry.n_bytes_ready) - n_here
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise StoreFull(
                f"{entry.name} needs {need / 1e6:,.0f} MB in {self.root}, {free / 1e6:,.0f} MB are free",
                hint="free disk space, or set SMALLAI_MODELS_DIR to a larger disk",
            )

    def _sweep(self) -> None:
        """Deletes what a killed process left. Only the holder of the lock may: the folders may be in use otherwise."""
        for path in self.root.iterdir():
            if path.name.startswith(_LEFTOVERS):
                shutil.rmtree(path, ignore_errors=True)


def has_manifest(folder: Path) -> bool:
    """Whether `folder` is a complete model of ours."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model; `files` maps the paths to their sha256.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return {**manifest, "files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder.name}: the manifest of its files is missing or damaged") from error
