"""A tiny model of two packages, and a package index and a model hub that run on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import struct
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smallai_assistant.models.entries import Entry, FileEntry, HubFile, PackageMember

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_DATA = random.Random(0).randbytes(300_000)
_HEADER = json.dumps({"w": {"dtype": "U8", "shape": [len(_DATA)], "data_offsets": [0, len(_DATA)]}}).encode()
WEIGHTS = struct.pack("<Q", len(_HEADER)) + _HEADER + _DATA
CONFIG = json.dumps({"model_type": "tiny"}).encode()
FILES = {"config.json": CONFIG, "1_Part/settings.json": b"{}", "model.safetensors": WEIGHTS}
PACKAGES = ("tiny-weights-a==1.0", "tiny-weights-b==1.0")
WHEELS = ("tiny_weights_a-1.0-py3-none-any.whl", "tiny_weights_b-1.0-py3-none-any.whl")
_CUT = 200_000  # the weights are split here between the two packages


def tiny_entry(*, hub: str | None = None, name: str = "tiny") -> Entry:
    """The tiny model as a catalogue entry; its format needs no conversion.

    Args:
        hub: a repository that has the files too.
        name: of the entry; two names are two models with the same files.
    """
    a, b = (package.partition("==")[0].replace("-", "_") for package in PACKAGES)
    parts = {
        "config.json": (PackageMember(PACKAGES[0], f"{a}/config.json"),),
        "1_Part/settings.json": (PackageMember(PACKAGES[0], f"{a}/settings.json"),),
        "model.safetensors": (
            PackageMember(PACKAGES[0], f"{a}/weights.0"),
            PackageMember(PACKAGES[1], f"{b}/weights.1"),
        ),
    }
    files = tuple(
        FileEntry(
            path=path,
            n_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            parts=parts[path],
            hub=HubFile(hub, path, COMMIT) if hub else None,
        )
        for path, data in FILES.items()
    )
    n_bytes = sum(map(len, FILES.values()))
    return Entry(name, "tiny-task", "tiny", "MIT", "no/where", "", "sentence-transformers", n_bytes, ("few",), files)


def write_files(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """Writes the files into a folder, as a user's own copy. Returns the folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_wheels(folder: Path, *, weights: bytes = WEIGHTS, ballast: int = 0) -> Path:
    """Writes the two packages into a folder and returns it. Importing one of them fails the test.

    Args:
        ballast: number of bytes to add to the first package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = {"config.json": CONFIG, "settings.json": b"{}", "weights.0": weights[:_CUT], "ballast": bytes(ballast)}
    _write_wheel(folder / WHEELS[0], first)
    _write_wheel(folder / WHEELS[1], {"weights.1": weights[_CUT:]})
    return folder


def _write_wheel(path: Path, members: Mapping[str, bytes]) -> None:
    package, version = path.name.split("-")[:2]
    info = f"{package}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(f"{package}/__init__.py", "raise SystemExit('a package that carries weights was imported')\n")
        for name, data in members.items():
            wheel.writestr(f"{package}/{name}", data)


class Server:
    """An HTTP server that serves what `answer` gives for a path: a body with headers, or None for a 404.

    It is also a proxy, for requests that name a whole address: it answers them itself.

    Attributes:
        asked: the paths of the GET requests, in order.
        asked_head: the paths of the HEAD requests, in order.
        proxied: the hosts of the requests that came as to a proxy.
        stalls: path -> number of bytes after which the answer waits for `go`; `is_stalled` tells that one waits.
        cuts: path -> number of bytes after which the connection is cut.
        is_silent: no request is answered before `go`, as by a hub that is too slow.
        status: replaces 200 and 404, if it is not 0.
    """

    def __init__(self, answer: Callable[[str], tuple[bytes, dict[str, str]] | None]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.asked_head: list[str] = []
        self.proxied: list[str] = []
        self.stalls: dict[str, int] = {}
        self.cuts: dict[str, int] = {}
        self.is_silent = False
        self.status = 0
        self.is_stalled = threading.Event()
        self.go = threading.Event()
        self.url = ""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Runs the server for the block; its address is `server.url`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(has_body=True)

        def do_HEAD(self) -> None:
            self._reply(has_body=False)

        def log_message(self, *_: object) -> None: ...

        def _reply(self, *, has_body: bool) -> None:
            address = urllib.parse.urlsplit(self.path)
            path = urllib.parse.unquote(address.path)
            (server.asked if has_body else server.asked_head).append(path)
            if address.netloc:
                server.proxied.append(address.netloc)
            if server.is_silent:
                server.is_stalled.set()
                server.go.wait(60)
            found = server.answer(path)
            body, headers = found or (b"", {"X-Error-Code": "EntryNotFound"})
            self.send_response(server.status or (404 if found is None else 200))
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if not has_body:
                return
            n_first = server.stalls.get(path, server.cuts.get(path, len(body)))
            self.wfile.write(body[:n_first])
            if path in server.cuts:
                self.close_connection = True
                return
            if n_first < len(body):
                server.is_stalled.set()
                server.go.wait(60)
                self.wfile.write(body[n_first:])

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...  # the client was killed: what the tests do to it

    with Quiet(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.go.set()
            httpd.shutdown()


def package_index(wheels: Path) -> Server:
    """A package index of the wheels in a folder; it serves them under `/files/`."""

    def answer(path: str) -> tuple[bytes, dict[str, str]] | None:
        kind, _, name = path.strip("/").partition("/")
        if kind == "files" and (wheels / name).is_file():
            return (wheels / name).read_bytes(), {"Content-Type": "application/octet-stream"}
        found = [wheel for wheel in wheels.glob("*.whl") if wheel.name.startswith(f"{name.replace('-', '_')}-")]
        if kind != "simple" or not found:
            return None
        links = "".join(f'<a href="/files/{wheel.name}">{wheel.name}</a>' for wheel in found)
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), {"Content-Type": "text/html"}

    return Server(answer)


def model_hub(repo: str, files: Mapping[str, bytes]) -> Server:
    """A model hub with one repository at one commit, as far as huggingface_hub asks."""
    base = {"X-Repo-Commit": COMMIT}

    def answer(path: str) -> tuple[bytes, dict[str, str]] | None:
        if path.startswith(f"/api/models/{repo}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in files.items()
            ]
            return json.dumps(tree).encode(), {"Content-Type": "application/json"}
        if path == f"/api/models/{repo}" or path.startswith(f"/api/models/{repo}/revision/"):
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return json.dumps(info).encode(), {"Content-Type": "application/json"}
        name = path.removeprefix(f"/{repo}/resolve/").partition("/")[2]
        if not path.startswith(f"/{repo}/resolve/") or name not in files:
            return None
        return files[name], {**base, "ETag": f'"{_oid(files[name])}"'}

    return Server(answer)


def files_below(folder: Path) -> set[str]:
    """The paths of all files below a folder, relative to it."""
    # `os.walk` passes over folders that another thread deletes meanwhile; `rglob` raises.
    return {str((Path(place) / name).relative_to(folder)) for place, _, names in os.walk(folder) for name in names}


def _oid(data: bytes) -> str:  # git's hash of a file, which the hub sends as its ETag
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
