"""What a model folder claims is built within bounds, and the weights that serve are in memory of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.internals import Internals
from support.tiny_text import save_tiny_llama

from smallai_assistant import ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.loading import bounded_building, own_weights
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import IntegrityError, ModelInvalid
from smallai_assistant.models.catalog import Catalog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "tiny")


def load(models_dir: Path, folder: Path) -> Any:
    models = ModelRuntime(Catalog(models_dir), [TransformersEngine()], device="cpu")
    with models.lease(ModelSpec(str(folder), task="text-generation"), TextModel) as model:
        return models, model


def test_more_weights_than_the_file_holds_are_not_built(models_dir: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 2**19, "intermediate_size": 2**19}))
    with pytest.raises(ModelInvalid, match="claims far more"):
        load(models_dir, folder)


def test_more_layers_than_the_file_holds_are_not_built(folder: Path) -> None:
    import torch

    with pytest.raises(ModelInvalid, match="claims far more"), bounded_building(folder):
        torch.nn.ModuleList([torch.nn.Sequential(torch.nn.ReLU()) for _ in range(100_000)])
    torch.nn.ModuleList([torch.nn.ReLU() for _ in range(20_000)])  # outside of the block nothing is counted


@pytest.mark.parametrize("end", [{"a": 1}, [[1]], -1, 10**6, True, "x"])
def test_an_end_token_is_one_of_the_vocabulary(models_dir: Path, folder: Path, end: Any) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": end}))
    with pytest.raises(ModelInvalid):
        load(models_dir, folder)


def test_overwriting_the_file_does_not_change_a_model_that_serves(models_dir: Path, folder: Path) -> None:
    import torch

    models, model = load(models_dir, folder)
    module = Internals(model).module
    before = [parameter.clone() for parameter in module.parameters()]
    path = folder / "model.safetensors"
    with path.open("r+b") as file:  # in place, as `cp` does
        file.seek(-10_000, 2)
        file.write(bytes(10_000))
    assert all(torch.equal(new, old) for new, old in zip(module.parameters(), before, strict=True))
    models.unload(model.spec)
    with (
        pytest.raises(IntegrityError, match="has changed"),
        models.lease(model.spec, TextModel),
    ):
        pass
    models.close()


def test_weights_that_are_not_mapped_are_not_copied() -> None:
    import torch

    network = torch.nn.Linear(3, 3)
    address = network.weight.data_ptr()
    own_weights(network)
    assert network.weight.data_ptr() == address
