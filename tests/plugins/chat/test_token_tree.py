"""Rows that begin alike are computed as one tree, with the result that each row has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.tiny_text import save_tiny_llama

ROWS = [[5, 6, 7, 8, 9], [5, 6, 7], [5, 6, 9, 9], [4, 6, 7]]


def test_a_shared_beginning_is_there_once() -> None:
    from smallai_chat.token_tree import tree_of

    tree = tree_of(ROWS)
    assert len(tree.ids) == 5 + 0 + 2 + 3
    assert [[int(tree.ids[node]) for node in path] for path in tree.paths] == ROWS
    assert [int(tree.depths[node]) for node in tree.paths[2]] == [0, 1, 2, 3]
    assert not tree.is_chain
    assert tree_of(ROWS[:2]).is_chain


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6))
def test_a_token_sees_its_own_row_up_to_itself(rows: list[list[int]]) -> None:
    from smallai_chat.token_tree import tree_of

    tree = tree_of(rows)
    for row, path in zip(rows, tree.paths, strict=True):
        for number, node in enumerate(path):
            assert set(tree.is_seen[node].nonzero().flatten().tolist()) == set(path[: number + 1])
        assert [int(tree.ids[node]) for node in path] == row


def test_logits_are_those_of_each_row_alone(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from smallai_chat.token_tree import logits_at, tree_of

    model = AutoModelForCausalLM.from_pretrained(str(save_tiny_llama(tmp_path)), dtype=torch.float32)
    tree = tree_of(ROWS)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        for row, path in zip(ROWS, tree.paths, strict=True):
            with torch.no_grad():
                alone = model(input_ids=torch.tensor([row])).logits[0]
                torch.testing.assert_close(logits_at(model, tree, torch.tensor(path)), alone, atol=1e-5, rtol=1e-4)


def test_only_networks_of_attention_share() -> None:
    import torch
    from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig, Qwen3NextConfig

    from smallai_chat.token_tree import can_share

    def tiny(config_type: Any, **options: Any) -> Any:
        sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config_type(**sizes, num_attention_heads=4, num_key_value_heads=2, **options)
            )

    assert can_share(tiny(LlamaConfig))
    assert not can_share(tiny(Lfm2Config, layer_types=["conv", "full_attention"]))
    assert not can_share(tiny(Qwen3NextConfig, head_dim=8, layer_types=["linear_attention", "full_attention"]))
