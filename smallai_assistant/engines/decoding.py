"""From prompt tokens to text: prefill in chunks, then one token per step, as text without half characters.

This loop replaces `model.generate` because a generator can be advanced step by step: streams on one model take turns,
a cancel takes effect at the next step, and the cache of an answer is reused by the next turn of the conversation.
`bench/decode.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from smallai_assistant.engines.base import GenerationFacts
from smallai_assistant.engines.device import give_back_memory
from smallai_assistant.engines.generation import GenerationOptions
from smallai_assistant.engines.steering import Steer
from smallai_assistant.errors import ModelInvalid, OutOfMemory
from smallai_assistant.models.boundary import is_out_of_memory
from smallai_assistant.types import Notice

# Tokens of one prefill step: few enough that other streams get their turn and a cancel takes effect soon, and enough
# that the matrix products are efficient.
_PREFILL_TOKENS = {"cpu": 128, "cuda": 1024}
_RETRY_TOKENS = 32  # after memory ran out
_REUSE_TOKENS = 16  # a shorter common prefix is not worth a copy
_KEPT_CACHES = 4  # conversations that take turns on one model
_KEPT_BYTES = 128 * 2**20  # they do not count against the runtime's budget, so they stay small
_CHARACTER_TOKENS = 4  # a character has at most four bytes in UTF-8, and a byte at most one token of its own


@dataclass(slots=True)
class Network:
    """What decoding needs to know of a model, for one stream.

    Attributes:
        module: a causal language model of transformers.
        detokenize: turns token ids into text, without control tokens.
        end_ids: the tokens that end an answer.
        prefixes: the caches of earlier answers with the same adapter.
        activate: makes the next forward pass use the stream's adapter. Call it before every pass, because the streams
            between two steps may use other adapters.
        steer: what the answer should contain and avoid.
    """

    module: Any
    detokenize: Callable[[Sequence[int]], str]
    device: str
    context_tokens: int
    end_ids: frozenset[int]
    prefixes: PrefixCaches
    activate: Callable[[], None] = lambda: None
    steer: Steer | None = None


@dataclass(slots=True)
class _Kept:
    """The cache of one answer, and the tokens of prompt and answer that it holds."""

    ids: list[int]
    n_prompt: int
    cache: Any
    n_bytes: int


@dataclass(slots=True)
class PrefixCaches:
    """Keys and values of recent answers, so that a prompt with the same beginning is not computed again.

    At 16 bits, keys and values depend slightly on how many tokens were computed together. A prompt that continues a
    conversation reuses everything that is kept of it. Any other prompt reuses whole prefill chunks only: they are bit
    for bit what it would have computed itself, so the same question in a new conversation gets the same answer.

    All methods run on the model's thread.
    """

    _kept: list[_Kept] = field(default_factory=list)  # the most recent last

    @property
    def n_bytes(self) -> int:
        """The bytes of all kept caches."""
        return sum(kept.n_bytes for kept in self._kept)

    def take(self, prompt: Sequence[int], chunk: int, new_cache: Callable[[], Any]) -> tuple[int, Any]:
        """Finds the longest prefix of `prompt` that is already computed.

        Args:
            chunk: tokens of one prefill step.
            new_cache: makes an empty cache.

        Returns:
            The number of tokens of the prefix, and a cache that holds exactly these.
        """
        best, n_common = None, 0
        for kept in self._kept:
            n = _n_common(kept.ids, prompt)
            if n >= max(n_common, _REUSE_TOKENS):
                best, n_common = kept, n
        if best is None:
            return 0, new_cache()
        if n_common > best.n_prompt:
            # The prompt repeats the kept prompt and some of its answer: the same conversation. It may take the cache
            # itself, because nobody else continues it.
            self._kept.remove(best)
            if len(best.ids) > n_common:
                best.cache.crop(n_common - len(best.ids))
            return n_common, best.cache
        n_common -= n_common % chunk
        cache = new_cache()
        if n_common:
            for index, layer in enumerate(best.cache.layers):
                cache.update(layer.keys[..., :n_common, :], layer.values[..., :n_common, :], index)
        return n_common, cache

    def keep(self, ids: list[int], n_prompt: int, cache: Any) -> None:
        """Keeps the cache of a stream that has ended, and drops the oldest ones beyond the limits."""
        from transformers.cache_utils import DynamicLayer

        # The exact type, because a subclass for sliding windows has dropped keys that a crop would need.
        if not ids or any(type(layer) is not DynamicLayer or layer.keys is None for layer in cache.layers):
            return
        n_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        self._kept.append(_Kept(ids, n_prompt, cache, n_bytes))
        while len(self._kept) > _KEPT_CACHES or self.n_bytes > _KEPT_BYTES:
            del self._kept[0]

    def clear(self) -> None:
        """Drops all caches."""
        self._kept.clear()


def _n_common(ids: Sequence[int], prompt: Sequence[int]) -> int:
    limit = min(len(ids), len(prompt) - 1)  # the last token is always computed, because its logits are needed
    return next((i for i in range(limit) if ids[i] != prompt[i]), limit)


class TextDecoder:
    """Turns the tokens of an answer into text while it grows.

    It decodes a short window instead of the whole answer, so a step costs the same at any length. It holds back text
    that may be part of a character or the beginning of a stop text.
    """

    def __init__(self, detokenize: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._detokenize = detokenize
        self._stop = [text for text in stop if text]
        self._ids: list[int] = []
        self._start = 0  # where the window begins in `_ids`
        self._done = 0  # the number of ids whose text was returned
        self._before = ""  # the text of the window up to `_done`
        self._held = ""  # the end of the text, if a stop text may begin there
        self.stop_text = ""  # the one that was found

    @property
    def is_stopped(self) -> bool:
        """Whether a stop text was found."""
        return bool(self.stop_text)

    def push(self, token: int) -> str:
        """Adds a token and returns the text that it completes."""
        self._ids.append(token)
        text = self._detokenize(self._ids[self._start :])
        # U+FFFD at the end is a character whose other bytes follow. After four tokens it is a real U+FFFD.
        if text.endswith("\ufffd") and len(self._ids) - self._done < _CHARACTER_TOKENS:
            return ""
        new = text[len(self._before) :]
        # The window keeps the ids of the last step, because some tokenizers write a token differently at the beginning
        # of a text, for example without its space.
        self._start, self._done = self._done, len(self._ids)
        self._before = self._detokenize(self._ids[self._start :])
        return self._release(new)

    def finish(self) -> str:
        """Returns the text that was held back, without an incomplete last character."""
        if self.is_stopped:
            return ""
        text = self._release(self._detokenize(self._ids[self._start :])[len(self._before) :].rstrip("\ufffd"))
        if not self.is_stopped:
            text += self._held
        return text

    def _release(self, text: str) -> str:
        """Returns `text` up to a stop text, and holds back an end that may become one."""
        text = self._held + text
        found = [(position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            position, self.stop_text = min(found)
            return text[:position]
        n_held = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def decode(
    network: Network, prompt: list[int], options: GenerationOptions, facts: GenerationFacts, cancel: Event
) -> Iterator[str]:
    """Generates an answer. Yields after every step: the text that it completed, often empty.

    Raises:
        OutOfMemory: the device had no memory left, also after everything that can be freed was freed.
        ModelInvalid: the model computes NaN.
    """
    sampler = Sampler(options, prompt, network.device, steer=network.steer)
    text = TextDecoder(network.detokenize, options.stop)
    forward = _Forward(network, prompt, facts)
    try:
        for _ in forward.prefill(prompt):
            if cancel.is_set():
                facts.stop_reason = "cancelled"
                return
            yield ""
        limit = min(options.max_tokens, network.context_tokens - len(prompt))
        while not cancel.is_set():
            token = sampler.choose(forward.logits)
            facts.n_completion_tokens += 1
            if token in network.end_ids:
                break
            delta = text.push(token)
            if text.is_stopped:
                yield delta
                return
            if facts.n_completion_tokens >= limit:
                facts.stop_reason = "length"
                yield delta
                break
            yield delta
            forward.step(token)
        else:
            facts.stop_reason = "cancelled"
        yield text.finish()
    finally:
        facts.stop_text = text.stop_text
        # Also after a cancel: the next message of the conversation continues the part that was generated.
        network.prefixes.keep(forward.ids, len(prompt), forward.cache)


class _Forward:
    """Forward passes with a growing cache, and one retry when memory runs out.

    Attributes:
        ids: the tokens whose keys and values are in `cache`.
        logits: the scores of the token after them, shape (n_vocabulary,).
    """

    def __init__(self, network: Network, prompt: Sequence[int], facts: GenerationFacts) -> None:
        self._network = network
        self._facts = facts
        self._chunk = _PREFILL_TOKENS[network.device.partition(":")[0]]
        self.logits: Any = None
        n_cached, self.cache = network.prefixes.take(prompt, self._chunk, self._new_cache)
        self.ids = list(prompt[:n_cached])

    def prefill(self, ids: Sequence[int]) -> Iterator[None]:
        """Computes the tokens of `ids` that are not in the cache, one chunk per step."""
        yield  # a cancel takes effect before the first pass, too
        while len(self.ids) < len(ids):
            chunk = list(ids[len(self.ids) : len(self.ids) + self._chunk])
            if not self._ran(chunk):
                self._start_over(len(ids))
                continue
            yield

    def step(self, token: int) -> None:
        """Computes one more token."""
        if not self._ran([token]):
            ids = [*self.ids, token]
            self._start_over(len(ids))
            for _ in self.prefill(ids):
                pass

    def _ran(self, chunk: list[int]) -> bool:
        """Runs a forward pass. Returns False if memory ran out; then the cache may be updated in some layers only."""
        import torch

        tokens = torch.tensor([chunk], device=self._network.device)
        self._network.activate()
        try:
            with torch.inference_mode():
                out = self._network.module(
                    input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1
                )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        self.logits = out.logits[0, -1]
        self.ids += chunk
        return True

    def _start_over(self, n_tokens: int) -> None:
        """Frees everything that can be freed and starts again with small chunks. The second time it gives up."""
        device = self._network.device
        self.ids, self.cache, self.logits = [], self._new_cache(), None
        self._network.prefixes.clear()
        give_back_memory(device)
        if self._chunk == _RETRY_TOKENS:
            raise OutOfMemory(
                f"{device} has no memory for {n_tokens} tokens beside the models",
                hint="send less, start a new session, or use a smaller model",
            )
        self._chunk = _RETRY_TOKENS
        self._facts.notices.append(
            Notice(
                "memory_retry", f"{device} was out of memory; the answer was made in smaller steps, which is slower."
            )
        )

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._network.module.config)


class Sampler:
    """Chooses the next token: penalty, then temperature, top-k and top-p, in the order of transformers."""

    def __init__(
        self, options: GenerationOptions, prompt: Sequence[int], device: str, *, steer: Steer | None = None
    ) -> None:
        import torch

        self._options = options
        self._steer = steer
        self._said: list[int] = []
        self._generator = None
        if options.temperature > 0:
            self._generator = torch.Generator(device=device)
            if options.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(options.seed)
        self._seen: Any = None
        if options.repetition_penalty != 1.0:
            # With steering, the texts to copy are in the prompt. A penalty on their words would work against it.
            seen = set(prompt) if steer is None else set()
            self._seen = torch.tensor(sorted(seen), dtype=torch.long, device=device)

    def choose(self, logits: Any) -> int:
        """Chooses a token.

        Args:
            logits: shape (n_vocabulary,).

        Raises:
            ModelInvalid: the logits are NaN.
        """
        import torch

        with torch.inference_mode():
            scores = self._steered(self._penalized(logits.float()))
            if self._generator is None:
                # The maximum of scores with a NaN is NaN, so one read of one value checks them all.
                best, token = scores.max(-1)
                is_number = not bool(best.isnan())
            else:
                probabilities, tokens = self.probabilities(scores)
                is_number = not bool(probabilities[0].isnan())
                if is_number:
                    token = tokens[torch.multinomial(probabilities, 1, generator=self._generator)]
            if not is_number:
                raise ModelInvalid("the model computes NaN", hint="verify it, or try another dtype")
            if self._seen is not None:
                self._seen = torch.cat([self._seen, token.reshape(1)])
        self._said.append(int(token))
        return self._said[-1]

    def probabilities(self, scores: Any) -> tuple[Any, Any]:
        """The probabilities of the tokens that may be chosen, and the tokens, most likely first."""
        import torch

        n = min(self._options.top_k or len(scores), len(scores))
        # Top-k first: sorting the whole vocabulary takes as long as a layer of the network.
        values, tokens = torch.topk(scores / self._options.temperature, n)
        probabilities = values.softmax(-1)
        if self._options.top_p < 1.0:
            # The token that crosses the threshold stays (Holtzman et al. 2020).
            outside = probabilities.cumsum(-1) - probabilities >= self._options.top_p
            probabilities = probabilities.masked_fill(outside, 0.0)
        return probabilities, tokens

    def _steered(self, scores: Any) -> Any:
        if self._steer is not None and (added := self._steer.added(self._said)):
            scores = scores.clone()  # they may be the network's own output
            for token, value in added.items():
                scores[token] += value
        return scores

    def _penalized(self, scores: Any) -> Any:
        """Lowers the scores of tokens that occurred before (Keskar et al. 2019).

        A positive score is divided and a negative one multiplied, so that both become smaller.
        """
        if self._seen is None:
            return scores
        import torch

        seen = scores[self._seen]
        penalty = self._options.repetition_penalty
        return scores.index_put((self._seen,), torch.where(seen > 0, seen / penalty, seen * penalty))
