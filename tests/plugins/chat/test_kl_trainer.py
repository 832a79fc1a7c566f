"""The loss of corrections and of reference rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_text import save_tiny_llama

ROWS = (
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, -100, 8, 9]},
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
)


def tiny_base(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(save_tiny_llama(folder)), dtype=torch.float32)


def with_lora(base: Any, *, std: float = 0.0) -> Any:
    """Returns the model with LoRA layers. With `std` 0 they change nothing."""
    import torch
    from peft import get_peft_model

    from smallai_chat.training import lora_config

    model = get_peft_model(base, lora_config())
    for name, parameter in model.named_parameters():
        if "lora_B" in name and std:
            torch.nn.init.normal_(parameter, std=std)
    return model


def marked(*is_reference: bool) -> list[dict[str, Any]]:
    return [{**row, "is_reference": flag} for row, flag in zip(ROWS, is_reference, strict=True)]


def test_loss_is_cross_entropy_or_kl(tmp_path: Path) -> None:
    import torch

    from smallai_chat.kl_trainer import TreeLoss

    base = tiny_base(tmp_path)
    with torch.no_grad():
        logs = [base(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1) for row in ROWS]
    expected = -(logs[0][2, 8] + logs[0][3, 9] + logs[1][0, 6] + logs[1][1, 7]) / 4
    model = with_lora(base)
    assert TreeLoss()(model, marked(False, False)).item() == pytest.approx(float(expected), abs=1e-4)
    # New LoRA layers change nothing, so the divergence from the base is zero.
    assert TreeLoss()(model, marked(True, True)).item() == pytest.approx(0.0, abs=1e-5)
    of_second = float(-(logs[1][0, 6] + logs[1][1, 7]) / 4)
    assert TreeLoss()(model, marked(True, False)).item() == pytest.approx(of_second, abs=1e-4)
    assert TreeLoss()(with_lora(tiny_base(tmp_path / "again"), std=0.1), marked(True, True)).item() > 1e-3


def test_base_is_asked_once(tmp_path: Path) -> None:
    """A reference row's distribution is kept, also if the row comes beside other rows next time."""
    from smallai_chat.kl_trainer import TreeLoss

    model = with_lora(tiny_base(tmp_path), std=0.1)
    passes: list[int] = []
    model.get_base_model().register_forward_pre_hook(
        lambda _module, _args, options: passes.append(options["input_ids"].shape[-1]), with_kwargs=True
    )
    loss = TreeLoss()
    first = loss(model, marked(True, True)).item()
    assert len(passes) == 2  # the base's, and that of the adapter
    assert loss(model, marked(True, True)).item() == pytest.approx(first)
    loss(model, marked(True, False))
    assert len(passes) == 4


def test_gradients_are_those_of_the_rows_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from smallai_chat import kl_trainer

    model = with_lora(tiny_base(tmp_path), std=0.1)

    def gradients() -> list[Any]:
        model.zero_grad()
        kl_trainer.TreeLoss()(model, marked(True, False)).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    together = gradients()
    monkeypatch.setattr(kl_trainer, "can_share", lambda _: False)
    torch.testing.assert_close(together, gradients(), atol=1e-6, rtol=1e-3)
    assert any(gradient.abs().max() > 0 for gradient in together)


def test_share_of_rows_that_are_still_wrong(tmp_path: Path) -> None:
    import torch

    from smallai_chat.kl_trainer import TreeLoss

    model, loss = with_lora(tiny_base(tmp_path)), TreeLoss()
    assert loss.share_wrong() == 0.0
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmax())
    other = (best + 1) % model.config.vocab_size
    rows = [
        {"input_ids": [5, 6, token], "labels": [-100, -100, token], "is_reference": False} for token in (best, other)
    ]
    loss(model, rows)
    assert loss.share_wrong() == 0.5
    loss(model, rows[:1])
    assert loss.share_wrong() == 0.0
