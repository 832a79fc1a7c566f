"""LoRA adapters beside each other on one base: files of peft, interleaved streams, retired versions."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.internals import Internals
from support.tiny_text import save_tiny_llama

from smallai_assistant import Adapter, GenerationOptions, ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import AdapterMismatch
from smallai_assistant.models.catalog import Catalog

TASK = "text-generation"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OPTIONS = GenerationOptions(max_tokens=16)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def say(model: TextModel, text: str, adapter: Adapter | None = None) -> str:
    return "".join(model.generate(user(text), OPTIONS, adapter=adapter))


def save_lora(
    folder: Path, base: Path, *, seed: int, rank: int = 8, scale: float = 0.3, targets: Sequence[str] = TARGETS
) -> Adapter:
    """Writes a LoRA of random weights with peft, strong enough that answers differ from those of the base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM")
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(std=scale)
    wrapped.save_pretrained(folder)
    return adapter_at(folder)


def adapter_at(folder: Path) -> Adapter:
    return Adapter(folder.name, TASK, "lora", folder, {}, {}, datetime.now(UTC))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("loras")
    return [save_lora(folder / f"version-{n}", base, seed=n) for n in range(2)]


@pytest.fixture(scope="module")
def models(base: Path) -> Iterator[ModelRuntime]:
    opened = ModelRuntime(Catalog(base.parent), [TransformersEngine()], device="cpu")
    yield opened
    opened.close()


@contextmanager
def lent(models: ModelRuntime, base: Path, **options: Any) -> Iterator[TextModel]:
    """Lends a model without adapters, and leaves it without. Each load starts a process, so it is loaded once."""
    with models.lease(ModelSpec(str(base), task=TASK, **options), TextModel) as model:
        assert model.extra_bytes == 0
        yield model
        for part in Internals(model).loaded_parts:
            model.retire_adapter(part.adapter_id)


@pytest.fixture
def model(models: ModelRuntime, base: Path) -> Iterator[TextModel]:
    with lent(models, base, dtype="float32") as found:
        yield found


@pytest.fixture
def quantized(models: ModelRuntime, base: Path, request: pytest.FixtureRequest) -> Iterator[TextModel]:
    with lent(models, base, dtype="float32", quantization=request.param) as found:
        yield found


