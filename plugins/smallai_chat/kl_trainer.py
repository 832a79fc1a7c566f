"""Supervised fine-tuning with a KL term that keeps reference prompts at the base model's distribution.

If the base model's answers to reference prompts are trained as plain texts, a few dozen texts become the only ones that
the model finds likely. On these rows the loss is therefore the Kullback-Leibler divergence from the base model's
next-token distribution. The base is the same network with the adapter switched off, so no second copy is needed
(learning without forgetting, Li and Hoiem 2017).

Nothing is computed twice: a batch is a tree of tokens, and the base's distributions are kept from the first epoch on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from trl import SFTTrainer

from smallai_chat.token_tree import can_share, logits_at, tree_of

_IGNORED = -100  # the label that PyTorch's losses skip


class KLTrainer(SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """Trains on batches of rows as `collate` makes them.

    A reference row is held to the base's distribution, any other row is learned.
    """

    def __init__(self, *args: Any, loss: TreeLoss, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loss = loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the mean loss over the tokens of all completions, in nats; see `TreeLoss`."""
        del num_items_in_batch  # gradients are not accumulated: each step has one batch
        loss = self._loss(model, inputs["rows"])
        return (loss, None) if return_outputs else loss


class TreeLoss:
    """The mean loss of a batch of rows over the tokens of their completions, in nats.

    The loss of a token is its cross entropy, or on reference rows KL(base || model).
    """

    def __init__(self) -> None:
        self._shares: bool | None = None
        self._base: dict[tuple[int, ...], torch.Tensor] = {}  # row -> the base's log probabilities at its completion
        self._n_learned = self._n_wrong = 0

    def __call__(self, model: Any, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Returns the loss.

        Args:
            rows: `input_ids` and `labels` of equal length, and `is_reference`.
        """
        if self._shares is None:
            self._shares = can_share(model)
        self._remember_base(model, [row for row in rows if row["is_reference"]])
        loss, n_tokens = torch.zeros((), device=model.device), 0
        for group in self._groups(rows):
            for row, found in zip(group, _log_probabilities(model, group), strict=True):
                n_tokens += len(found)
                if row["is_reference"]:
                    target = self._base[tuple(row["input_ids"])].to(found.device).float()
                    loss = loss + functional.kl_div(found, target, reduction="sum", log_target=True)
                else:
                    labels = torch.tensor([label for label in row["labels"] if label != _IGNORED], device=found.device)
                    self._n_learned += 1
                    self._n_wrong += int((found.argmax(-1) != labels).any())
                    loss = loss + functional.nll_loss(found, labels, reduction="sum")
        return loss / n_tokens

    def share_wrong(self) -> float:
        """Returns the share of the learned rows, since the last call, in which a token was not the most likely one.

        A row is judged before the step that it takes part in.
        """
        share = self._n_wrong / max(1, self._n_learned)
        self._n_learned = self._n_wrong = 0
        return share

    def _groups(self, rows: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
        return [rows] if self._shares else [[row] for row in rows]

    def _remember_base(self, model: Any, rows: Sequence[dict[str, Any]]) -> None:
        missing = [row for row in rows if tuple(row["input_ids"]) not in self._base]
        if not missing:
            return
        with torch.no_grad(), model.disable_adapter():
            for group in self._groups(missing):
                for row, found in zip(group, _log_probabilities(model, group), strict=True):
                    # In the precision of the model: the logits had no more.
                    self._base[tuple(row["input_ids"])] = found.to(model.dtype)


def _log_probabilities(model: Any, rows: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """Returns, for each row, the predictions of its completion's tokens: float32, shape (n_tokens, n_vocabulary)."""
    tree = tree_of([row["input_ids"] for row in rows])
    # What is predicted for a token stands at the token before it.
    before = [
        [node for node, label in zip(path[:-1], row["labels"][1:], strict=True) if label != _IGNORED]
        for path, row in zip(tree.paths, rows, strict=True)
    ]
    nodes = sorted({node for path in before for node in path})
    place = {node: number for number, node in enumerate(nodes)}
    found = logits_at(model, tree, torch.tensor(nodes)).log_softmax(-1)
    return [found[[place[node] for node in path]] for path in before]


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Makes a batch of rows with `input_ids`, `labels` and `is_reference`; `KLTrainer` makes the tensors."""
    return {"rows": list(rows)}
