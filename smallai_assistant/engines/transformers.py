"""Runs causal language models of transformers on CUDA and CPU: in bfloat16, or in int8 and nf4 with bitsandbytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from smallai_assistant.engines.base import Engine, GenerationFacts, LoadedModel, ModelSpec, TextModel, TextStream
from smallai_assistant.engines.batches import BATCH, complete, log_likelihoods
from smallai_assistant.engines.decoding import Network, PrefixCaches, decode
from smallai_assistant.engines.device import give_back_memory
from smallai_assistant.engines.generation import GenerationOptions, Steering
from smallai_assistant.engines.loading import bounded_building, own_weights
from smallai_assistant.engines.lora import LoraAdapters
from smallai_assistant.engines.prompts import ChatTokenizer, TextTokenizer
from smallai_assistant.engines.quiet import quiet_loading
from smallai_assistant.engines.steering import Steer
from smallai_assistant.engines.tokenizer_process import TokenizerProcess
from smallai_assistant.errors import Cancelled, ModelInvalid
from smallai_assistant.feedback import Adapter, AdapterPart
from smallai_assistant.models.boundary import model_errors
from smallai_assistant.models.entries import is_pinned
from smallai_assistant.models.files import check_model_folder, read_safetensors_header
from smallai_assistant.models.json_files import MAX_CONTEXT, read_json_object

T = TypeVar("T")
TASK = "text-generation"
_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_DEFAULT_CONTEXT = 2048  # for a config that names no limit
# Bytes per weight of a quantized matrix. nf4 takes half a byte, and a float32 scale for every 64 weights. int8 takes a
# byte, and a scale for every row.
_WEIGHT_BYTES = {"nf4": 0.5 + 4 / 64, "int8": 1.01}


class TransformersEngine(Engine):
    """Loads local folders with config.json, safetensors and a tokenizer that has a chat template."""

    name = "transformers"
    unread = (".gguf",)

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        if spec.task != TASK or not (folder / "config.json").is_file():
            return False
        try:
            architectures = read_json_object(folder / "config.json").get("architectures")
        except ModelInvalid:
            return True  # `load` checks the configuration and says what is wrong with it
        if architectures is not None and not isinstance(architectures, list):
            return True
        return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures or ())

    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        n_bytes = 0.0
        full = 4 if spec.dtype == "float32" else 2
        for path in folder.glob("*.safetensors"):
            for name, tensor in read_safetensors_header(path).items():
                # bitsandbytes leaves embeddings and the output layer as they are.
                is_matrix = len(tensor["shape"]) == 2 and "embed" not in name and "lm_head" not in name
                n_bytes += prod(tensor["shape"]) * (_WEIGHT_BYTES.get(spec.quantization, full) if is_matrix else full)
        return int(n_bytes)

    def load(self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]) -> TextModel:
        check_model_folder(folder)  # before any library reads the files
        progress(f"loading {spec}", 0.05)
        tokenizer: TextTokenizer
        if is_pinned(spec.name):
            with quiet_loading(), model_errors(str(spec)):
                from transformers import AutoTokenizer

                tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(str(folder), **_LOCAL))
        else:
            tokenizer = TokenizerProcess(folder, spec.name, is_chat=True)
        try:
            model = self._load(spec, folder, tokenizer, device=device, progress=progress)
        except BaseException:
            tokenizer.close()
            raise
        give_back_memory(device)  # quantizing needs the full weights for a moment
        return model

    def _load(
        self,
        spec: ModelSpec,
        folder: Path,
        tokenizer: TextTokenizer,
        *,
        device: str,
        progress: Callable[[str, float], None],
    ) -> TextModel:
        import torch
        from transformers import AutoModelForCausalLM

        if isinstance(tokenizer, TokenizerProcess):
            tokenizer.wait()  # its child worked while torch was imported
        progress(f"loading {spec}", 0.4)
        dtype = torch.bfloat16 if spec.dtype == "auto" else getattr(torch, spec.dtype)
        with quiet_loading(), model_errors(str(spec)), bounded_building(folder):
            module, report = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                device_map={"": device},
                quantization_config=_quantization_config(spec, dtype),
                use_safetensors=True,
                output_loading_info=True,
                **_LOCAL,
            )
            if missing := sorted(report["missing_keys"]):  # transformers fills missing weights with random numbers
                raise ModelInvalid(f"{spec}: {len(missing)} weights are missing, such as {missing[0]}")
            own_weights(module)
            progress(f"loading {spec}", 0.9)
            return TransformersTextModel(spec, module.eval().requires_grad_(False), tokenizer, device=device)


class TransformersTextModel(TextModel):
    """A causal language model of transformers with its tokenizer."""

    def __init__(self, spec: ModelSpec, module: Any, tokenizer: TextTokenizer, *, device: str) -> None:
        super().__init__(spec, device=device, n_bytes=0)
        self.context_tokens = _context_of(module.config)
        self._tokenizer = tokenizer
        # Caches of earlier answers, by the weights that computed them: keys and values depend on the weights.
        self._prefixes: dict[AdapterPart | None, PrefixCaches] = {None: PrefixCaches()}
        self._module: Any = module
        self._adapters = LoraAdapters(module, make_room=self.make_room)
        end_ids = module.generation_config.eos_token_id
        known = [*(end_ids if isinstance(end_ids, list) else [end_ids]), tokenizer.eos_id]
        n_words = module.get_input_embeddings().num_embeddings
        for index in known:
            if index is not None and (type(index) is not int or not 0 <= index < n_words):
                raise ModelInvalid(f"{spec}: the end token {str(index)[:60]} is none of its {n_words:,} tokens")
        self._end_ids = frozenset(index for index in known if index is not None)
        try:
            self.call(self._warm_up)
        except BaseException:
            self.close()
            raise
        self.n_bytes = LoadedModel.measure([*module.parameters(), *module.buffers()])

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
        network = self._network(adapter, steering)
        facts = GenerationFacts(n_prompt_tokens=len(prompt))
        steps = decode(network, prompt, options, facts, cancel or threading.Event())
        return TextStream(self._streamed(adapter, steps), facts)

    def complete(
        self,
        chats: Sequence[Sequence[dict[str, str]]],
        options: GenerationOptions,
        *,
        adapter: Adapter | None = None,
    ) -> list[str]:
        prompts = [self._tokenizer.encode_chat(chat) for chat in chats]
        # On the CPU, bitsandbytes unpacks every int8 matrix at every step that has more than one row.
        batch = 1 if self.device == "cpu" and self.spec.quantization == "int8" else BATCH
        steps = complete(self._network(adapter), prompts, options, batch=batch)
        return _last(self._streamed(adapter, steps, in_background=True)) or []

    def log_likelihoods(
        self,
        pairs: Sequence[tuple[Sequence[dict[str, str]], str]],
        *,
        adapter: Adapter | None = None,
        with_end: bool = False,
    ) -> list[float]:
        end = [self._tokenizer.eos_id] if with_end and self._tokenizer.eos_id is not None else []
        ids = [(self._tokenizer.encode_chat(chat), [*self._tokenizer.encode_text(text), *end]) for chat, text in pairs]
        steps = log_likelihoods(self._network(adapter), ids)
        return _last(self._streamed(adapter, steps, in_background=True)) or []

    def retire_adapter(self, adapter_id: str) -> None:
        self._adapters.retire(adapter_id)
        self.call(self._drop_unused)

    def release(self) -> None:
        self._tokenizer.close()
        self._prefixes.clear()
        self._adapters = LoraAdapters(None)  # the old one refers to the module
        self._module = None

    def _network(self, adapter: Adapter | None, steering: Steering | None = None) -> Network:
        part = None if adapter is None else adapter.part  # once per stream: `activate` runs at every step
        return Network(
            module=self._module,
            detokenize=self._tokenizer.decode,
            device=self.device,
            context_tokens=self.context_tokens,
            end_ids=self._end_ids,
            prefixes=self._prefixes.setdefault(part, PrefixCaches()),
            activate=lambda: self._adapters.activate(part),
            steer=None if steering is None else Steer(steering, self._tokenizer.encode_text, self._end_ids),
        )

    def _streamed(self, adapter: Adapter | None, steps: Iterator[T], *, in_background: bool = False) -> Iterator[T]:
        """Runs the steps on the model's thread. The adapter counts as used until they have ended."""
        return self.stream(self._adapters.using(steps, adapter, self._drop_unused), in_background=in_background)

    @property
    def extra_bytes(self) -> int:
        return self._adapters.n_bytes

    def drop_extras(self) -> None:
        with suppress(Cancelled):
            self.call(lambda: self._drop_unused(also_idle=True))

    def _drop_unused(self, *, also_idle: bool = False) -> None:
        self._adapters.drop_idle() if also_idle else self._adapters.drop_unused()
        # What weights computed goes with them, also with those that could not be loaded.
        for part in [part for part in list(self._prefixes) if self._adapters.is_unknown(part)]:
            self._prefixes.pop(part, None)

    def _warm_up(self) -> None:
        """Runs one token, so that `n_bytes` measures what stays: bitsandbytes repacks nf4 weights at the first pass."""
        import torch

        with torch.inference_mode():
            self._module(input_ids=torch.tensor([[next(iter(self._end_ids), 0)]], device=self.device))


def _last(steps: Iterator[T | None]) -> T | None:
    """The last item; the ones before it only mark steps."""
    found = None
    for step in steps:
        found = step
    return found


def _context_of(config: Any) -> int:
    n = getattr(config, "max_position_embeddings", None) or _DEFAULT_CONTEXT
    if type(n) is not int or not 0 < n <= MAX_CONTEXT:
        raise ModelInvalid(f"max_position_embeddings is {str(n)[:60]}; 1 to {MAX_CONTEXT:,} is possible")
    return n


def _quantization_config(spec: ModelSpec, dtype: Any) -> Any:
    if spec.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