def reference(base: Path, adapter: Adapter | None, text: str) -> str:
    """The answer of transformers' own loop with weights that peft loaded."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    module: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        module = PeftModel.from_pretrained(module, adapter.folder)
    ids = tokenizer.apply_chat_template(user(text), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        out = module.eval().generate(**ids, max_new_tokens=OPTIONS.max_tokens, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)).rstrip("\ufffd")


def test_answers_equal_those_of_peft(base: Path, adapters: list[Adapter], model: TextModel) -> None:
    expected = [reference(base, adapter, "abc") for adapter in (None, *adapters)]
    assert len(set(expected)) == 3
    for adapter, text in [*zip((None, *adapters), expected, strict=True), (None, expected[0])]:
        assert say(model, "abc", adapter).rstrip("\ufffd") == text


def test_interleaved_streams_do_not_mix(adapters: list[Adapter], model: TextModel) -> None:
    used = [(f"text {n // 3}", (None, *adapters)[n % 3]) for n in range(12)]
    expected = [say(model, text, adapter) for text, adapter in used]
    assert len(set(expected)) == len(used)
    streams = [model.generate(user(text), OPTIONS, adapter=adapter) for text, adapter in used]
    found = ["" for _ in used]
    running = set(range(len(used)))
    while running:
        for n in sorted(running):
            try:
                found[n] += next(streams[n])
            except StopIteration:
                running.discard(n)
    assert found == expected


def test_retired_adapter_is_dropped_after_its_last_stream(adapters: list[Adapter], model: TextModel) -> None:
    old, new = adapters
    expected = say(model, "abc", old)
    one = Internals(model).lora_bytes
    assert one > 0
    say(model, "abc", new)
    assert Internals(model).lora_bytes == 2 * one
    streams = [model.generate(user("abc"), OPTIONS, adapter=old) for _ in range(2)]
    begun = [next(stream) for stream in streams]
    model.retire_adapter(old.id)
    assert Internals(model).lora_bytes == 2 * one
    streams[0].close()
    assert Internals(model).lora_bytes == 2 * one
    assert say(model, "abc") != expected  # other streams continue meanwhile
    assert begun[1] + "".join(streams[1]) == expected
    assert Internals(model).lora_bytes == one
    assert Internals(model).loaded_parts == {new.part}
    assert old.part not in Internals(model).cached_parts
    assert say(model, "abc", new) != expected
    model.retire_adapter(new.id)
    assert Internals(model).lora_bytes == 0


def test_dropping_frees_the_memory(base: Path, model: TextModel, tmp_path: Path) -> None:
    import torch

    adapter = save_lora(tmp_path / "big", base, seed=3, rank=64)
    say(model, "abc", adapter)

    def living() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) and thing.shape[:1] == (64,) for thing in gc.get_objects())

    before = living()
    assert before > 0
    model.retire_adapter(adapter.id)
    n_layers = Internals(model).module.config.num_hidden_layers
    assert before - living() >= n_layers * len(TARGETS)


def test_retired_adapter_can_serve_again(adapters: list[Adapter], model: TextModel) -> None:
    """A rollback lets an earlier version serve again."""
    expected = [say(model, "abc", adapter) for adapter in adapters]
    for _ in range(2):
        for adapter, text in zip(adapters, expected, strict=True):
            model.retire_adapter(adapter.id)
            assert say(model, "abc", adapter) == text
    model.retire_adapter("a version that was never loaded")


def test_the_size_of_loaded_versions_is_limited(
    base: Path, model: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn may ask for the champion just before it is retired. Nobody retires that version a second time."""
    made = [save_lora(tmp_path / f"v{n}", base, seed=n, targets=["q_proj"]) for n in range(7)]
    say(model, "abc", made[0])
    one = model.extra_bytes
    monkeypatch.setattr(Internals(model).adapters, "_limit", int(4.5 * one))
    texts = [say(model, "abc", adapter) for adapter in made]
    assert Internals(model).loaded_parts == {adapter.part for adapter in made[-4:]}
    assert Internals(model).cached_parts == {None, *(adapter.part for adapter in made[-4:])}
    assert model.extra_bytes == 4 * one
    assert [say(model, "abc", adapter) for adapter in made] == texts
    model.drop_extras()
    assert (model.extra_bytes, Internals(model).cached_parts) == (0, {None})
    assert say(model, "abc", made[0]) == texts[0]


def damage(adapter: Adapter, folder: Path, how: str, base: Path) -> Adapter:
    """Makes a copy of the adapter that does not fit the base."""
    import torch
    from safetensors.torch import load_file, save_file

    if how == "another base":
        big = save_tiny_llama(folder.parent / "big", hidden=96)
        return save_lora(folder, big, seed=5)
    shutil.copytree(adapter.folder, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    first = sorted(weights)[0]
    if how == "a weight is missing":
        del weights[first]
    elif how == "a weight too many":
        weights["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.zeros(8, 64)
    elif how == "a shape":
        weights[first] = torch.zeros(3, 3)
    elif how == "NaN":
        weights[first] = torch.full_like(weights[first], float("nan"))
    elif how == "cut short":
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        return adapter_at(folder)
    elif how == "no config":
        (folder / "adapter_config.json").unlink()
    elif how == "no modules":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["nothing_such"]}))
    elif how == "nonsense":
        (folder / "adapter_config.json").write_text('{"peft_type": "NOPE"}')
    save_file(weights, folder / "adapter_model.safetensors")
    return adapter_at(folder)


