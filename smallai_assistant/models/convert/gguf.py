"""Converts a GGUF file to a transformers folder: bfloat16 safetensors, tokenizer, chat template.

transformers reads GGUF, but each load takes 17 to 45 s and the model cannot be saved. Converted once, it loads in
seconds, and bitsandbytes can quantize it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smallai_assistant.errors import ModelInvalid

# Above this median cosine similarity of their rows, the output matrix and the embedding are one matrix, stored at two
# precisions. Two different matrices are far below: their rows are not aligned.
_TIED_COSINE = 0.99
# Tokens that end a turn, or the text if a model falls back to that, in the families of models that GGUF files are of.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>")


def convert(source: Path, target: Path) -> None:
    """Converts the only `.gguf` file in `source` to a transformers folder in `target`.

    Raises:
        ModelInvalid: the file cannot be read, has no chat template, or its tensors do not fit its architecture.
    """
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    (file,) = source.glob("*.gguf")
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
    if tokenizer.chat_template is None:
        raise ModelInvalid(f"{file.name}: it has no chat template", hint="use an instruct model")
    if tokenizer.eos_token_id is None:
        raise ModelInvalid(f"{file.name}: its tokenizer has no end token", hint="use another GGUF file of the model")
    if hasattr(transformers, "GgufConfig"):  # versions before 5.20 always dequantize
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, loading = AutoModelForCausalLM.from_pretrained(
        str(source), dtype=torch.bfloat16, output_loading_info=True, **options
    )
    config, state = model.config, dict(model.state_dict())
    tied = dict(model._tied_weights_keys or {})
    _check_complete(loading, set(tied), file.name)
    architecture = type(model).__name__
    del model  # `state` keeps the tensors; the rest is freed before they are written
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for output, embedding in tied.items():
        _tie(config, state, output, embedding)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    config.architectures = [architecture]
    config.__dict__.pop("_model_name_or_path", None)
    config.dtype = torch.bfloat16
    ends = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=_end_ids(tokenizer), pad_token_id=config.pad_token_id
    )
    # A GGUF tokenizer states no limit, and transformers then takes 1e30.
    tokenizer.model_max_length = config.max_position_embeddings
    save_file(
        {name: value.contiguous() for name, value in state.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(target))
    ends.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    _drop_paths(target / "tokenizer_config.json")


def _check_complete(loading: dict[str, Any], tied: set[str], name: str) -> None:
    """Refuses a model with missing or strange tensors: transformers only warns, and fills missing ones at random."""
    wrong = sorted({*map(str, loading["missing_keys"])} - tied)  # a tied matrix is stored once, under its other name
    wrong += sorted(map(str, [*loading["unexpected_keys"], *loading["mismatched_keys"]]))
    if wrong:
        raise ModelInvalid(f"{name}: tensors do not fit the architecture: {', '.join(wrong[:4])}")


def _tie(config: Any, state: dict[str, Any], output_name: str, embedding_name: str) -> None:
    """Ties the output matrix and the embedding if they are one matrix, and keeps the finer copy.

    Small models tie them (Qwen2.5 0.5B does), but a GGUF may store both: coarse as the embedding, fine as the output.
    Untied they would cost 270 MB more, and the embedding would be the worse copy.
    """
    import torch

    output, embedding = state.get(output_name), state.get(embedding_name)
    if output is None or embedding is None or output.shape != embedding.shape:
        return
    if not config.tie_word_embeddings:
        rows = torch.arange(0, output.shape[0], max(1, output.shape[0] // 2000))  # about 2,000 rows are enough
        similarity = torch.nn.functional.cosine_similarity(output[rows].float(), embedding[rows].float(), dim=-1)
        config.tie_word_embeddings = float(similarity.median()) > _TIED_COSINE
    if config.tie_word_embeddings:
        state[embedding_name] = state.pop(output_name)


def _end_ids(tokenizer: Any) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[name] for name in {tokenizer.eos_token, *_END_TOKENS} if name in vocabulary)


def _drop_paths(path: Path) -> None:
    """Removes the folder that the tokenizer was loaded from: it is a temporary one, and a path of this machine."""
    config = json.loads(path.read_bytes())
    for key in ("is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2))
