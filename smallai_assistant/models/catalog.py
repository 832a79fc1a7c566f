"""Model names -> files: pull, verify, convert, remove, resolve.

On disk a model is a folder with a manifest, which is written last: a folder without one is not there. Folders whose
name begins with a dot are work in progress.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smallai_assistant.config import nearest
from smallai_assistant.errors import (
    Cancelled,
    IntegrityError,
    InvalidInput,
    ModelInvalid,
    ModelNotFound,
    StoreError,
    StoreFull,
    UnsafeModelFormat,
)
from smallai_assistant.filesystem import exclusive, sync_path
from smallai_assistant.models import hub
from smallai_assistant.models.child_process import DISK_FULL
from smallai_assistant.models.convert import convert, needs_conversion
from smallai_assistant.models.entries import Entry, read_entries
from smallai_assistant.models.files import (
    FileHashes,
    check_files,
    check_gguf,
    check_model_folder,
    check_name,
    file_sha256,
    fingerprint,
)
from smallai_assistant.models.sources import fetch, link_or_copy

MANIFEST = "smallai-model.json"
_LOCK = ".lock"
_WORK = (".work-", ".gone-", ".source-")

Progress = Callable[[str, str, float], None]


class Catalog:
    """The models that can be pulled, and those that are here.

    Args:
        models_dir: one folder a model; nothing else is written.
    """

    def __init__(self, models_dir: Path) -> None:
        self._folder = models_dir
        self._hashes = FileHashes()
        self.entries: Mapping[str, Entry] = MappingProxyType(read_entries())

    def names_of(self, names: Iterable[str]) -> list[str]:
        """Catalogue names of names and sets (`starter`, `small`), each once, in the catalogue's order.

        Raises:
            ModelNotFound: a name is neither.
            InvalidInput: it cannot be a name.
        """
        sets = {each for entry in self.entries.values() for each in entry.sets}
        wanted: set[str] = set()
        for name in names:
            if name in sets:
                wanted |= {entry.name for entry in self.entries.values() if name in entry.sets}
            elif name in self.entries:
                wanted.add(name)
            else:
                known = nearest(check_name(name), [*self.entries, *sets])
                raise ModelNotFound(f"there is no model {name!r} in the catalogue", hint=known)
        return [name for name in self.entries if name in wanted]

    def is_pulled(self, name: str) -> bool:
        """Whether the model, a catalogue name or a hub id, is complete on disk."""
        return _is_complete(self._folder_of(name))

    def pull(
        self,
        names: Iterable[str],
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        local: Path | None = None,
    ) -> list[str]:
        """Fetches, verifies and converts what is not here yet. Returns the names that were fetched.

        A hub id, `owner/name` or `owner/name@revision`, is fetched from the hub. What is complete is kept when this is
        stopped, so the next call goes on from there. Another process that pulls is waited for.

        Args:
            progress: called with the model, what is going on, and the fraction of the model done in [0, 1].
            cancel: set it to stop.
            local: a file, or a folder of files, to take instead of downloading; the hashes hold all the same.

        Raises:
            ModelNotFound: a name is not in the catalogue.
            InvalidInput: a name cannot be one, or a hub id comes with `local`: nothing pins its files.
            DownloadError: no source gave a file.
            IntegrityError: a file is not what the catalogue pins.
            StoreFull: the disk is full.
            Cancelled: `cancel` was set.
        """
        tell, stop = progress or (lambda *_: None), cancel or threading.Event()
        given = list(names)
        hub_ids = [name for name in given if "/" in name]
        wanted = [*self.names_of(name for name in given if "/" not in name), *hub_ids]
        if all(self.is_pulled(name) for name in wanted):
            return []
        if local is not None and hub_ids:
            raise InvalidInput(f"{hub_ids[0]} is no model of the catalogue", hint="use the folder itself as the model")

        def tell_waiting() -> None:
            tell(wanted[0], "waiting for another process that changes the models", 0.0)

        done = []
        with _disk_errors(), exclusive(self._folder / _LOCK, cancel=stop, on_wait=tell_waiting):
            self._sweep()
            for name in wanted:
                if self.is_pulled(name):
                    continue
                if name in self.entries:
                    self._pull_entry(self.entries[name], tell, stop, local)
                else:
                    self._pull_hub(name, tell, stop)
                done.append(name)
        return done

    def verify(self, name: str) -> None:
        """Compares every file with what was recorded when the model was made.

        Raises:
            ModelNotFound: it is not pulled.
            IntegrityError: a file is missing, changed or not of the model; the message names the first.
        """
        folder = self._folder_of(name)
        if not _is_complete(folder):
            raise ModelNotFound(f"{name!r} is not pulled", pull_name=name if name in self.entries else None)
        recorded = _read_manifest(folder)["files"]
        here = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
        if missing := sorted(recorded.keys() - here):
            raise IntegrityError(f"{name}: {missing[0]} is missing")
        if strange := sorted(here - recorded.keys()):
            raise IntegrityError(f"{name}: {strange[0]} is not one of its files")
        for file, digest in recorded.items():
            try:
                is_same = file_sha256(folder / file) == digest
            except OSError as error:
                raise IntegrityError(f"{name}: {file} cannot be read: {error.strerror}") from error
            if not is_same:
                raise IntegrityError(f"{name}: {file} has changed")

    def remove(self, name: str) -> int:
        """Deletes a pulled model and what a stopped pull of it left. Returns the bytes freed.

        Raises:
            ModelNotFound: nothing of it is here.
            Busy: another process is changing the models.
        """
        folder = self._folder_of(name)
        if not folder.is_dir() and not self._parts_folder(folder).is_dir():
            raise ModelNotFound(f"{name!r} is not pulled", hint="see `smallai models list`")
        with _disk_errors(), exclusive(self._folder / _LOCK, timeout_s=2.0):
            self._sweep()
            leftovers = [path for path in (folder, self._parts_folder(folder)) if path.is_dir()]
            n_bytes = sum(hub.folder_bytes(path) for path in leftovers)
            for path in leftovers:
                # It is gone at once for every reader, whatever stops the deletion.
                os.replace(path, self._folder / f".gone-{path.name.lstrip('.')}")
                self._sweep()
        return n_bytes

    def name_for(self, name: str, task: str) -> str:
        """The model that `auto` stands for; any other name unchanged.

        Raises:
            ModelNotFound: `auto`, and no model of the task is pulled.
        """
        if name != "auto":
            return name
        for entry in self.entries.values():
            if entry.task == task and self.is_pulled(entry.name):
                return entry.name
        raise ModelNotFound(
            f"no model for {task} is here",
            hint="get the starter models with `smallai models pull starter`",
            pull_name="starter",
        )

    def resolve(self, name: str, *, task: str | None = None, revision: str | None = None) -> Path:
        """The folder to load: of a catalogue name, `auto`, a local folder, a `.gguf` file, or a pulled hub id.

        Raises:
            ModelNotFound: it is not here.
            InvalidInput: it is none of those.
            ModelInvalid: a file is cut short or malformed, or it asks to run code; see `check_files`.
        """
        if name == "auto":
            if task is None:
                raise ValueError("'auto' needs a task")
            name = self.name_for(name, task)
        if name in self.entries:
            if not self.is_pulled(name):
                raise ModelNotFound(f"the model {name!r} is not pulled", pull_name=name)
            folder = self._folder / name
        elif (path := _path_of(name)) is not None:
            folder = path if path.is_dir() else self._resolve_file(path)
        elif "/" in name and not name.startswith((".", "/", "~")):
            folder = self._resolve_hub(name, revision)
        else:
            check_name(name)
            raise ModelNotFound(f"there is no model {name!r}", hint=nearest(name, self.entries))
        check_files(folder)
        return folder

    def fingerprint(self, name: str, *, task: str | None = None, revision: str | None = None) -> dict[str, str]:
        """What an adapter on this model depends on: `weights_sha256`, `tokenizer_sha256` and `revision`.

        Each is the sha256 over the names and hashes of the files of that kind; empty where there are none.

        Raises:
            ModelNotFound: it is not here.
        """
        folder = self.resolve(name, task=task, revision=revision)
        manifest = _read_manifest(folder) if _is_complete(folder) else {"files": {}}
        hashes = fingerprint(folder, lambda path: manifest["files"].get(path.name) or self._hashes.of(path))
        return {**hashes, "revision": str(manifest.get("revision", ""))}

    def _resolve_hub(self, name: str, revision: str | None) -> Path:
        wanted = f"{name}@{revision}" if revision and "@" not in name else name
        folder = self._folder_of(wanted)
        if _is_complete(folder):
            return folder
        unpinned = self._folder_of(name.partition("@")[0])
        if revision and _is_complete(unpinned) and _read_manifest(unpinned).get("revision") == revision:
            return unpinned
        raise ModelNotFound(f"the hub model {wanted!r} is not here", pull_name=wanted)

    def _resolve_file(self, path: Path) -> Path:
        """A GGUF file of the user's, converted once and kept under its hash."""
        if path.suffix.lower() != ".gguf":
            raise UnsafeModelFormat(f"{path.name} is neither a folder nor a GGUF file")
        check_gguf(path)
        name = f"gguf-{self._hashes.of(path)[:16]}"
        if not self.is_pulled(name):
            with _disk_errors(), exclusive(self._folder / _LOCK):
                if self.is_pulled(name):  # another was faster
                    return self._folder / name
                self._sweep()
                with self._work_folder(".source-") as source, self._work_folder(".work-") as work:
                    (source / "model.gguf").symlink_to(path.resolve())
                    convert("gguf", source, work)
                    self._finish(work, name, {"source": path.name})
        return self._folder / name

    def _pull_entry(self, entry: Entry, tell: Progress, stop: threading.Event, local: Path | None) -> None:
        parts = self._parts_folder(self._folder / entry.name)
        parts.mkdir(parents=True, exist_ok=True)
        self._check_room(entry, hub.folder_bytes(parts))
        n_done = 0
        for i, file in enumerate(entry.files):

            def on_bytes(n: int, path: str = file.path, before: int = n_done, most: int = file.n_bytes) -> None:
                tell(entry.name, f"fetching {path}", 0.9 * (before + min(n, most)) / entry.n_bytes)

            fetch(file, parts, on_bytes=on_bytes, cancel=stop, local=local, needed_later=entry.files[i + 1 :])
            n_done += file.n_bytes
        origin = {"source": {file.path: file.sha256 for file in entry.files}}
        with self._work_folder(".work-") as work:
            if needs_conversion(entry.format):
                tell(entry.name, "converting", 0.9)
                convert(entry.format, parts, work, cancel=stop)
            else:
                tell(entry.name, "storing", 0.9)
                for file in entry.files:
                    link_or_copy(parts / file.path, work / file.path)
            if stop.is_set():
                raise Cancelled("stopped", hint="pull again: what is complete is kept")
            self._finish(work, entry.name, origin)
        shutil.rmtree(parts, ignore_errors=True)
        tell(entry.name, "ready", 1.0)

    def _check_room(self, entry: Entry, n_here: int) -> None:
        """Packages and files lie side by side at the worst, then files and the converted model."""
        need = entry.n_bytes + max(entry.n_bytes, entry.n_bytes_ready) - n_here
        free = shutil.disk_usage(self._folder).free
        if free < need:
            raise StoreFull(
                f"{entry.name} needs {need / 1e6:,.0f} MB in {self._folder}, {free / 1e6:,.0f} MB are free",
                hint="free disk space, or set SMALLAI_MODELS_DIR to a larger disk",
            )

    def _pull_hub(self, name: str, tell: Progress, stop: threading.Event) -> None:
        folder = self._folder_of(name)
        parts = self._parts_folder(folder)
        repo, _, revision = name.partition("@")

        def on_bytes(n: int) -> None:
            tell(name, f"fetching from the hub, {n / 1e6:,.0f} MB", 0.0)

        commit = hub.fetch_model(repo, parts, revision=revision or None, on_bytes=on_bytes, cancel=stop)
        try:
            shutil.rmtree(parts / ".cache", ignore_errors=True)
            check_model_folder(parts)
        except ModelInvalid:
            shutil.rmtree(parts)
            raise
        self._finish(parts, folder.name, {"source": name, "revision": commit})
        tell(name, "ready", 1.0)

    def _finish(self, work: Path, name: str, origin: Mapping[str, Any]) -> None:
        """Records the files, makes them durable, and gives the folder its name as the last step."""
        found = sorted(path for path in work.rglob("*") if path.is_file() and path != work / MANIFEST)
        manifest = {"name": name, **origin, "files": {str(path.relative_to(work)): file_sha256(path) for path in found}}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2))
        work.chmod(0o755)  # other users may read what mkdtemp and safetensors made ours alone
        for path in [*found, work / MANIFEST]:
            path.chmod(0o644)
            sync_path(path)
        for path in [*(each for each in work.rglob("*") if each.is_dir()), work]:
            sync_path(path)
        target = self._folder / name
        if target.exists():  # without a manifest: of no use
            shutil.rmtree(target)
        os.replace(work, target)
        sync_path(self._folder)

    @contextmanager
    def _work_folder(self, prefix: str) -> Iterator[Path]:
        """A folder that is gone at the end, unless it was given another name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Removes what a killed process left. Only the holder of the lock may."""
        for path in self._folder.iterdir():
            if path.name.startswith(_WORK):
                shutil.rmtree(path, ignore_errors=True)

    def _folder_of(self, name: str) -> Path:
        """Where a model is or would be; a hub id `owner/name@revision` becomes one folder name."""
        if "/" not in name:
            return self._folder / check_name(name)
        repo, _, revision = name.partition("@")
        owner, _, rest = repo.partition("/")
        words = [check_name(each) for each in (owner, rest, *([revision] if revision else []))]
        if any("--" in word for word in words):  # the hub has none such; here they would make two ids one
            raise InvalidInput(f"{name!r} is no hub id", hint="give owner/name, or owner/name@revision")
        return self._folder / "--".join(["hub", *words])

    def _parts_folder(self, folder: Path) -> Path:
        return self._folder / f".parts-{folder.name}"


def _path_of(name: str) -> Path | None:
    """The user's own folder or file, None where there is none."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # too long, or of a user that there is not
        return None


def _is_complete(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turns a full or failing disk into our errors."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in DISK_FULL else StoreError
        raise kind(f"the models could not be written: {error.strerror or error}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return {**manifest, "files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder.name}: the record of its files is missing or damaged") from error
