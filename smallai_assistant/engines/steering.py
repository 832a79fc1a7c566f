"""Decoding that knows what was learned a moment ago: words that may be copied, answers that were wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smallai_assistant.engines.generation import Steering

# A wrong answer may be begun again, so far: its first words are most often those of the right one too.
_SHARED_TOKENS = 3
_END_BIAS = 0.8  # of the bias, for ending once a text is copied in full: 63 and not 6300


class Steer:
    """The steering of one answer, in tokens.

    Args:
        encode: plain text to token ids, without control tokens.
        end_ids: tokens that end an answer.
    """

    def __init__(
        self, steering: Steering, encode: Callable[[str], list[int]], end_ids: frozenset[int] = frozenset()
    ) -> None:
        self._bias = steering.bias
        # A word has another token after a space than at the beginning.
        spaced = [f" {text.strip()}" for text in steering.copy]
        self._copies = [ids for text in (*spaced, *map(str.strip, steering.copy)) if (ids := encode(text))]
        self._avoided = [ids for text in steering.avoid if (ids := encode(text.strip()))]
        self._end_ids = end_ids

    def added(self, said: Sequence[int]) -> Mapping[int, float]:
        """What to add to the scores of which tokens, given what is said."""
        found = self._to_copy(list(said)) if self._bias and self._copies else {}
        for ids in self._avoided:
            n = len(said)
            if n >= min(_SHARED_TOKENS, len(ids) - 1) and list(said) == ids[:n]:
                if n < len(ids):
                    found[ids[n]] = float("-inf")
                else:  # the whole of it: at least it may not end here
                    found |= dict.fromkeys(self._end_ids, float("-inf"))
        return found

    def _to_copy(self, said: list[int]) -> dict[int, float]:
        """Prefers the tokens that go on with a text to copy, or begin one; the end, right after one is complete."""
        if any(said[-len(ids) :] == ids for ids in self._copies):
            return dict.fromkeys(self._end_ids, _END_BIAS * self._bias)
        if any(said[i : i + len(ids)] == ids for ids in self._copies for i in range(len(said) - len(ids) + 1)):
            return {}
        going_on = {ids[n] for ids in self._copies if (n := _n_begun(ids, said))}
        return dict.fromkeys(going_on or {ids[0] for ids in self._copies}, self._bias)


def _n_begun(ids: list[int], said: list[int]) -> int:
    """How many tokens of the beginning of `ids` end `said`, not all of them."""
    return next((n for n in range(min(len(ids) - 1, len(said)), 0, -1) if said[-n:] == ids[:n]), 0)
