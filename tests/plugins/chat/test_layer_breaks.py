"""Training stands still between two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_text import save_tiny_llama

from smallai_chat.layer_breaks import breaks_between_layers
from smallai_chat.training import lora_config


def lora_model(folder: Path) -> Any:
    """Returns a tiny Llama with LoRA layers, in training."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(save_tiny_llama(folder)), dtype=torch.float32)
    return get_peft_model(base, lora_config()).train()


def step(model: Any) -> Any:
    import torch

    ids = torch.tensor([[5, 6, 7, 8]])
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach()


def test_a_break_before_every_layer_forward_and_backward(tmp_path: Path) -> None:
    import torch

    model = lora_model(tmp_path)
    taken: list[int] = []
    plain = step(model)
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    with breaks_between_layers(model, lambda: taken.append(1)):
        torch.testing.assert_close(step(model), plain)
    assert len(taken) == 2 * model.config.num_hidden_layers
    again = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(again, gradients)
    step(model)
    assert len(taken) == 2 * model.config.num_hidden_layers, "the breaks end with the block"


@pytest.mark.parametrize("number", [0, 3])
def test_an_error_in_a_break_ends_the_step(tmp_path: Path, number: int) -> None:
    """The first break is in the forward pass; of two layers, the fourth is in the backward pass."""
    model = lora_model(tmp_path)
    taken: list[int] = []

    def stop() -> None:
        taken.append(1)
        if len(taken) > number:
            raise KeyboardInterrupt

    with breaks_between_layers(model, stop), pytest.raises(KeyboardInterrupt):
        step(model)
    assert len(taken) == number + 1
