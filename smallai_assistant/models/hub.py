"""Files of a model hub: a short check whether it answers, and downloads by huggingface_hub in a child process."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smallai_assistant.errors import Cancelled, DownloadError, ModelInvalid
from smallai_assistant.models.child_process import report, run_module, serve
from smallai_assistant.models.entries import HubFile

# Seconds for the connection and the first answer. A reachable hub answers well within one second; people whose network
# has no hub pay this once a pull.
PROBE_S = 2.0
_POLL_S = 0.05
# Only formats that can be read without running code. `*` matches slashes too.
_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_OTHER_FORMATS = ["onnx/*", "openvino/*", "original/*", "consolidated*"]
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})  # what huggingface_hub takes for true in a variable


class Hub:
    """The model hub during one pull: probed at most once, and not asked again after a failure.

    Args:
        cancel: set it to stop.

    Attributes:
        problem: why the hub cannot be used; None as long as nothing is known against it.
    """

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._was_probed = False
        self.problem: DownloadError | None = None

    def fetch_files(self, places: Sequence[HubFile], folder: Path, *, on_bytes: Callable[[int], None]) -> None:
        """Fetches files of one repository into `folder`, as far as the hub gives them; see `problem` for a failure.

        Nothing is checked here: the caller compares the hashes.

        Args:
            places: files of one repository and revision.
            on_bytes: called with the bytes so far.

        Raises:
            StoreFull: the disk is full.
            Cancelled: the event was set; the bytes so far are kept, and a later call continues with them.
        """
        if self.problem is not None or not places:
            return
        try:
            if not self._was_probed:
                self._was_probed = True
                check_answers(places[0], cancel=self._cancel)
            paths = [place.path for place in places]
            fetch_files(
                places[0].repo, paths, folder, revision=places[0].revision, on_bytes=on_bytes, cancel=self._cancel
            )
        # After one failure the rest of the pull does without the hub: each further attempt could cost a timeout.
        except DownloadError as error:
            self.problem = error
        except ModelInvalid as error:  # the child crashed: the other source may still work
            self.problem = DownloadError(f"the hub's client failed: {error.message}")


def check_answers(place: HubFile, *, cancel: threading.Event) -> None:
    """Asks the hub for the headers of one file, to learn within 2 s whether it is worth asking.

    It does without huggingface_hub and its child process, whose start takes a good part of the 2 s. The variables
    HF_ENDPOINT, HF_HUB_OFFLINE and those of a proxy apply, as they do to huggingface_hub.

    Raises:
        DownloadError: HF_HUB_OFFLINE is set, or the hub does not answer in time, or it answers that it does not have
            the file.
        Cancelled: `cancel` was set.
    """
    if any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        raise DownloadError("the hub was not asked: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE to download")
    url = f"{_endpoint()}/{place.repo}/resolve/{place.revision}/{urllib.parse.quote(place.path)}"
    answers: list[str] = []
    is_done = threading.Event()

    def ask() -> None:
        answers.append(_problem_of(url))
        is_done.set()

    # A thread, because the timeout of a socket covers neither the look-up of the name nor a slow trickle of headers.
    threading.Thread(target=ask, name="hub-probe", daemon=True).start()
    deadline = time.monotonic() + PROBE_S
    while not is_done.wait(_POLL_S):
        if cancel.is_set():
            raise Cancelled("stopped", hint="pull again: finished files are kept")
        if time.monotonic() >= deadline:
            raise DownloadError(f"the hub did not answer within {PROBE_S:g} s")
    if answers[0]:
        raise DownloadError(answers[0])


def fetch_files(
    repo: str,
    paths: Sequence[str],
    folder: Path,
    *,
    revision: str | None,
    on_bytes: Callable[[int], None],
    cancel: threading.Event,
) -> None:
    """Fetches files of a repository into `folder`, under their paths, one after the other in one child process.

    Args:
        revision: a commit, branch or tag; None for the repository's default branch.
        on_bytes: called with the bytes in `folder` so far.

    Raises:
        DownloadError: the hub cannot be reached or does not have a file. The files before it are there.
        StoreFull: the disk is full.
        Cancelled: `cancel` was set; the bytes so far are kept, and a later call continues with them.
    """
    run_module(
        __name__,
        ["files", repo, revision or "", str(folder), *paths],
        cancel=cancel,
        on_tick=lambda: on_bytes(folder_bytes(folder)),
    )


def fetch_model(
    repo: str, folder: Path, *, revision: str | None, on_bytes: Callable[[int], None], cancel: threading.Event
) -> str:
    """Fetches the files of a model that are in safe formats into `folder`.

    Args:
        revision: a commit, branch or tag; None for the repository's default branch.
        on_bytes: called with the bytes in `folder` so far.

    Returns:
        The commit of the files.

    Raises:
        DownloadError: the hub cannot be reached or does not have the model.
        StoreFull: the disk is full.
        Cancelled: `cancel` was set; the bytes so far are kept, and a later call continues with them.
    """
    reports = run_module(
        __name__,
        ["model", repo, revision or "", str(folder)],
        cancel=cancel,
        on_tick=lambda: on_bytes(folder_bytes(folder)),
    )
    return str(reports[-1]["revision"])


def folder_bytes(folder: Path) -> int:
    """Size of all files below `folder` at this moment."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # the child process moved it meanwhile
                continue
    return total


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Reports a redirect instead of following it: for large files it leads to another server, and it is an answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _problem_of(url: str) -> str:
    """Why the hub does not give the file at `url`; empty if it does."""
    proxies = urllib.request.getproxies()
    # urllib ignores ALL_PROXY, which huggingface_hub's HTTP client respects.
    if "all" in proxies:
        proxies = {"http": proxies["all"], "https": proxies["all"]} | proxies
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)
    try:
        if not url.startswith(("http://", "https://")):  # urllib would open `file:` too
            return f"the hub's address is not an HTTP address: {url}"
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "smallai-assistant"})  # noqa: S310
        # Longer than the caller waits, so that its message is the one that people read; it ends a forgotten thread.
        with opener.open(request, timeout=2 * PROBE_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        # 401: this repository wants the user's token, which huggingface_hub knows and this probe does not.
        return "" if error.code < 400 or error.code == 401 else f"the hub answered with HTTP {error.code}"
    except (OSError, ValueError) as error:  # URLError is an OSError; a malformed address is a ValueError
        reason = getattr(error, "reason", error)
        return f"the hub cannot be reached: {reason}"
    except Exception as error:  # http.client raises its own kinds for a server that does not speak HTTP
        return f"the hub cannot be reached: {type(error).__name__}"


def _endpoint() -> str:
    if given := os.environ.get("HF_ENDPOINT"):
        return given.rstrip("/")
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _work(arguments: Sequence[str]) -> None:
    """The child's work; `arguments` are the kind, the repository, the revision or "", the folder, and the paths."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub import errors as hub_errors

    kind, repo, revision, folder, *paths = arguments
    path = ""
    try:
        if kind == "files":
            for path in paths:
                hf_hub_download(repo, path, revision=revision or None, local_dir=folder)
        else:
            # The commit is asked for first: a branch may move while its files are fetched.
            commit = HfApi().model_info(repo, revision=revision or None).sha
            snapshot_download(
                repo, revision=commit, local_dir=folder, allow_patterns=_PATTERNS, ignore_patterns=_OTHER_FORMATS
            )
            report(revision=commit)
    except Exception as error:
        # If huggingface_hub could not ask the hub, it reports that the file is not on this disk. The cause says why.
        cause = error.__cause__ or error if isinstance(error, hub_errors.LocalEntryNotFoundError) else error
        match cause:
            case hub_errors.OfflineModeIsEnabled():
                failure = DownloadError(f"{repo}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE to download")
            case hub_errors.GatedRepoError():
                failure = DownloadError(f"the hub gives {repo} only to those who accept its terms", hint="set HF_TOKEN")
            case hub_errors.LocalEntryNotFoundError():
                failure = DownloadError(f"the hub did not give {repo}")
            case hub_errors.RepositoryNotFoundError() | hub_errors.EntryNotFoundError():
                failure = DownloadError(f"the hub has no {f'{repo} {path}'.strip()}", hint="check the name")
            # A full disk and the like are the system's errors and no failed download. The errors of the HTTP library
            # are OSErrors too; they have no errno.
            case OSError() if cause.errno is not None and not isinstance(cause, ConnectionError):
                raise
            case _:
                failure = DownloadError(f"the hub did not give {repo}: {type(cause).__name__}")
        raise failure from error


if __name__ == "__main__":
    serve(_work)
