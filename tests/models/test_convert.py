"""Conversions keep the model: tiny seeded models compute the same after every converter."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_gguf, tiny_whisper

from smallai_assistant.errors import Cancelled, ModelInvalid, UnsafeModelFormat
from smallai_assistant.models.convert import convert, efficientnet, gguf, needs_conversion, whisper_ct2
from smallai_assistant.models.files import check_model_folder

# -- GGUF --


@pytest.fixture
def gguf_source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "source"


def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto").eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(40).reshape(2, 20)).logits


def test_gguf_computes_the_same_after_conversion(gguf_source: Path) -> None:
    original = tiny_gguf.make_model()
    tiny_gguf.write_gguf(gguf_source / "model.gguf", original)
    out = gguf_source.parent / "out"
    convert("gguf", gguf_source, out)
    check_model_folder(out)
    model, tokenizer = loaded(out)
    assert str(model.dtype) == "torch.bfloat16"
    assert (logits(model) == logits(original)).all()
    assert model.generation_config.eos_token_id == [285, 287]
    assert model.config.eos_token_id == 287
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "fox 2024"}], tokenize=False)
    assert prompt == "<|im_start|>user\nfox 2024<|im_end|>\n"
    ids = tokenizer(prompt).input_ids
    assert (ids[0], ids[-2]) == (286, 287)
    assert tokenizer.decode(ids) == prompt
    assert tokenizer.model_max_length == 256
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert "quantization_config" not in config
    assert str(gguf_source) not in (out / "tokenizer_config.json").read_text()


def test_a_matrix_stored_twice_is_tied(gguf_source: Path) -> None:
    """The finer copy is kept: the logits are those of the original."""
    original = tiny_gguf.make_model()
    tiny_gguf.write_gguf(gguf_source / "model.gguf", original, output="near")
    out = gguf_source.parent / "out"
    gguf.convert(gguf_source, out)
    model, _ = loaded(out)
    assert model.config.tie_word_embeddings
    assert (logits(model) == logits(original)).all()


def test_a_separate_output_matrix_stays(gguf_source: Path) -> None:
    tiny_gguf.write_gguf(gguf_source / "model.gguf", tiny_gguf.make_model(), output="other")
    out = gguf_source.parent / "out"
    gguf.convert(gguf_source, out)
    model, _ = loaded(out)
    assert not model.config.tie_word_embeddings
    assert (model.lm_head.weight != model.model.embed_tokens.weight).any()


def test_a_gguf_without_a_chat_template_is_invalid(gguf_source: Path) -> None:
    tiny_gguf.write_gguf(gguf_source / "model.gguf", tiny_gguf.make_model(), template=None)
    with pytest.raises(ModelInvalid, match="no chat template"):
        gguf.convert(gguf_source, gguf_source.parent / "out")


def test_a_gguf_without_a_tensor_is_invalid(gguf_source: Path) -> None:
    tiny_gguf.write_gguf(gguf_source / "model.gguf", tiny_gguf.make_model(), drop="blk.1.ffn_up.weight")
    with pytest.raises(ModelInvalid, match=r"layers\.1\.mlp\.up_proj"):
        gguf.convert(gguf_source, gguf_source.parent / "out")


@pytest.mark.parametrize("kept", [0.999, 0.3])
def test_a_gguf_cut_short_is_invalid(gguf_source: Path, kept: float) -> None:
    path = gguf_source / "model.gguf"
    tiny_gguf.write_gguf(path, tiny_gguf.make_model())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ModelInvalid):
        convert("gguf", gguf_source, gguf_source.parent / "out")
    assert not (gguf_source.parent / "out/model.safetensors").exists()


# -- Whisper --


@pytest.fixture(scope="module")
def whisper() -> Any:
    return tiny_whisper.make_model()


def converted(tmp_path: Path, variables: dict[str, Any]) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    tiny_whisper.write_ct2(tmp_path / "source", variables)
    whisper_ct2.convert(tmp_path / "source", out)
    return out


def load_whisper(folder: Path) -> Any:
    from safetensors.torch import load_file
    from whisper.model import ModelDimensions, Whisper

    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "openai-whisper"
    assert config["alignment_heads"] == [[0, 1]]
    model = Whisper(ModelDimensions(**config["dims"]))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.eval()


def test_whisper_computes_the_same_after_conversion(tmp_path: Path, whisper: Any) -> None:
    import torch

    model = load_whisper(converted(tmp_path, tiny_whisper.variables_of(whisper)))
    assert model.dims == whisper.dims
    mel = torch.randn(1, 80, 40, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[5, 6, 7, 51863]])
    with torch.no_grad():
        assert torch.equal(model(mel, tokens), whisper(mel, tokens))


def test_int8_weights_are_scaled_back(tmp_path: Path, whisper: Any) -> None:
    variables = tiny_whisper.variables_of(whisper)
    for name in ("decoder/layer_0/ffn/linear_0/weight", "encoder/conv1/weight"):
        tiny_whisper.quantize(variables, name)
    model = load_whisper(converted(tmp_path, variables))
    for name in ("decoder.blocks.0.mlp.0.weight", "encoder.conv1.weight"):
        ours, theirs = model.state_dict()[name].numpy(), whisper.state_dict()[name].numpy()
        step = np.abs(theirs).max() / 127
        assert np.abs(ours - theirs).max() <= 0.51 * step


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.3, 0.9, 0.999999])
def test_a_whisper_file_cut_short_is_invalid(tmp_path: Path, whisper: Any, kept: float) -> None:
    tiny_whisper.write_ct2(tmp_path, tiny_whisper.variables_of(whisper))
    whole = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ModelInvalid):
        whisper_ct2.convert(tmp_path, tmp_path)


def test_whisper_files_that_are_not_whisper_are_invalid(tmp_path: Path, whisper: Any) -> None:
    variables = tiny_whisper.variables_of(whisper)
    with pytest.raises(ModelInvalid, match="unknown weights: extra"):
        converted_in(tmp_path / "a", {**variables, "extra": np.ones(4, np.float32)})
    biased = variables["encoder/layer_0/self_attention/linear_0/bias"].copy()
    biased[len(biased) // 3] = 1.0
    with pytest.raises(ModelInvalid, match="bias on the key"):
        converted_in(tmp_path / "b", {**variables, "encoder/layer_0/self_attention/linear_0/bias": biased})
    missing = {name: value for name, value in variables.items() if name != "encoder/conv2/bias"}
    with pytest.raises(ModelInvalid, match="conv2/bias"):
        converted_in(tmp_path / "c", missing)
    tiny_whisper.write_ct2(tmp_path / "d", variables, spec="TransformerSpec")
    with pytest.raises(ModelInvalid, match="TransformerSpec"):
        whisper_ct2.convert(tmp_path / "d", tmp_path / "d")


def converted_in(folder: Path, variables: dict[str, Any]) -> None:
    tiny_whisper.write_ct2(folder, variables)
    whisper_ct2.convert(folder, folder)


# -- EfficientNet, and the child --


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _in_a_child(source: Path, target: Path) -> None:
    convert("efficientnet-lite", source, target)


@pytest.mark.parametrize("converter", [efficientnet.convert, _in_a_child])
def test_only_the_pinned_pickle_is_read(tmp_path: Path, converter: Callable[[Path, Path], None]) -> None:
    (tmp_path / "model.pth").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    with pytest.raises(UnsafeModelFormat):
        converter(tmp_path, tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_conversion_can_be_cancelled(gguf_source: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        convert("gguf", gguf_source, gguf_source.parent / "out", cancel=cancel)


def test_formats_without_conversion() -> None:
    assert not needs_conversion("sentence-transformers")
    assert all(map(needs_conversion, ("gguf", "ct2-whisper", "efficientnet-lite")))
