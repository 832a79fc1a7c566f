"""The shape of an engine and of the models it loads.

A loaded model owns one thread; everything that touches its weights runs there. Streams are generators that the
thread advances one step at a time, in turn, so a long answer does not keep a short one waiting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from smallai_assistant.engines.executor import ModelThread
from smallai_assistant.engines.generation import GenerationOptions, Steering
from smallai_assistant.feedback import Adapter
from smallai_assistant.types import Notice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    ImageArray = npt.NDArray[np.uint8]

T = TypeVar("T")
Quantization = Literal["none", "int8", "nf4"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model to serve, and how.

    Args:
        name: a catalogue name, a local folder or file, or a hub id `owner/name`.
        task: the transformers pipeline id of what it is for; the engine is chosen by it and by the files.
        quantization: `int8` and `nf4` are bitsandbytes'; `none` keeps the stored weights.
        dtype: the compute dtype, a torch name; `auto` is bfloat16 for text models, float32 for the rest.
        revision: of a hub id; a full commit hash pins it.
        engine: the engine's name; None lets the files decide.
    """

    name: str
    task: str
    quantization: Quantization = "none"
    dtype: str = "auto"
    revision: str | None = None
    engine: str | None = None

    def __str__(self) -> str:
        return self.name if self.quantization == "none" else f"{self.name} ({self.quantization})"


class LoadedModel(ABC):
    """A model in memory. Subclasses hold the weights and set `n_bytes` to what they measured.

    Attributes:
        spec: what was asked for.
        device: a torch device string, such as `cpu` or `cuda:0`.
        n_bytes: measured bytes of weights and buffers on the device.
    """

    def __init__(self, spec: ModelSpec, *, device: str, n_bytes: int) -> None:
        self.spec = spec
        self.device = device
        self.n_bytes = n_bytes
        self._thread = ModelThread(spec.name)

    @staticmethod
    def measure(tensors: Iterable[Any]) -> int:
        """Bytes behind torch tensors, each storage once, the quantization state of bitsandbytes parameters included."""
        seen: dict[tuple[str, int], int] = {}

        def count(tensor: Any) -> None:
            if not hasattr(tensor, "untyped_storage"):
                return
            storage = tensor.untyped_storage()
            seen[str(storage.device), storage.data_ptr()] = storage.nbytes()

        for tensor in tensors:
            count(tensor)
            state = getattr(tensor, "quant_state", None)  # 4 bits: the scales, and the scales of the scales
            while state is not None:
                for name in ("absmax", "code", "offset"):
                    count(getattr(state, name, None))
                state = getattr(state, "state2", None)
            for name in ("CB", "SCB"):  # 8 bits
                count(getattr(tensor, name, None))
        return sum(seen.values())

    def call(self, function: Callable[[], T]) -> T:
        """Runs `function` on the model's thread between the steps of running streams, and waits for it."""
        return self._thread.call(function)

    def stream(self, steps: Iterator[T], *, in_background: bool = False) -> Iterator[T]:
        """Advances `steps` on the model's thread and yields what it yields; closing the result closes `steps`.

        Args:
            in_background: steps of the other streams go first: for what nobody waits for, such as an evaluation.
        """
        return self._thread.stream(steps, in_background=in_background)

    def retire_adapter(self, adapter_id: str) -> None:  # noqa: B027  (a model without adapters has nothing to do)
        """An adapter no longer serves: drop it and what was computed with it once the last stream with it has ended."""

    def close(self) -> None:
        """Stops the thread and drops the weights. The runtime calls it when no lease is left."""
        self._thread.close()
        self.release()

    @abstractmethod
    def release(self) -> None:
        """Drops every reference to the weights."""


