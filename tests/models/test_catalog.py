"""The catalogue: the hashes it pins, its names, and what a name resolves to."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from support import tiny_gguf
from support.tiny_servers import WEIGHTS, files_below, tiny_entry, write_files

from smallai_assistant import ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import InvalidInput, ModelInvalid, ModelNotFound, UnsafeModelFormat
from smallai_assistant.models import catalog as catalog_module
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.convert import needs_conversion
from smallai_assistant.models.files import check_name
from smallai_assistant.models.folders import MANIFEST
from smallai_assistant.models.hub import folder_bytes

# The hashes that the catalogue must pin. A second copy, so that a change of `catalog.toml` is noticed.
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


# -- the hashes it pins --


def test_the_catalogue_pins_these_hashes() -> None:
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


def test_sets_have_one_model_for_each_task(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    tasks = ["text-generation", "feature-extraction", "image-classification", "automatic-speech-recognition"]
    for name, min_mb, max_mb in (("starter", 650, 760), ("small", 250, 320)):
        entries = [catalog.entries[model] for model in catalog.names_of([name])]
        assert Counter(entry.task for entry in entries) == Counter(tasks)
        assert min_mb < sum(entry.n_bytes for entry in entries) / 1e6 < max_mb


def test_converted_models_have_the_stated_size(models_dir: Path) -> None:
    catalog = Catalog(models_dir)
    for name in catalog.names_of(["starter", "small"]):
        assert folder_bytes(models_dir / name) == pytest.approx(catalog.entries[name].n_bytes_ready, rel=0.01), name


def test_names_and_sets_come_once_in_order(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    names = catalog.names_of(["whisper-base", "small", "starter", "all-minilm-l6-v2"])
    assert names == list(catalog.entries)
    with pytest.raises(ModelNotFound, match="did you mean 'smollm2-135m-instruct'"):
        catalog.names_of(["smollm2-135m-instrct"])


# -- names --


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_paths_are_refused(
    catalog: Catalog, pulled: Path, name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder whose parents hold nothing that could be taken for a model.
    here = tmp_path_factory.mktemp("here") / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    (pulled.parents[1] / "x").mkdir()
    before = files_below(pulled.parents[1])
    for call in (catalog.is_pulled, catalog.verify, catalog.remove, lambda name: catalog.pull([name])):
        with pytest.raises(InvalidInput, match="is no"):
            call(name)
    if name in ("..", "/etc"):  # these folders exist, and a user's folder may have any name: its content is refused
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
    assert files_below(pulled.parents[1]) == before


# -- resolve --


def test_auto_is_the_first_pulled_model(catalog: Catalog, tmp_path: Path) -> None:
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


def test_a_folder_without_manifest_is_not_a_model(catalog: Catalog, pulled: Path, tmp_path: Path) -> None:
    """The manifest is written last, so the folder is half a copy, and a pull replaces it."""
    (pulled / MANIFEST).unlink()
    (pulled / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelNotFound):
        catalog.resolve("tiny")
    assert [model.name for model in catalog.pull(["tiny"], local=tmp_path / "own")] == ["tiny"]
    catalog.verify("tiny")


def test_a_missing_model_says_how_to_get_it(catalog: Catalog) -> None:
    for name, hint in (("tiny", "models pull tiny"), ("owner/name", "models pull owner/name"), ("tny", "'tiny'")):
        with pytest.raises(ModelNotFound) as caught:
            catalog.resolve(name)
        assert hint in caught.value.hint


def test_a_gguf_file_is_converted_once(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my model.gguf"
    tiny_gguf.write_gguf(path, tiny_gguf.make_model())
    folder = catalog.resolve(str(path))
    assert {"config.json", "model.safetensors", MANIFEST} <= files_below(folder)
    assert json.loads((folder / MANIFEST).read_text())["source"] == "my model.gguf"
    monkeypatch.setattr(catalog_module, "convert", None)
    path.rename(tmp_path / "renamed.gguf")
    assert Catalog(tmp_path / "models").resolve(str(tmp_path / "renamed.gguf")) == folder
    catalog.verify(folder.name)
