"""Lets the decoder know words: a bonus on their tokens in the search, and what a text is worth to the model.

Both work on the encoder's output of one window, on the model's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_FIRST_BONUS, _NEXT_BONUS = 2.0, 5.0  # nats on a word's first token and on those that go on with it
_Node = dict[int, Any]


class WordBias:
    """A logit filter of whisper's: tokens that begin or go on with a wanted word gain.

    The scores stay a distribution at every step, so a bonus that leads nowhere is not carried along: there is nothing
    to take back where a word breaks off, as shallow fusion with an unnormalized list would have to.

    Args:
        words: token sequences, each of a word with the space before it.
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self._root: _Node = {}
        for word in words:
            node = self._root
            for token in word:
                node = node.setdefault(token, {})
        self._longest = max(map(len, words), default=0)

    def apply(self, logits: Any, tokens: Any) -> None:
        """Adds the bonuses in place; `logits` of shape (n_beams, n_vocab), `tokens` of shape (n_beams, n_so_far)."""
        first = list(self._root)
        logits[:, first] += _FIRST_BONUS
        for row, so_far in enumerate(tokens[:, -self._longest :].tolist()):
            following = {token for start in range(len(so_far)) for token in self._after(so_far[start:])}
            if following:
                logits[row, list(following)] += _NEXT_BONUS

    def _after(self, path: Sequence[int]) -> _Node:
        node = self._root
        for token in path:
            if token not in node:
                return {}
            node = node[token]
        return node


def score_texts(network: Any, features: Any, prefix: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """The natural logarithm of the probability of each token sequence, given the sound and what precedes it.

    Args:
        features: the encoder's output, shape (1, n_audio_ctx, n_audio_state).
        prefix: the prompt's tokens, where there is one, and the start sequence.
        texts: what follows, the end token included; all are decoded as one batch.
    """
    import torch

    longest = max(map(len, texts))
    rows = [[*prefix, *text, *[text[-1]] * (longest - len(text))] for text in texts]
    tokens = torch.tensor(rows, device=features.device)
    logits = network.decoder(tokens[:, :-1], features.expand(len(rows), -1, -1)).float()
    logprobs = torch.log_softmax(logits[:, len(prefix) - 1 :], dim=-1)
    picked = logprobs.gather(2, tokens[:, len(prefix) :, None])[:, :, 0]
    return [float(picked[i, : len(text)].sum()) for i, text in enumerate(texts)]
