"""Files of a model hub, fetched by huggingface_hub in a child process; the user's hub settings hold."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from smallai_assistant.errors import DownloadError
from smallai_assistant.models.child_process import report, run_module, serve

# Only what can be read without running it. `*` matches slashes too.
_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_OTHER_FORMATS = ["onnx/*", "openvino/*", "original/*", "consolidated*"]


def fetch_file(
    repo: str,
    path: str,
    folder: Path,
    *,
    revision: str | None,
    on_bytes: Callable[[int], None],
    cancel: threading.Event,
) -> Path:
    """One file of a repository, below `folder`.

    Raises:
        DownloadError: the hub cannot be reached or does not have it.
        Cancelled: `cancel` was set; what came is kept and continued.
    """
    run_module(
        __name__,
        ["file", repo, revision or "", str(folder), path],
        cancel=cancel,
        on_tick=lambda: on_bytes(folder_bytes(folder)),
    )
    return folder / path


def fetch_model(
    repo: str, folder: Path, *, revision: str | None, on_bytes: Callable[[int], None], cancel: threading.Event
) -> str:
    """The files of a model in safe formats, into `folder`. Returns the commit that they are of.

    Raises:
        DownloadError: the hub cannot be reached or does not have it.
        Cancelled: `cancel` was set; what came is kept and continued.
    """
    reports = run_module(
        __name__,
        ["model", repo, revision or "", str(folder)],
        cancel=cancel,
        on_tick=lambda: on_bytes(folder_bytes(folder)),
    )
    return str(reports[-1]["revision"])


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder` right now."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # it is moved while we look
                continue
    return total


def _work(arguments: Sequence[str]) -> None:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub import errors as hub_errors

    kind, repo, revision, folder, *paths = arguments
    try:
        if kind == "file":
            hf_hub_download(repo, paths[0], revision=revision or None, local_dir=folder)
        else:
            # The commit is asked for first, so that all files are of one commit.
            commit = HfApi().model_info(repo, revision=revision or None).sha
            snapshot_download(
                repo, revision=commit, local_dir=folder, allow_patterns=_PATTERNS, ignore_patterns=_OTHER_FORMATS
            )
            report(revision=commit)
    except Exception as error:
        # huggingface_hub says that a file is nowhere on this disk where it could not ask; why is the cause.
        cause = error.__cause__ or error if isinstance(error, hub_errors.LocalEntryNotFoundError) else error
        match cause:
            case hub_errors.OfflineModeIsEnabled():
                failure = DownloadError(f"{repo}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE to download")
            case hub_errors.GatedRepoError():
                failure = DownloadError(f"the hub gives {repo} to those who accept its terms", hint="set HF_TOKEN")
            case hub_errors.LocalEntryNotFoundError():
                failure = DownloadError(f"the hub did not give {repo}")
            case hub_errors.RepositoryNotFoundError() | hub_errors.EntryNotFoundError():
                failure = DownloadError(f"the hub has no {' '.join([repo, *paths])}", hint="check the name")
            # Its HTTP library's errors come through; a full disk is the one that is no download's.
            case OSError() if cause.errno is not None and not isinstance(cause, ConnectionError):
                raise
            case _:
                failure = DownloadError(f"the hub did not give {repo}: {type(cause).__name__}")
        raise failure from error


if __name__ == "__main__":
    serve(_work)
