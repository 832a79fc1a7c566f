"""Several rows of tokens as one tree, so that a network computes what they share once.

All rows of a batch begin with the same system prompt, and wordings of one question share more. In the tree a token is a
node below the token before it, and rows that begin alike share their first nodes. A node attends to its ancestors and
itself only, so every row gets the logits that it gets alone (tree attention, Miao et al. 2023, SpecInfer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Tree:
    """The tokens of several rows, each shared beginning once.

    Attributes:
        ids: of the tokens, int64, shape (n_nodes,).
        depths: the number of tokens before each node in its rows, int64, shape (n_nodes,).
        is_seen: whether the node of the row attends to the node of the column, bool, shape (n_nodes, n_nodes).
        paths: the nodes of each row, in order.
    """

    ids: torch.Tensor
    depths: torch.Tensor
    is_seen: torch.Tensor
    paths: tuple[tuple[int, ...], ...]

    @property
    def is_chain(self) -> bool:
        """Whether it holds a single row, so that plain causal attention is the same."""
        return len(self.ids) == max(map(len, self.paths))


def tree_of(rows: Sequence[Sequence[int]]) -> Tree:
    """Makes the tree of some rows of token ids, none of them empty."""
    nodes: dict[tuple[int, int], int] = {}  # parent and token -> node; the parent of a first token is -1
    parents: list[int] = []
    ids: list[int] = []
    paths = []
    for row in rows:
        node, path = -1, []
        for token in row:
            key = (node, token)
            if key not in nodes:
                nodes[key] = len(ids)
                parents.append(node)
                ids.append(token)
            node = nodes[key]
            path.append(node)
        paths.append(tuple(path))
    is_seen = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    depths = torch.zeros(len(ids), dtype=torch.int64)
    for node, parent in enumerate(parents):  # a parent comes before its children
        if parent >= 0:
            is_seen[node] = is_seen[parent]
            depths[node] = depths[parent] + 1
        is_seen[node, node] = True
    return Tree(torch.tensor(ids), depths, is_seen, tuple(paths))


def logits_at(model: Any, tree: Tree, nodes: torch.Tensor) -> torch.Tensor:
    """Runs a transformers model over a tree.

    Args:
        nodes: int64, shape (n,).

    Returns:
        What the model predicts after each of these nodes: float32, shape (n, n_vocabulary).
    """
    inputs: dict[str, Any] = {"input_ids": tree.ids[None].to(model.device)}
    if not tree.is_chain:
        # A mask to add to the attention scores, not one of truth values: every implementation of attention takes it.
        hidden = torch.finfo(model.dtype).min
        mask = torch.zeros(tree.is_seen.shape, dtype=model.dtype).masked_fill_(~tree.is_seen, hidden)
        inputs["attention_mask"] = mask[None, None].to(model.device)
        inputs["position_ids"] = tree.depths[None].to(model.device)
    logits = model(**inputs, use_cache=False, logits_to_keep=nodes.to(model.device)).logits
    return logits[0].float()


def can_share(model: Any) -> bool:
    """Whether a row in a tree of a transformers model gets the logits that it gets alone.

    Layers other than attention, such as a recurrence or a convolution over the tokens, ignore the mask: they would
    carry one row into the next. transformers marks most such networks, and those that it does not mark convolve.
    """
    return not getattr(model, "_is_stateful", False) and not any(
        isinstance(module, torch.nn.Conv1d) for module in model.modules()
    )
