"""An adapter's files: checked, sealed with a manifest of hashes, verified; and the folders they are written in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallai_assistant.errors import AdapterMismatch, IntegrityError, InvalidInput, StoreError, StoreFull
from smallai_assistant.filesystem import sync_path, write_atomically
from smallai_assistant.models.files import file_sha256, read_safetensors_header

MANIFEST = "smallai-adapter.json"
_WORK = ".work-"
_RECORDED_WITHIN_S = 60  # a younger folder may be one that another process is about to record


@contextmanager
def held_folder(root: Path) -> Iterator[Path]:
    """A work folder in `root`, gone at the end unless it was sealed; its lock ends with this process."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_WORK, dir=root))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():  # a sweep may have come between
            break
        os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path, known: Collection[str]) -> None:
    """Removes what a killed process left: work folders that nobody holds, and versions that are not `known`."""
    before = time.time() - _RECORDED_WITHIN_S
    for path in root.iterdir():
        with contextlib.suppress(OSError):  # another process sweeps, too
            if path.name.startswith(_WORK):
                _remove_unless_held(path)
            elif path.name not in known and path.stat().st_mtime < before:
                shutil.rmtree(path, ignore_errors=True)


def _remove_unless_held(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def checked_files(work: Path) -> dict[str, str]:
    """The files in `work` and their sha256.

    Raises:
        InvalidInput: there are none, or a link or one of our name is among them.
        ModelInvalid: a safetensors file is cut short or malformed.
        AdapterMismatch: a safetensors file holds NaN or infinity.
    """
    paths = sorted(path for path in work.rglob("*") if path.is_symlink() or path.is_file())
    if not paths:
        raise InvalidInput("the adapter has no files")
    for path in paths:
        if path.is_symlink():
            raise InvalidInput(f"{path.name} is a link: what it names could change", hint="copy the file instead")
        if path == work / MANIFEST:
            raise InvalidInput(f"{MANIFEST} is written by the host", hint="give the file another name")
        if path.suffix == ".safetensors":
            check_finite(path)
    return {str(path.relative_to(work)): file_sha256(path) for path in paths}


def seal(work: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Puts the files on the disk, then the manifest, then gives the folder its name.

    Raises:
        StoreFull: the disk is full.
        StoreError: it could not be written.
    """
    try:
        for path in [*work.rglob("*"), work]:
            sync_path(path)
        write_atomically(work / MANIFEST, json.dumps(manifest, indent=2).encode())
        os.chmod(work, 0o755)  # noqa: S103  (mkdtemp made it ours alone)
        os.replace(work, target)
        sync_path(target.parent)
    except OSError as error:
        kind = StoreFull if error.errno == errno.ENOSPC else StoreError
        raise kind(f"{target.name} could not be written: {error.strerror}") from error


def check_files(adapter_id: str, folder: Path, files: Mapping[str, str]) -> None:
    """Raises IntegrityError unless the folder holds `files` with these sha256 and nothing else."""
    here = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    here.discard(MANIFEST)
    if missing := sorted(files.keys() - here):
        raise damaged(adapter_id, f"{missing[0]} is missing")
    if strange := sorted(here - files.keys()):
        raise damaged(adapter_id, f"{strange[0]} is not one of its files")
    for name, digest in files.items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise damaged(adapter_id, f"{name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise damaged(adapter_id, f"{name} has changed")


def check_finite(path: Path) -> None:
    """Raises AdapterMismatch where a safetensors file holds NaN or infinity, ModelInvalid where it is malformed."""
    from safetensors import safe_open

    read_safetensors_header(path)
    with safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            tensor = file.get_tensor(name)
            wide = tensor.float() if tensor.element_size() == 1 else tensor  # torch asks no float8 whether it is finite
            if tensor.is_floating_point() and not bool(wide.isfinite().all()):
                raise AdapterMismatch(f"{path.name}: {name} holds NaN or infinity")


def damaged(adapter_id: str, what: str) -> IntegrityError:
    """The error of an adapter that is not as it was recorded."""
    return IntegrityError(f"{adapter_id}: {what}", hint="roll back, or train anew; see `smallai adapters verify`")
