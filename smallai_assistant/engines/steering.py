"""Steers decoding by fresh corrections: prefers the tokens of right texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smallai_assistant.engines.generation import Steering

# The share of the bias that is added to the end of the answer after a text was copied in full. Without it the model
# adds to numbers: "6300" instead of "63".
_END_BIAS = 0.8


class Steer:
    """The steering of one answer, in tokens.

    Args:
        encode: turns plain text into token ids, without control tokens.
        end_ids: the tokens that end an answer.
    """

    def __init__(
        self, steering: Steering, encode: Callable[[str], list[int]], end_ids: frozenset[int] = frozenset()
    ) -> None:
        self._bias = steering.bias
        # A word has another token after a space than at the beginning of the answer, so both forms are kept.
        spaced = [f" {text.strip()}" for text in steering.copy]
        self._copies = [ids for text in (*spaced, *map(str.strip, steering.copy)) if (ids := encode(text))]
        self._end_ids = end_ids

    def added(self, said: Sequence[int]) -> Mapping[int, float]:
        """The values to add to scores, by token.

        Args:
            said: the tokens of the answer so far.
        """
        return self._to_copy(list(said)) if self._bias and self._copies else {}

    def _to_copy(self, said: list[int]) -> dict[int, float]:
        """Prefers tokens that continue or begin a text to copy, and the end of the answer after a complete one."""
        if any(said[-len(ids) :] == ids for ids in self._copies):
            return dict.fromkeys(self._end_ids, _END_BIAS * self._bias)
        # A text was copied earlier in the answer: copying once is enough.
        if any(said[i : i + len(ids)] == ids for ids in self._copies for i in range(len(said) - len(ids) + 1)):
            return {}
        going_on = {ids[n] for ids in self._copies if (n := _n_begun(ids, said))}
        return dict.fromkeys(going_on or {ids[0] for ids in self._copies}, self._bias)


def _n_begun(ids: list[int], said: list[int]) -> int:
    """The length of the longest proper prefix of `ids` that `said` ends with."""
    return next((n for n in range(min(len(ids) - 1, len(said)), 0, -1) if said[-n:] == ids[:n]), 0)
