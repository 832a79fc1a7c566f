"""Files of an adapter: the folder they are written in, the checks before they are sealed, and their verification."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from smallai_assistant.errors import AdapterMismatch, IntegrityError, InvalidInput, StoreError, StoreFull
from smallai_assistant.feedback import Adapter, Component
from smallai_assistant.filesystem import sync_path, write_atomically
from smallai_assistant.models.files import check_name, file_sha256, read_safetensors_header

MANIFEST = "smallai-adapter.json"
_WORK = ".work-"  # prefix of folders that are being written
# A folder without a row in the database that is younger than this may be one that another process is about to record.
_RECORDED_WITHIN_S = 60


@contextmanager
def held_folder(root: Path) -> Iterator[Path]:
    """Makes a locked work folder in `root`. It is deleted at the end, unless it was sealed.

    The operating system releases the lock when the process ends, so that `sweep` knows abandoned folders.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_WORK, dir=root))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another process may have swept the folder between its creation and the lock.
        if folder.exists():
            break
        os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path, known: Collection[str]) -> None:
    """Deletes what killed processes left: work folders that nobody holds, and versions that were never recorded.

    Args:
        known: ids of the recorded versions.
    """
    before = time.time() - _RECORDED_WITHIN_S
    for path in root.iterdir():
        with contextlib.suppress(OSError):  # another process may sweep at the same time
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
    """Checks the files in `work`.

    Returns:
        The sha256 of each file, by its path relative to `work`.

    Raises:
        InvalidInput: there are no files, or one of them is a link or has the manifest's name.
        ModelInvalid: a safetensors file is cut short or malformed.
        AdapterMismatch: a safetensors file holds NaN or infinity.
    """
    paths = sorted(path for path in work.rglob("*") if path.is_symlink() or path.is_file())
    if not paths:
        raise InvalidInput("the adapter has no files")
    for path in paths:
        if path.is_symlink():
            raise InvalidInput(f"{path.name} is a link: its target could change", hint="copy the file instead")
        if path == work / MANIFEST:
            raise InvalidInput(f"{MANIFEST} is written by the host", hint="give the file another name")
        if path.suffix == ".safetensors":
            check_finite(path)
    return {str(path.relative_to(work)): file_sha256(path) for path in paths}


def free_id(folder: Path, task: str, files: Mapping[str, str], created_at: datetime) -> str:
    """Returns an id that no version has. Sorted by name, the versions of a task are sorted by age.

    Args:
        folder: holds the folders of all versions.
        files: sha256 by path.
    """
    # The hash tells versions of one second apart. The same files added twice within a second would get the same id.
    digest = hashlib.sha256(json.dumps(dict(files)).encode()).hexdigest()[:8]
    wanted = name = f"{check_name(task)}-{created_at:%Y%m%d-%H%M%S}-{digest}"
    number = 1
    while (folder / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name


def seal(work: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Flushes the files to the disk, writes the manifest, and renames the folder to `target`.

    A crash at any point leaves a work folder or a whole version.

    Raises:
        StoreFull: the disk is full.
        StoreError: it could not be written.
    """
    try:
        for path in [*work.rglob("*"), work]:
            sync_path(path)
        write_atomically(work / MANIFEST, json.dumps(manifest, indent=2).encode())
        os.chmod(work, 0o755)  # noqa: S103  (mkdtemp denies others, who may read models)
        os.replace(work, target)
        sync_path(target.parent)  # makes the new name durable
    except OSError as error:
        kind = StoreFull if error.errno == errno.ENOSPC else StoreError
        raise kind(f"{target.name} could not be written: {error.strerror}") from error


def read_version(row: Any, folder: Path) -> Adapter:
    """Reads the manifest of a version. `check_files` reads the other files.

    Args:
        row: of the table `adapters`.

    Raises:
        IntegrityError: the manifest is missing or has changed.
    """
    try:
        if file_sha256(folder / MANIFEST) != row.manifest_sha256:
            raise damaged(row.id, "its manifest has changed")
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise damaged(row.id, "its manifest is missing") from error
    report = json.loads(row.report)
    return Adapter(
        id=row.id,
        task=row.task,
        kind=manifest["kind"],
        folder=folder,
        base=manifest["base"],
        files=manifest["files"],
        created_at=datetime.fromisoformat(manifest["created_at"]),
        status=row.status,
        parent=manifest["parent"],
        feedback_ids=tuple(manifest["feedback_ids"]),
        retired_ids=tuple(report.get("retired_ids", ())),
        report=report,
        components=tuple(
            Component(row["name"], tuple(row["feedback_ids"]), row["taken_from"])
            for row in manifest.get("components", ())
        ),
        audience=row.audience,
    )


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder; 0 if it does not exist."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may delete it at the same time
            total += path.stat().st_size if path.is_file() else 0
    return total


def check_files(adapter_id: str, folder: Path, files: Mapping[str, str]) -> None:
    """Compares a version's folder with its manifest.

    Args:
        files: sha256 by path.

    Raises:
        IntegrityError: a file is missing, has changed or does not belong to the version.
    """
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    found.discard(MANIFEST)
    if missing := sorted(files.keys() - found):
        raise damaged(adapter_id, f"{missing[0]} is missing")
    # An engine might load an additional file: peft takes a configuration that lies there.
    if strange := sorted(found - files.keys()):
        raise damaged(adapter_id, f"{strange[0]} is not one of its files")
    for name, digest in files.items():
        try:
            actual = file_sha256(folder / name)
        except OSError as error:
            raise damaged(adapter_id, f"{name} cannot be read: {error.strerror}") from error
        if actual != digest:
            raise damaged(adapter_id, f"{name} has changed")


def check_finite(path: Path) -> None:
    """Checks the tensors of a safetensors file.

    Raises:
        AdapterMismatch: a tensor holds NaN or infinity.
        ModelInvalid: the file is cut short or malformed.
    """
    from safetensors import safe_open

    read_safetensors_header(path)
    with safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is not a mapping)
            tensor = file.get_tensor(name)
            # torch has no isfinite for float8.
            wide = tensor.float() if tensor.element_size() == 1 else tensor
            if tensor.is_floating_point() and not bool(wide.isfinite().all()):
                raise AdapterMismatch(f"{path.name}: {name} holds NaN or infinity")


def damaged(adapter_id: str, what: str) -> IntegrityError:
    """Makes the error of an adapter whose files are not as they were recorded."""
    return IntegrityError(f"{adapter_id}: {what}", hint="roll back, or train again; see `smallai adapters verify`")


def check_base(adapter: Adapter, base: Mapping[str, Any]) -> None:
    """Raises AdapterMismatch unless the adapter was made for `base`."""
    if changed := adapter.changed_keys(base):
        key = changed[0]
        raise AdapterMismatch(
            f"{adapter.id} was made for {key} {adapter.base.get(key)!r}, and the task now has {base.get(key)!r}"
        )
