"""Decoding that knows what was learned a moment ago: words that may be copied, answers that were wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from smallai_assistant.generation import Steering

# A wrong answer may be begun again, so far: its first words are most often those of the right one too.
_SHARED_TOKENS = 3


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
        self.free = frozenset(token for ids in self._copies for token in ids)

    def added(self, said: Sequence[int]) -> Mapping[int, float]:
        """What to add to the scores of which tokens, given what is said."""
        found = dict.fromkeys(self._next_to_copy(said), self._bias) if self._bias else {}
        for ids in self._avoided:
            n = len(said)
            if n >= min(_SHARED_TOKENS, len(ids) - 1) and list(said) == ids[:n]:
                if n < len(ids):
                    found[ids[n]] = float("-inf")
                else:  # the whole of it: at least it may not end here
                    found |= dict.fromkeys(self._end_ids, float("-inf"))
        return found

    def _next_to_copy(self, said: Sequence[int]) -> set[int]:
        """Tokens that go on with a text to copy, or begin one; none once one is there in full."""
        said = list(said)
        if any(said[i : i + len(ids)] == ids for ids in self._copies for i in range(len(said) - len(ids) + 1)):
            return set()
        going_on = set()
        for ids in self._copies:
            longest = min(len(ids) - 1, len(said))
            n = next((n for n in range(longest, 0, -1) if said[-n:] == ids[:n]), 0)
            if n:
                going_on.add(ids[n])
        return going_on or {ids[0] for ids in self._copies}
