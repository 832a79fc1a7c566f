"""Shared fixtures. Tests never see the user's settings or data; pulled models and test data stay between runs."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import platformdirs
import pytest
from support.databases import cluster, database, database_url, postgres_server, postgres_url  # noqa: F401  (fixtures)

from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.models.catalog import Catalog

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests that press Ctrl-C would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis fails a test that takes over 0.2 s, or whose inputs are made slowly: on a busy machine that is any test.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# torch's threads sleep at barriers instead of spinning: on a busy machine that is faster by far.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Each process of the run gets its share of the cores: with more threads than cores, torch's wait for each other.
if (n_processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_processes)))

MODELS_DIR = Path(
    os.environ.get("SMALLAI_MODELS_DIR") or platformdirs.user_cache_path("smallai", appauthor=False) / "models"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files that load real models take longest. They begin first, so that the processes of a run end at the same time.
    of_models = {item.path for item in items if "models_dir" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in of_models)
    of_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not of_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in of_gpu:
            item.add_marker(pytest.mark.skip(reason="needs CUDA: run `make test-gpu` on a machine that has it"))


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SMALLAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg-config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg-data"))


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder of the starter models, pulled once; it fails, and does not skip, where they cannot be had."""
    Catalog(MODELS_DIR).pull(["starter", "small"])
    return MODELS_DIR


@pytest.fixture
def config(tmp_path: Path, models_dir: Path) -> AssistantConfig:
    """The real models, a data directory of the test's own."""
    return AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu")


@pytest.fixture(scope="module")
def assistant(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    """An assistant on the real models, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("assistant")
    with Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu")) as opened:
        yield opened


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to anything but local sockets fail."""

    def guard(name: str) -> None:
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                raise AssertionError(f"a connection to {address!r} was tried")
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)

    guard("connect")
    guard("connect_ex")

    def no_lookup(host: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"a look-up of {host!r} was tried")

    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)
