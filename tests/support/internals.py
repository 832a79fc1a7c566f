"""Looks inside a loaded text model.

Tests compare the engine with transformers' own loop on the same weights, and check that dropped adapters free their
memory. The public interface hides both on purpose, so this is the one place that reaches into private attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smallai_assistant.engines.prompts import ChatTokenizer
from smallai_assistant.feedback import AdapterPart


@dataclass(frozen=True, slots=True)
class Internals:
    """The private parts of a `TransformersTextModel`, or of a `LlamaCppModel`."""

    model: Any

    @property
    def module(self) -> Any:
        """The network, a module of torch."""
        return self.model._module

    @property
    def chat_tokenizer(self) -> Any:
        """The engine's own tokenizer."""
        return self.model._tokenizer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers, or one like it if the model's own is in a child process."""
        from transformers import AutoTokenizer

        own = self.model._tokenizer
        if isinstance(own, ChatTokenizer):
            return own._tokenizer
        return AutoTokenizer.from_pretrained(self.model.spec.name, local_files_only=True)

    @property
    def prefixes(self) -> Any:
        """The caches of answers of the bare base."""
        return self.model._prefixes[None]

    @property
    def cached_parts(self) -> set[AdapterPart | None]:
        """The weights for which answers are cached, None for the bare base."""
        return set(self.model._prefixes)

    @property
    def loaded_parts(self) -> set[AdapterPart]:
        """The weights of adapters in memory."""
        return set(self.model._adapters._loaded)

    @property
    def context(self) -> Any:
        """The cache of a model of llama.cpp, and the passes that fill it."""
        return self.model._context

    @property
    def adapters(self) -> Any:
        """The adapters beside the network."""
        return self.model._adapters

    @property
    def lora_bytes(self) -> int:
        """The bytes of all LoRA weights in memory."""
        return self.model._adapters.n_bytes

    @property
    def n_streams(self) -> int:
        """The number of streams that have not ended."""
        return int(self.model._thread.n_streams)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, in which control tokens are not spelled out."""
        return list(self.model._tokenizer._encode(text))