@pytest.mark.parametrize(
    "how",
    [
        "another base",
        "a weight is missing",
        "a weight too many",
        "a shape",
        "NaN",
        "cut short",
        "no config",
        "no modules",
        "nonsense",
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_wrong_weights_are_refused_without_side_effects(
    how: str, is_first: bool, adapters: list[Adapter], model: TextModel, tmp_path: Path, base: Path
) -> None:
    expected = (
        [say(model, "abc")] if is_first else [say(model, "abc"), *(say(model, "abc", adapter) for adapter in adapters)]
    )
    wrong = damage(adapters[0], tmp_path / "wrong", how, base)
    running = model.generate(user("abc"), OPTIONS)
    begun = next(running)
    for _ in range(2):
        with pytest.raises(AdapterMismatch, match="wrong does not fit the model"):
            say(model, "abc", wrong)
    assert begun + "".join(running) == expected[0]
    assert Internals(model).lora_bytes == 0 or not is_first
    assert not any("wrong" in name for name, _ in Internals(model).module.named_parameters())
    assert wrong.part not in Internals(model).cached_parts
    found = [say(model, "abc"), *(say(model, "abc", adapter) for adapter in adapters)]
    assert found[: len(expected)] == expected
    assert len(set(found)) == 3


def test_adapters_of_different_ranks_and_targets(base: Path, model: TextModel, tmp_path: Path) -> None:
    wide = save_lora(tmp_path / "wide", base, seed=1, rank=16)
    narrow = save_lora(tmp_path / "narrow", base, seed=2, rank=2, targets=["v_proj"], scale=1.0)
    expected = [reference(base, adapter, "xyz") for adapter in (wide, narrow)]
    found = [say(model, "xyz", adapter).rstrip("\ufffd") for adapter in (wide, narrow, wide, narrow)]
    assert found == expected * 2


@pytest.mark.parametrize("quantized", ["nf4", "int8"], indirect=True)
def test_lora_on_a_quantized_base(quantized: TextModel, adapters: list[Adapter]) -> None:
    texts = [say(quantized, "abc", adapter) for adapter in (None, *adapters)]
    assert len(set(texts)) == 3
    assert [say(quantized, "abc", adapter) for adapter in (*adapters, None)] == [texts[1], texts[2], texts[0]]
    quantized.retire_adapter(adapters[0].id)
    quantized.retire_adapter(adapters[1].id)
    assert say(quantized, "abc") == texts[0]
    assert Internals(quantized).lora_bytes == 0


def test_serving_changes_no_weight(adapters: list[Adapter], model: TextModel) -> None:
    before = {name: weight.clone() for name, weight in Internals(model).module.named_parameters()}
    for adapter in (*adapters, None):
        say(model, "abc", adapter)
    for adapter in adapters:
        model.retire_adapter(adapter.id)
    after = dict(Internals(model).module.named_parameters())
    assert set(after) == set(before)
    assert all(bool((after[name] == weight).all()) for name, weight in before.items())
    assert not any(weight.requires_grad for weight in after.values())


def test_parts_of_one_adapter_are_different_weights(
    base: Path, adapters: list[Adapter], model: TextModel, tmp_path: Path
) -> None:
    shutil.copytree(adapters[0].folder, tmp_path / "whole")
    shutil.copytree(adapters[1].folder, tmp_path / "whole" / "ratings")
    whole = replace(adapter_at(tmp_path / "whole"), files={"ratings/adapter_model.safetensors": ""})
    part = whole.with_part("ratings")
    assert part is not None
    expected = [say(model, "abc", adapter) for adapter in adapters]
    assert [say(model, "abc", adapter) for adapter in (whole, part, whole)] == [*expected, expected[0]]
    assert {whole.part, part.part} <= Internals(model).loaded_parts
    model.retire_adapter(whole.id)  # retires all its parts
    assert Internals(model).loaded_parts == {adapter.part for adapter in adapters}
    assert Internals(model).cached_parts == {None, *(adapter.part for adapter in adapters)}


def test_adapter_id_may_contain_dots(adapters: list[Adapter], model: TextModel) -> None:
    """Names of torch modules must not, and a task's name, with dots, is part of the id."""
    dotted = replace(adapters[0], id="text-generation.v1.2")
    assert say(model, "abc", dotted) == say(model, "abc", adapters[0])
    model.retire_adapter(dotted.id)
    assert say(model, "abc", dotted) == say(model, "abc", adapters[0])
