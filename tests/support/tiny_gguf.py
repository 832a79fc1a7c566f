"""A tiny model as a GGUF file, made in memory: seeded weights, a byte-pair tokenizer, a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ["the quick brown fox jumps over the lazy dog", "a small model answers in small words 2024"]


def make_model(seed: int = 0, *, kind: str = "qwen2") -> Any:
    """A seeded model in bfloat16 with tied embeddings.

    Args:
        kind: `qwen2` or `llama`, in whose GGUF files the rows of q and k have another order.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config_type, model_type = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    config = config_type(
        vocab_size=288,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    # Not `.to(bfloat16)`, which would round the rotary frequencies too.
    return model_type._from_config(config, dtype=torch.bfloat16).eval()


def write_gguf(
    path: Path, model: Any, *, template: str | None = TEMPLATE, output: str = "none", drop: str | None = None
) -> None:
    """Writes `model` as a GGUF file.

    Args:
        template: the chat template; None writes none.
        output: `none` leaves out the output matrix, which is tied; `near` stores a slightly different copy, as files
            with mixed quantization do; `other` stores an unrelated matrix.
        drop: the GGUF name of a tensor to leave out.
    """
    import gguf
    import torch

    config = model.config
    writer = gguf.GGUFWriter(str(path), config.model_type)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, template, config.vocab_size)
    state = {name: value.float() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    if config.model_type == "llama":
        heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
        for name, value in state.items():
            if (n_heads := heads.get(".".join(name.split(".")[-2:]))) is not None:
                halves = value.reshape(n_heads, 2, value.shape[0] // n_heads // 2, value.shape[1])
                state[name] = halves.swapaxes(1, 2).reshape(value.shape)
    tensors = {_gguf_name(name): value for name, value in state.items()}
    embedding = tensors["token_embd.weight"]
    if output == "near":
        tensors["output.weight"] = embedding
        tensors["token_embd.weight"] = embedding + 0.01 * embedding.std() * torch.randn_like(embedding)
    elif output == "other":
        tensors["output.weight"] = torch.randn_like(embedding)
    for name, value in tensors.items():
        if name != drop:
            writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, template: str | None, n_vocab: int) -> None:
    import json

    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXT, vocab_size=n_vocab - len(SPECIAL), show_progress=False)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens += [f"<unused{i}>" for i in range(n_vocab - len(SPECIAL) - len(tokens))]
    normal, control = 1, 3  # GGUF's token types
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *SPECIAL])
    writer.add_token_types([normal] * len(tokens) + [control] * len(SPECIAL))
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_eos_token_id(n_vocab - 1)
    writer.add_bos_token_id(n_vocab - 3)
    writer.add_pad_token_id(n_vocab - 3)
    if template is not None:
        writer.add_chat_template(template)


def _gguf_name(name: str) -> str:
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in plain:
        return plain[name]
    _, _, layer, rest = name.split(".", 3)
    for ours, theirs in (
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ):
        rest = rest.replace(ours, theirs)
    return f"blk.{layer}.{rest}"
