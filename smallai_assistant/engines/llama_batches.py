"""Joint passes of llama.cpp: the tokens of all streams that wait are computed together.

A stream hands in the tokens that it needs (`submit`), yields to the others, and then asks for its scores (`scores`).
The first one that asks computes the work of all that have handed in theirs and use the same adapter. So streams that
take turns step by step on the model's thread share one pass for a token each, and nobody waits for a batch to fill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from smallai_assistant.engines.llama_library import LlamaContext
from smallai_assistant.errors import OutOfMemory
from smallai_assistant.feedback import AdapterPart

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# Tokens of one step of a prompt. A pass cannot be stopped, so it must be short, and more are not faster per token: 39,
# 40 and 40 a second at 64, 128 and 512, one thread, 0.5B.
PROMPT_TOKENS = 128
MAX_PASS_LOGITS = 32  # each takes n_words x 4 bytes of memory: 20 MB in all for a vocabulary of 150,000
_WAIT_S = 0.001  # of a stream that waits for others, far below the time of a pass
# A step of a prompt, and a token each of other streams.
MAX_PASS_TOKENS = PROMPT_TOKENS + MAX_PASS_LOGITS


@dataclass(slots=True, eq=False)
class CacheSequence:
    """A place in the cache.

    Attributes:
        ids: the tokens that it holds.
        n_prompt: how many of them were the prompt of the last answer.
        part: the weights that computed them; keys and values depend on the weights.
        is_stuck: whether its answer waits for room in the cache.
    """

    index: int
    ids: list[int] = field(default_factory=list)
    n_prompt: int = 0
    part: AdapterPart | None = None
    is_stuck: bool = False


@dataclass(slots=True, eq=False)
class Work:
    """Tokens that a stream wants to have computed.

    Attributes:
        n_scores: of how many of the last tokens the scores are wanted.
        cancel: set it, and nobody wants them any more.
        scores: of these, float32, each of shape (n_words,); None until they are computed.
    """

    sequence: CacheSequence
    tokens: Sequence[int]
    n_scores: int
    cancel: Event
    scores: list[FloatArray] | None = None


class JointPasses:
    """The sequences of one context, and the passes over them. Everything runs on the model's thread.

    Args:
        activate: makes the next pass use these weights; None is the bare base.
    """

    def __init__(self, context: LlamaContext, n_sequences: int, activate: Callable[[AdapterPart | None], None]) -> None:
        self._context = context
        self._activate = activate
        self._idle = [CacheSequence(index) for index in range(n_sequences)]  # the least recently used first
        self._used: list[CacheSequence] = []
        self._waiting: list[Work] = []

    def wait_for_sequence(self, cancel: Event) -> Iterator[str]:
        """Yields until a sequence is free: the answers of other streams end meanwhile."""
        while not self._idle and not cancel.is_set():
            time.sleep(_WAIT_S)
            yield ""

    def begin(self, prompt: Sequence[int], part: AdapterPart | None) -> CacheSequence:
        """Takes a sequence that holds as much of the beginning of the prompt as any holds.

        A conversation that goes on keeps its own. Any other prompt shares whole steps only with the sequence that holds
        them: keys and values depend slightly on how many tokens were computed together, and so the same question in a
        new conversation gets the same answer while no other stream runs.
        """
        known = [sequence for sequence in (*self._idle, *self._used) if sequence.part == part]
        best = max(known, key=lambda sequence: _n_common(sequence.ids, prompt), default=None)
        n_common = _n_common(best.ids, prompt) if best is not None else 0
        if best is not None and best in self._idle and n_common > best.n_prompt:
            taken = best
        else:
            taken = next((sequence for sequence in self._idle if not sequence.ids), self._idle[0])
        self._idle.remove(taken)
        if taken is best:
            self.cut(taken, n_common)
        else:
            self.cut(taken, 0)
            n_common -= n_common % PROMPT_TOKENS
            if best is not None and n_common and self._context.can_share:
                self._context.share(best.index, taken.index, n_common)
                taken.ids = list(prompt[:n_common])
        taken.part, taken.n_prompt = part, len(prompt)
        self._used.append(taken)
        return taken

    def end(self, sequence: CacheSequence) -> None:
        """Gives a sequence back. What it holds stays for the next prompt, until the room is needed."""
        self._waiting = [work for work in self._waiting if work.sequence is not sequence]
        sequence.is_stuck = False
        self._used.remove(sequence)
        self._idle.append(sequence)

    def forget(self, is_gone: Callable[[AdapterPart | None], bool]) -> None:
        """Empties idle sequences that weights computed which are no longer there."""
        for sequence in self._idle:
            if is_gone(sequence.part):
                self.cut(sequence, 0)
                sequence.part = None

    def submit(self, sequence: CacheSequence, tokens: Sequence[int], *, n_scores: int, cancel: Event) -> Work:
        """Hands in tokens that follow those of a sequence, at most `MAX_PASS_TOKENS`."""
        work = Work(sequence, tokens, n_scores, cancel)
        self._waiting.append(work)
        return work

    def scores(self, work: Work) -> Generator[str, None, list[FloatArray]]:
        """The scores of a work. Computes it, with others that wait, unless another stream has done so.

        Yields while the cache has no room for it: other answers end meanwhile. If it is cancelled then, there are none.

        Raises:
            AdapterMismatch: the adapter's weights do not fit the model.
            OutOfMemory: the cache has no room for this answer alone.
        """
        while work.scores is None:
            together = self._chosen(work)
            try:
                self._activate(work.sequence.part)
            except BaseException:
                self._waiting.remove(work)
                raise
            if not self._computed(together) and not self._fitted(work):
                yield from self._wait_for_room(work)
                if work.cancel.is_set():
                    return []
        work.sequence.is_stuck = False
        return work.scores

    def _chosen(self, work: Work) -> list[Work]:
        """The work, and what else fits into the same pass."""
        chosen, n_tokens, n_scores = [work], len(work.tokens), work.n_scores
        for other in self._waiting:
            if other is work or other.sequence.part != work.sequence.part:
                continue
            if n_tokens + len(other.tokens) <= MAX_PASS_TOKENS and n_scores + other.n_scores <= MAX_PASS_LOGITS:
                chosen.append(other)
                n_tokens, n_scores = n_tokens + len(other.tokens), n_scores + other.n_scores
        return chosen

    def _computed(self, works: Sequence[Work]) -> bool:
        """Runs a pass. Returns False if the cache has no room for it; then nothing has changed."""
        rows: list[tuple[int, int, int, bool]] = []
        places: list[range] = []
        for work in works:
            start, n = len(work.sequence.ids), len(work.tokens)
            rows += [
                (token, start + i, work.sequence.index, i >= n - work.n_scores) for i, token in enumerate(work.tokens)
            ]
            places.append(range(len(rows) - work.n_scores, len(rows)))
        if not self._context.decode(rows):
            return False
        for work, of_work in zip(works, places, strict=True):
            work.scores = [self._context.logits(place) for place in of_work]
            work.sequence.ids.extend(work.tokens)
            self._waiting.remove(work)
        return True

    def _fitted(self, work: Work) -> bool:
        """Computes a work alone, and empties idle sequences, the least recently used first, until it fits.

        Returns False if it does not fit beside the answers that are being made.
        """
        while not self._computed([work]):
            full = next((sequence for sequence in self._idle if sequence.ids), None)
            if full is None:
                return False
            self.cut(full, 0)
        return True

    def _wait_for_room(self, work: Work) -> Iterator[str]:
        """Lets other answers go on. Of answers that all wait for each other, the youngest starts over later."""
        sequence = work.sequence
        sequence.is_stuck = True
        if len(self._used) == 1:
            raise OutOfMemory(
                f"the cache of the model has no room for {len(sequence.ids) + len(work.tokens):,} tokens",
                hint="send less, or start a new session",
            )
        youngest = next((used for used in reversed(self._used[1:]) if used.ids), None)
        if sequence is not youngest or not all(used.is_stuck for used in self._used):
            time.sleep(_WAIT_S)
            yield ""
            return
        lost = list(sequence.ids)
        self.cut(sequence, 0)
        self._waiting.remove(work)  # until the tokens before it are there again
        yield ""
        while (start := len(sequence.ids)) < len(lost) and not work.cancel.is_set():
            again = self.submit(sequence, lost[start : start + PROMPT_TOKENS], n_scores=0, cancel=work.cancel)
            yield from self.scores(again)
        self._waiting.append(work)

    def cut(self, sequence: CacheSequence, n_kept: int) -> None:
        """Drops the tokens of a sequence after the first `n_kept`, or all if the model cannot do that."""
        if len(sequence.ids) > n_kept:
            kept = n_kept if self._context.cut(sequence.index, n_kept) else 0
            del sequence.ids[kept:]


def _n_common(ids: Sequence[int], prompt: Sequence[int]) -> int:
    limit = min(len(ids), len(prompt) - 1)  # the last token is always computed, because its scores are needed
    return next((i for i in range(limit) if ids[i] != prompt[i]), limit)
