"""Runs chat models with llama.cpp on the CPU: the GGUF file itself, mapped into memory, without torch."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.engines.adapter_pool import AdapterPool
from smallai_assistant.engines.base import Engine, GenerationFacts, ModelSpec, TextModel, TextStream
from smallai_assistant.engines.decoding import TextDecoder
from smallai_assistant.engines.generation import GenerationOptions, Steering
from smallai_assistant.engines.gguf_lora import convert_lora
from smallai_assistant.engines.light_tokenizer import LightTokenizer
from smallai_assistant.engines.llama_batches import (
    MAX_PASS_LOGITS,
    MAX_PASS_TOKENS,
    PROMPT_TOKENS,
    CacheSequence,
    JointPasses,
)
from smallai_assistant.engines.llama_library import LlamaContext, LlamaWeights, is_installed
from smallai_assistant.engines.numpy_sampler import NumpySampler
from smallai_assistant.engines.prompts import ChatTokenizer, TextTokenizer
from smallai_assistant.engines.steering import Steer
from smallai_assistant.errors import Cancelled
from smallai_assistant.feedback import Adapter, AdapterPart
from smallai_assistant.models.boundary import model_errors
from smallai_assistant.models.entries import is_pinned
from smallai_assistant.models.files import check_model_folder
from smallai_assistant.models.json_files import read_json_object

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

TASK = "text-generation"
FILE = "model.gguf"
# The file has a quantization of its own, usually to 4 bits. Whoever asks for int8 gets it from another engine.
QUANTIZATIONS = ("none", "nf4")
# Tokens that the cache holds, of all conversations together, and the most that one may have. Keys and values of the
# 0.5B model take 12 kB a token and those of the 135M model 23 kB: 200 and 190 MB.
MAX_CACHE_TOKENS = 16_384
N_SEQUENCES = 16  # answers at once; each also keeps the text of a conversation for its next turn
N_TOGETHER = 8  # prompts of an evaluation that are computed together; the other sequences are for people
_PROGRESS = 0.3


class LlamaCppEngine(Engine):
    """Loads the GGUF file that a pulled model was converted from.

    Only models of the catalogue, whose files are pinned: the library reads a file in this process, and a damaged one
    can end it.
    """

    name = "llama.cpp"
    devices = ("cpu",)
    unread = (".safetensors",)

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        return (
            spec.task == TASK
            and spec.quantization in QUANTIZATIONS
            and is_pinned(spec.name)
            and (folder / FILE).is_file()
            and (folder / "tokenizer.json").is_file()
            and is_installed()
        )

    def estimate_bytes(self, _spec: ModelSpec, folder: Path) -> int:
        return (folder / FILE).stat().st_size + _working_bytes(read_json_object(folder / "config.json"))

    def load(self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]) -> TextModel:  # noqa: ARG002
        check_model_folder(folder)
        progress(f"loading {spec}", _PROGRESS)
        with model_errors(str(spec)):
            tokenizer = ChatTokenizer(LightTokenizer(folder))
            weights = LlamaWeights(folder / FILE)
        try:
            return LlamaCppModel(spec, weights, tokenizer, folder)
        except BaseException:
            weights.close()
            raise


def _working_bytes(base: Mapping[str, Any]) -> int:
    """What a model needs beside its weights: keys and values at 16 bits, and the scores of a pass.

    Args:
        base: its config.json.
    """
    heads = int(base["num_attention_heads"])
    width = int(base["hidden_size"]) // heads * int(base.get("num_key_value_heads") or heads)
    n_tokens = min(MAX_CACHE_TOKENS, int(base["max_position_embeddings"]))
    cache = 2 * 2 * int(base["num_hidden_layers"]) * width * n_tokens
    # The scores are there twice: the result, and the last product of the network.
    return cache + 2 * 4 * MAX_PASS_LOGITS * int(base["vocab_size"])


class LlamaCppModel(TextModel):
    """A GGUF model with its tokenizer. Streams that run at the same time share their passes."""

    def __init__(self, spec: ModelSpec, weights: LlamaWeights, tokenizer: TextTokenizer, folder: Path) -> None:
        self.context_tokens = min(MAX_CACHE_TOKENS, weights.n_context)
        context = LlamaContext(
            weights,
            n_tokens=self.context_tokens,
            n_sequences=N_SEQUENCES,
            n_batch=MAX_PASS_TOKENS,
            n_logits=MAX_PASS_LOGITS,
        )
        context.set_threads(_n_threads())
        base = read_json_object(folder / "config.json")
        super().__init__(spec, device="cpu", n_bytes=weights.n_bytes + _working_bytes(base))
        self._tokenizer = tokenizer
        self._weights = weights
        self._context = context
        self._end_ids = weights.end_ids()
        self._adapters = _LlamaAdapters(weights, context, base, make_room=self.make_room)
        self._passes = JointPasses(context, N_SEQUENCES, self._adapters.activate)

    def count_tokens(self, messages: Sequence[dict[str, str]]) -> int:
        return len(self._tokenizer.encode_chat(messages))

    def generate(
        self,
        messages: Sequence[dict[str, str]],
        options: GenerationOptions,
        *,
        cancel: threading.Event | None = None,
        adapter: Adapter | None = None,
        steering: Steering | None = None,
    ) -> TextStream:
        prompt = self._tokenizer.encode_chat(messages, cancel=cancel)
        self.check_fits(len(prompt))
        facts = GenerationFacts(n_prompt_tokens=len(prompt))
        steer = None if steering is None else Steer(steering, self._tokenizer.encode_text, self._end_ids)
        sampler = NumpySampler(options, prompt, steer=steer)
        part = None if adapter is None else adapter.part
        steps = self._answer(prompt, options, sampler, facts, cancel=cancel or threading.Event(), part=part)
        return TextStream(self.stream(self._adapters.using(steps, adapter, self._drop_unused)), facts)

    def complete(
        self,
        chats: Sequence[Sequence[dict[str, str]]],
        options: GenerationOptions,
        *,
        adapter: Adapter | None = None,
    ) -> list[str]:
        part = None if adapter is None else adapter.part
        texts = [""] * len(chats)

        def answer(place: int, prompt: list[int]) -> Iterator[str]:
            sampler = NumpySampler(greedy, prompt)
            facts = GenerationFacts(n_prompt_tokens=len(prompt))
            for delta in self._answer(prompt, greedy, sampler, facts, cancel=threading.Event(), part=part):
                texts[place] += delta
                yield ""

        greedy = GenerationOptions(max_tokens=options.max_tokens, repetition_penalty=options.repetition_penalty)
        prompts = [self._tokenizer.encode_chat(chat) for chat in chats]
        runs = [answer(place, prompt) for place, prompt in enumerate(prompts)]
        self._run(_together(runs), adapter)
        return texts

    def log_likelihoods(
        self,
        pairs: Sequence[tuple[Sequence[dict[str, str]], str]],
        *,
        adapter: Adapter | None = None,
        with_end: bool = False,
    ) -> list[float]:
        part = None if adapter is None else adapter.part
        end = [self._tokenizer.eos_id] if with_end and self._tokenizer.eos_id is not None else []
        found = [0.0] * len(pairs)

        # Texts after the same prompt, such as the choices of a question, share it.
        texts: defaultdict[tuple[int, ...], dict[int, list[int]]] = defaultdict(dict)
        for place, (chat, text) in enumerate(pairs):
            said = [*self._tokenizer.encode_text(text), *end]
            if said:  # an empty text has probability 1
                texts[tuple(self._tokenizer.encode_chat(chat))][place] = said
        runs = [self._likelihoods(prompt, of_prompt, part, found) for prompt, of_prompt in texts.items()]
        self._run(_together(runs), adapter)
        return found

    def retire_adapter(self, adapter_id: str) -> None:
        self._adapters.retire(adapter_id)
        self.call(self._drop_unused)

    @property
    def extra_bytes(self) -> int:
        return self._adapters.n_bytes

    def drop_extras(self) -> None:
        with suppress(Cancelled):
            self.call(lambda: self._drop_unused(also_idle=True))

    def release(self) -> None:
        self._tokenizer.close()
        self._context.close()
        self._weights.close()  # with its adapters

    def _run(self, steps: Iterator[None], adapter: Adapter | None) -> None:
        """Runs an evaluation behind the answers that people wait for."""
        for _ in self.stream(self._adapters.using(steps, adapter, self._drop_unused), in_background=True):
            pass

    def _drop_unused(self, *, also_idle: bool = False) -> None:
        self._adapters.drop_idle() if also_idle else self._adapters.drop_unused()
        self._passes.forget(self._adapters.is_unknown)

    def _answer(
        self,
        prompt: list[int],
        options: GenerationOptions,
        sampler: NumpySampler,
        facts: GenerationFacts,
        *,
        cancel: threading.Event,
        part: AdapterPart | None,
    ) -> Iterator[str]:
        """Generates an answer. Yields after every step the text that it completed, often empty."""
        text = TextDecoder(self._tokenizer.decode, options.stop)
        limit = min(options.max_tokens, self.context_tokens - len(prompt))
        yield from self._passes.wait_for_sequence(cancel)
        if cancel.is_set():
            facts.stop_reason = "cancelled"
            return
        sequence = self._passes.begin(prompt, part)
        try:
            scores: list[FloatArray] = []
            while len(sequence.ids) < len(prompt) and not cancel.is_set():
                scores = yield from self._prompt_step(sequence, prompt, cancel)
            while not cancel.is_set():
                token = sampler.choose(scores[-1])
                facts.n_completion_tokens += 1
                if token in self._end_ids:
                    break
                delta = text.push(token)
                if text.is_stopped:
                    yield delta
                    return
                if facts.n_completion_tokens >= limit:
                    facts.stop_reason = "length"
                    yield delta
                    break
                work = self._passes.submit(sequence, [token], n_scores=1, cancel=cancel)
                yield delta
                scores = yield from self._passes.scores(work)
            else:
                facts.stop_reason = "cancelled"
            yield text.finish()
        finally:
            facts.stop_text = text.stop_text
            self._passes.end(sequence)

    def _prompt_step(
        self, sequence: CacheSequence, prompt: Sequence[int], cancel: threading.Event
    ) -> Generator[str, None, list[FloatArray]]:
        """Computes the next tokens of a prompt. Returns the scores after its last token, nothing for an earlier one."""
        start = len(sequence.ids)
        tokens = prompt[start : start + PROMPT_TOKENS]
        is_last = start + len(tokens) == len(prompt)
        work = self._passes.submit(sequence, tokens, n_scores=int(is_last), cancel=cancel)
        yield ""
        return (yield from self._passes.scores(work))

    def _likelihoods(
        self, prompt: Sequence[int], texts: Mapping[int, list[int]], part: AdapterPart | None, found: list[float]
    ) -> Iterator[str]:
        """Puts the log probability of each text into its place in `found`, in nats. Yields after every step."""
        never = threading.Event()
        yield from self._passes.wait_for_sequence(never)
        sequence = self._passes.begin(prompt, part)
        try:
            for place, said in texts.items():
                self._passes.cut(sequence, len(prompt) - 1)
                whole = [*prompt, *said]
                # Nothing is predicted from the last token, so it is not computed.
                while (start := len(sequence.ids)) < len(whole) - 1:
                    is_prompt = start < len(prompt) - 1
                    end = min(start + PROMPT_TOKENS, len(prompt) - 1) if is_prompt else start + MAX_PASS_LOGITS
                    tokens = whole[start : min(end, len(whole) - 1)]
                    work = self._passes.submit(sequence, tokens, n_scores=0 if is_prompt else len(tokens), cancel=never)
                    yield ""
                    scores = yield from self._passes.scores(work)
                    found[place] += sum(_log_probability(row, whole[start + 1 + i]) for i, row in enumerate(scores))
        finally:
            self._passes.end(sequence)


def _log_probability(scores: FloatArray, token: int) -> float:
    import numpy as np

    most = scores.max()
    return float(scores[token] - most - np.log(np.exp(scores - most).sum()))


def _together(runs: Sequence[Iterator[object]]) -> Iterator[None]:
    """Advances several runs in turn, so that their passes are joint; the next begins when one ends."""
    later = list(reversed(runs))
    running: list[Iterator[object]] = []
    try:
        while later or running:
            while later and len(running) < N_TOGETHER:
                running.append(later.pop())
            for run in list(running):
                try:
                    next(run)
                except StopIteration:
                    running.remove(run)
            yield None
    finally:
        for run in running:
            run.close()  # type: ignore[attr-defined]


def _n_threads() -> int:
    """The threads of a pass: what OMP_NUM_THREADS asks for, or the processors that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An adapter that llama.cpp has loaded."""

    handle: int
    n_bytes: int


class _LlamaAdapters(AdapterPool[_Loaded]):
    """The adapters of one model of llama.cpp. Each is converted to GGUF when it is loaded.

    Args:
        base: the config.json of the model.
    """

    def __init__(
        self, weights: LlamaWeights, context: LlamaContext, base: dict[str, Any], *, make_room: Callable[[int], None]
    ) -> None:
        super().__init__(make_room=make_room)
        self._weights, self._context, self._base = weights, context, base
        self._active: int | None = None

    def activate(self, part: AdapterPart | None) -> None:
        """Makes the next pass use these weights, or the bare base for None. On the model's thread only.

        Raises:
            AdapterMismatch: the weights do not fit the model.
            OutOfMemory: there is no memory for them.
        """
        handle = None if part is None else self.get(part).handle
        if handle != self._active:
            self._context.set_adapter(handle)
            self._active = handle

    def _load(self, part: AdapterPart) -> _Loaded:
        with tempfile.TemporaryDirectory(prefix="smallai-") as folder:
            file = Path(folder) / "adapter.gguf"
            convert_lora(part.folder, file, base=self._base)
            return _Loaded(self._weights.load_adapter(file), file.stat().st_size)

    def _dropped(self, weights: _Loaded) -> None:
        if weights.handle == self._active:
            self._context.set_adapter(None)
            self._active = None
        self._weights.free_adapter(weights.handle)
