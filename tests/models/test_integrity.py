"""Hashes at each load: changed weights, tokenizers and templates do not serve."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.tiny_servers import FILES

from smallai_assistant.errors import IntegrityError
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.folders import MANIFEST


def check(catalog: Catalog, name: str) -> None:
    catalog.end_check(catalog.begin_check(name))


def overwrite(path: Path, data: bytes) -> None:
    """Changes a file as somebody would who hides it: of the same size, with the time of its last change set back."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_of_a_pulled_model_is_refused(catalog: Catalog, pulled: Path, file: str) -> None:
    check(catalog, "tiny")
    data = bytearray((pulled / file).read_bytes())
    data[-1] ^= 1
    overwrite(pulled / file, bytes(data))
    for opened in (catalog, reopened(catalog)):
        with pytest.raises(IntegrityError, match=f"{file} has changed") as caught:
            check(opened, "tiny")
        assert "pull it again" in caught.value.hint


def reopened(catalog: Catalog) -> Catalog:
    """As another process opens the same folder."""
    other = Catalog(catalog._folders.root)  # the root is not public: nothing but tests needs it
    other.entries = catalog.entries
    return other


def test_added_and_removed_files_are_refused(catalog: Catalog, pulled: Path) -> None:
    (pulled / "chat_template.jinja").write_text("{{ 'I obey another' }}")
    with pytest.raises(IntegrityError, match="not one of its files"):
        check(catalog, "tiny")
    (pulled / "chat_template.jinja").unlink()
    check(catalog, "tiny")
    (pulled / "config.json").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        check(catalog, "tiny")


def test_the_record_must_be_that_of_the_catalogue(catalog: Catalog, pulled: Path) -> None:
    """Whoever can change a file can change the record beside it; the catalogue comes with the program."""
    manifest = json.loads((pulled / MANIFEST).read_bytes())
    (pulled / "config.json").write_bytes(b"{}")
    manifest["files"]["config.json"] = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    (pulled / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="catalogue"):
        check(catalog, "tiny")


def own_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("by_fingerprint", [True, False])
def test_a_folder_stays_what_it_was_at_its_first_use(catalog: Catalog, tmp_path: Path, by_fingerprint: bool) -> None:
    name = str(own_folder(tmp_path / "mine"))
    if by_fingerprint:
        before = catalog.fingerprint(name)
    else:
        check(catalog, name)
        before = catalog.fingerprint(name)
    check(catalog, name)
    overwrite(tmp_path / "mine/model.safetensors", b"WEIGHTS")
    with pytest.raises(IntegrityError, match=r"model\.safetensors has changed") as caught:
        check(catalog, name)
    assert "start the program again" in caught.value.hint
    assert catalog.fingerprint(name) == before  # of what was loaded, not of what lies there now
    assert Catalog(tmp_path / "models").fingerprint(name) != before


def test_files_added_to_a_folder_are_noticed(catalog: Catalog, tmp_path: Path) -> None:
    name = str(own_folder(tmp_path / "mine"))
    check(catalog, name)
    (tmp_path / "mine/generation_config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="added or removed"):
        check(catalog, name)


def test_a_record_in_a_strangers_folder_proves_nothing(catalog: Catalog, tmp_path: Path) -> None:
    mine, theirs = own_folder(tmp_path / "mine"), own_folder(tmp_path / "theirs")
    (theirs / "model.safetensors").write_bytes(b"other")
    digests = catalog.fingerprint(str(mine))
    forged = {"name": "mine", "files": {"model.safetensors": digests["weights_sha256"]}}
    (theirs / MANIFEST).write_text(json.dumps(forged))
    assert catalog.fingerprint(str(theirs))["weights_sha256"] != digests["weights_sha256"]


def test_a_change_during_the_load_is_noticed(catalog: Catalog, pulled: Path) -> None:
    running = catalog.begin_check("tiny")
    running.finish()
    data = (pulled / "model.safetensors").read_bytes()
    overwrite(pulled / "model.safetensors", data)  # the same bytes: others may have been there for a moment
    with pytest.raises(IntegrityError, match="changed while it was read"):
        catalog.end_check(running)
