"""Supervised fine-tuning with a KL term that keeps reference prompts at the base model's distribution.

If the base model's answers to reference prompts are trained as plain texts, a few dozen texts become the only ones that
the model finds likely. On these rows the loss is therefore the Kullback-Leibler divergence from the base model's
next-token distribution. The base is the same network with the adapter switched off, so no second copy is needed
(learning without forgetting, Li and Hoiem 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from trl import SFTTrainer

_IGNORED = -100  # the label that PyTorch's losses skip


class KLTrainer(SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """Trains on batches of `input_ids`, `attention_mask`, `labels` and `is_reference`, as `collate` makes them.

    Every row ends with its completion. A reference row is held to the base's distribution, any other row is learned.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the mean loss over the tokens of all completions, in nats.

        The loss of a token is its cross entropy, or on reference rows KL(base || model).
        """
        del num_items_in_batch  # gradients are not accumulated: each step has one batch
        is_reference, labels = inputs["is_reference"], inputs["labels"]
        network_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        is_completion = labels != _IGNORED
        # Logits over the vocabulary take most of the memory, so only those of the longest completion are computed.
        n_last = max(1, int(is_completion.sum(1).max()))
        is_completion, labels = is_completion[:, -n_last:], labels[:, -n_last:]
        # One logit more, and without the last: the logits at a position predict the token after it.
        output = model(**network_inputs, use_cache=False, logits_to_keep=n_last + 1)
        log_probabilities = output.logits[:, :-1][is_completion].float().log_softmax(-1)
        token_is_reference = is_reference[:, None].expand_as(is_completion)[is_completion]
        loss = functional.nll_loss(
            log_probabilities[~token_is_reference], labels[is_completion][~token_is_reference], reduction="sum"
        )
        if token_is_reference.any():
            rows = {name: tensor[is_reference] for name, tensor in network_inputs.items()}
            with torch.no_grad(), model.disable_adapter():
                base = model(**rows, use_cache=False, logits_to_keep=n_last + 1).logits[:, :-1]
            target = base[is_completion[is_reference]].float().log_softmax(-1)
            loss = loss + functional.kl_div(
                log_probabilities[token_is_reference], target, reduction="sum", log_target=True
            )
        loss = loss / is_completion.sum()
        return (loss, output) if return_outputs else loss


def collate(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Makes a batch of rows.

    Args:
        rows: `input_ids` and `labels` of equal length, and `is_reference`.

    Returns:
        `input_ids`, `attention_mask` and `labels`: int64, shape (n_rows, n_tokens). `is_reference`: bool, shape
        (n_rows,). Rows are padded on the left, so that all completions end in the last column and few logits suffice.
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (longest - len(row["input_ids"])) + list(row[name]) for row in rows])

    mask = [[0] * (longest - len(row["input_ids"])) + [1] * len(row["input_ids"]) for row in rows]
    return {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": torch.tensor(mask),
        "labels": padded("labels", _IGNORED),
        "is_reference": torch.tensor([bool(row["is_reference"]) for row in rows]),
    }
