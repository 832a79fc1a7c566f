"""Verifying and removing models: every changed bit is found, and a removal is complete."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from support.tiny_servers import FILES, files_below, tiny_entry, write_files

from smallai_assistant.errors import Busy, Cancelled, IntegrityError, ModelNotFound
from smallai_assistant.filesystem import exclusive
from smallai_assistant.models import integrity
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.folders import MANIFEST
from smallai_assistant.models.hub import folder_bytes


def test_every_flipped_bit_is_found(catalog: Catalog, pulled: Path) -> None:
    catalog.verify("tiny")
    for path in FILES:
        data = bytearray((pulled / path).read_bytes())
        for at in (0, len(data) // 2, len(data) - 1):
            data[at] ^= 1
            (pulled / path).write_bytes(data)
            with pytest.raises(IntegrityError, match=f"tiny: {path} has changed"):
                catalog.verify("tiny")
            data[at] ^= 1
        (pulled / path).write_bytes(data)
    catalog.verify("tiny")


def test_missing_and_strange_files_are_found(catalog: Catalog, pulled: Path) -> None:
    (pulled / "1_Part/extra.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"1_Part/extra\.json is not one of its files"):
        catalog.verify("tiny")
    (pulled / "1_Part/extra.json").unlink()
    (pulled / "config.json").unlink()
    with pytest.raises(IntegrityError, match=r"config\.json is missing"):
        catalog.verify("tiny")
    (pulled / "config.json").mkdir()
    with pytest.raises(IntegrityError, match=r"config\.json is missing"):
        catalog.verify("tiny")


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"files": 3}', '{"files": {"config.json": 3}}', "\xff"])
def test_a_damaged_manifest_is_an_integrity_error(catalog: Catalog, pulled: Path, record: str) -> None:
    (pulled / MANIFEST).write_bytes(record.encode("latin-1"))
    with pytest.raises(IntegrityError):
        catalog.verify("tiny")


def test_an_unreadable_file_is_an_integrity_error(
    catalog: Catalog, pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path, **_options: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(integrity, "file_sha256", fail)
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error"):
        catalog.verify("tiny")


def test_remove_also_deletes_an_unfinished_pull(catalog: Catalog, pulled: Path) -> None:
    n_bytes = folder_bytes(pulled)
    parts = pulled.parent / ".parts-tiny"
    write_files(parts, {".wheels/x.whl": bytes(1000)})
    assert catalog.remove("tiny") == n_bytes + 1000
    assert files_below(pulled.parent) == {".lock"}
    assert not catalog.is_pulled("tiny")
    for call in (catalog.remove, catalog.verify, catalog.resolve):
        with pytest.raises(ModelNotFound):
            call("tiny")
    write_files(parts, {"config.json": b"half"})
    assert catalog.remove("tiny") == 4
    assert files_below(pulled.parent) == {".lock"}


def test_a_removed_model_is_gone_before_its_deletion(
    catalog: Catalog, pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it were killed there
        catalog.remove("tiny")
    assert not pulled.exists()
    assert not catalog.is_pulled("tiny")
    assert files_below(pulled.parent) > {".lock"}
    catalog.pull(["tiny"], local=pulled.parents[1] / "own")
    assert files_below(pulled.parent) == {".lock", *(f"tiny/{path}" for path in [*FILES, MANIFEST])}


def test_remove_is_busy_and_pull_waits_cancellably(catalog: Catalog, pulled: Path, tmp_path: Path) -> None:
    cancel = threading.Event()
    catalog.entries = {**catalog.entries, "other": tiny_entry(name="other")}
    with exclusive(pulled.parent / ".lock"):
        with pytest.raises(Busy, match="another process"):
            catalog.remove("tiny")
        with pytest.raises(Cancelled):
            catalog.pull(["other"], progress=lambda *_: cancel.set(), cancel=cancel, local=tmp_path / "own")
    catalog.verify("tiny")
