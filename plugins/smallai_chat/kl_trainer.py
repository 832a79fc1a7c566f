"""Supervised fine-tuning that keeps what is to stay: there the loss is the distance from the base, not from one text.

Learned as texts, a few dozen of the base's own answers become the only ones the model finds likely. What is kept is the
whole distribution of the next token: the Kullback-Leibler divergence from the base, which is the same network without
its adapter (learning without forgetting, Li and Hoiem 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from trl import SFTTrainer

_IGNORED = -100


class KeepingTrainer(SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """Trains on rows of `input_ids`, `labels` and `is_kept`, whose completion ends the row."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the completions' tokens: cross entropy, or the divergence from the base where it is kept."""
        del num_items_in_batch  # one batch a step
        is_kept, labels = inputs["is_kept"], inputs["labels"]
        network_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        counted = labels != _IGNORED
        n_last = max(1, int(counted.sum(1).max()))
        counted, labels = counted[:, -n_last:], labels[:, -n_last:]
        output = model(**network_inputs, use_cache=False, logits_to_keep=n_last + 1)
        found = output.logits[:, :-1][counted].float().log_softmax(-1)
        kept = is_kept[:, None].expand_as(counted)[counted]
        loss = functional.nll_loss(found[~kept], labels[counted][~kept], reduction="sum")
        if kept.any():
            rows = {name: each[is_kept] for name, each in network_inputs.items()}
            with torch.no_grad(), model.disable_adapter():
                base = model(**rows, use_cache=False, logits_to_keep=n_last + 1).logits[:, :-1]
            wanted = base[counted[is_kept]].float().log_softmax(-1)
            loss = loss + functional.kl_div(found[kept], wanted, reduction="sum", log_target=True)
        loss = loss / counted.sum()
        return (loss, output) if return_outputs else loss


def collated(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch, int64 and bool, padded on the left: completions end together, and few logits are needed."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (longest - len(row["input_ids"])) + list(row[name]) for row in rows])

    mask = [[0] * (longest - len(row["input_ids"])) + [1] * len(row["input_ids"]) for row in rows]
    return {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": torch.tensor(mask),
        "labels": padded("labels", _IGNORED),
        "is_kept": torch.tensor([bool(row["is_kept"]) for row in rows]),
    }