class TextModel(LoadedModel):
    """A causal language model with a chat template.

    A chat message is `{"role": "system" | "user" | "assistant", "content": str}`.
    """

    context_tokens: int

    @abstractmethod
    def count_tokens(self, messages: Sequence[dict[str, str]]) -> int:
        """Tokens of the prompt that the template makes of `messages`, generation prompt included."""

    @abstractmethod
    def generate(
        self,
        messages: Sequence[dict[str, str]],
        options: GenerationOptions,
        *,
        cancel: Event | None = None,
        adapter: Adapter | None = None,
        steering: Steering | None = None,
    ) -> TextStream:
        """Streams the answer as text deltas; ends early once `cancel` is set.

        Args:
            adapter: LoRA weights to answer with, from the first token to the last; None for the bare base.
            steering: what the answer should take up and what it should not say again.

        Raises:
            AdapterMismatch: the adapter's weights do not fit the model (raised by the stream).
            InputTooLarge: the prompt fills the context.
            InvalidInput: the text holds half a surrogate pair.
        """

    def complete(
        self,
        chats: Sequence[Sequence[dict[str, str]]],
        options: GenerationOptions,
        *,
        adapter: Adapter | None = None,
    ) -> list[str]:
        """The likeliest answer to each chat, for evaluation; engines that can compute several at once do.

        It takes its steps while no answer is streamed.

        Args:
            options: as for greedy decoding; `max_tokens` and `repetition_penalty` count.
        """
        return ["".join(self.generate(chat, options, adapter=adapter)) for chat in chats]

    @abstractmethod
    def log_likelihoods(
        self,
        pairs: Sequence[tuple[Sequence[dict[str, str]], str]],
        *,
        adapter: Adapter | None = None,
        with_end: bool = False,
    ) -> list[float]:
        """The log probability of each text as the answer to its chat, in nats, summed over its tokens.

        It takes its steps while no answer is streamed.

        Args:
            with_end: also that the answer ends there.
        """


@dataclass(slots=True)
class GenerationFacts:
    """What is known of an answer; complete once its stream has ended.

    Attributes:
        stop_reason: `stop`, `length` (of the answer or of the context) or `cancelled`.
        notices: what the user should know about how it was made.
    """

    n_prompt_tokens: int
    n_completion_tokens: int = 0
    stop_reason: str = "stop"
    notices: list[Notice] = field(default_factory=list)


class TextStream(Iterator[str]):
    """Text deltas, none of them empty, and the `facts`."""

    def __init__(self, deltas: Iterator[str], facts: GenerationFacts) -> None:
        self._deltas = deltas
        self.facts = facts

    def __next__(self) -> str:
        while not (delta := next(self._deltas)):
            pass
        return delta

    def close(self) -> None:
        """Stops the compute."""
        close = getattr(self._deltas, "close", None)
        if close is not None:
            close()


class EmbeddingModel(LoadedModel):
    """A model of sentence vectors."""

    n_dimensions: int

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> FloatArray:
        """float32, shape (n_texts, n_dimensions), each row of length 1."""


class ImageModel(LoadedModel):
    """An image classifier with a usable embedding.

    Attributes:
        labels: class names; the position is the class index.
    """

    labels: tuple[str, ...]
    n_dimensions: int

    @abstractmethod
    def classify(self, images: Sequence[ImageArray]) -> FloatArray:
        """Calibrated probabilities, float32, shape (n_images, n_classes), of RGB pictures uint8 (height, width, 3)."""

    @abstractmethod
    def embed(self, images: Sequence[ImageArray]) -> FloatArray:
        """float32, shape (n_images, n_dimensions), not normalized."""


class ImageTextModel(LoadedModel):
    """A model that compares pictures with texts, such as CLIP or SigLIP: zero-shot classification."""

    @abstractmethod
    def match(self, images: Sequence[ImageArray], texts: Sequence[str]) -> FloatArray:
        """How well each text fits each picture among the texts: float32, shape (n_images, n_texts), rows sum to 1.

        Args:
            images: RGB pictures, uint8, shape (height, width, 3).
            texts: class names; the model's own prompt is put around them.
        """


class Engine(ABC):
    """Loads models of one kind of file.

    Attributes:
        name: stable, such as `transformers`.
    """

    name: str

    @abstractmethod
    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        """Whether this engine knows the files in `folder`; cheap, reads at most a config file."""

    @abstractmethod
    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        """Bytes the loaded model will need, from file headers, before loading; within about 20 %."""

    @abstractmethod
    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> LoadedModel:
        """Loads the model.

        Args:
            progress: call it with what is going on and the fraction done in [0, 1].

        Raises:
            ModelInvalid: a file is malformed or unsafe.
            OutOfMemory: the device refused the memory.
        """
