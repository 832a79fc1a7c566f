"""The base classes of engines and of the models that they load.

A loaded model owns one thread, and everything that touches its weights runs there. Streams are generators. The thread
advances them one step at a time, in turn, so a long answer does not delay a short one.
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
from smallai_assistant.errors import InputTooLarge
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
        task: the transformers pipeline id of its purpose, such as `text-generation`.
        quantization: `int8` and `nf4` are those of bitsandbytes; `none` keeps the stored weights.
        dtype: the compute dtype, a torch name; `auto` is bfloat16 for text models and float32 for all others.
        revision: the revision of a hub id; a full commit hash pins it.
        engine: the name of an engine; None takes the first engine that can load the files.
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
    """A model in memory. A subclass holds the weights and sets `n_bytes` to the measured size.

    Run everything that touches the weights through `call` or `stream`, which put it on the model's thread.

    Attributes:
        spec: the request that it was loaded for.
        device: a torch device string, such as `cpu` or `cuda:0`.
        n_bytes: measured bytes of weights and buffers on the device. The runtime counts them against its budget.
        on_growth: called with the bytes that are about to be loaded beside the weights. The runtime sets it.
    """

    def __init__(self, spec: ModelSpec, *, device: str, n_bytes: int) -> None:
        # Loading happens on the caller's thread; the model's own thread starts when the weights are there.
        self.spec = spec
        self.device = device
        self.n_bytes = n_bytes
        self.on_growth: Callable[[int], None] | None = None
        self._thread = ModelThread(spec.name)

    @staticmethod
    def measure(tensors: Iterable[Any]) -> int:
        """The bytes of torch tensors, including the quantization state of bitsandbytes parameters.

        Tensors that share a storage, such as tied embeddings, are counted once.
        """
        seen: dict[tuple[str, int], int] = {}  # (device, address) -> bytes

        def count(tensor: Any) -> None:
            if not hasattr(tensor, "untyped_storage"):
                return
            storage = tensor.untyped_storage()  # a view has the bytes of what it views
            seen[str(storage.device), storage.data_ptr()] = storage.nbytes()

        for tensor in tensors:
            count(tensor)
            # nf4 keeps the scales of its blocks, and with double quantization (`state2`) the scales of the scales.
            state = getattr(tensor, "quant_state", None)
            while state is not None:
                for name in ("absmax", "code", "offset"):
                    count(getattr(state, name, None))
                state = getattr(state, "state2", None)
            for name in ("CB", "SCB"):  # int8: the quantized matrix and the scale of each row
                count(getattr(tensor, name, None))
        return sum(seen.values())

    def call(self, function: Callable[[], T]) -> T:
        """Runs `function` on the model's thread, between the steps of running streams, and returns its result.

        Raises:
            Cancelled: the model was closed.
        """
        return self._thread.call(function)

    def stream(self, steps: Iterator[T], *, in_background: bool = False) -> Iterator[T]:
        """Advances `steps` on the model's thread and yields its items. Closing the result closes `steps`.

        Args:
            in_background: whether the steps of other streams go first. For work that nobody waits for, such as an
                evaluation.

        Raises:
            Cancelled: the model was closed.
        """
        return self._thread.stream(steps, in_background=in_background)

    def retire_adapter(self, adapter_id: str) -> None:  # noqa: B027  (a model without adapters has nothing to do)
        """Tells the model that an adapter no longer serves new answers.

        The model drops the adapter, and everything it computed with it, after the last stream that uses it has ended.
        """

    def make_room(self, n_bytes: int) -> None:
        """Lets the runtime evict idle models if so many more bytes would exceed the budget."""
        if self.on_growth is not None:
            self.on_growth(n_bytes)

    @property
    def extra_bytes(self) -> int:
        """The bytes of what was loaded beside `n_bytes`, such as adapters. They count against the budget, too."""
        return 0

    def drop_extras(self) -> None:  # noqa: B027  (a model without adapters has nothing to do)
        """Drops what was loaded beside the weights and is not in use, because another model needs the room.

        It may have been closed meanwhile.
        """

    def close(self) -> None:
        """Stops the thread and drops the weights. The runtime calls it when no lease is left."""
        self._thread.close()  # first, so that no step finds the weights gone
        self.release()

    @abstractmethod
    def release(self) -> None:
        """Drops all references to the weights, so that their memory can be freed."""


class TextModel(LoadedModel):
    """A causal language model with a chat template.

    A chat message is `{"role": "system" | "user" | "assistant", "content": str}`.

    Attributes:
        context_tokens: the maximum number of tokens of prompt and answer together.
    """

    context_tokens: int

    @abstractmethod
    def count_tokens(self, messages: Sequence[dict[str, str]]) -> int:
        """The number of prompt tokens that the template makes of `messages`, including the generation prompt.

        Raises:
            InvalidInput: the template refuses the messages, or the text holds half a surrogate pair.
        """

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
        """Streams the answer as text deltas.

        Args:
            cancel: the stream ends at the next step after it is set.
            adapter: the LoRA weights for the whole answer; None for the bare base.
            steering: what the answer should contain.

        Raises:
            AdapterMismatch: the adapter's weights do not fit the model (raised by the stream).
            InputTooLarge: the prompt fills the context.
            InvalidInput: the template refuses the messages, or the text holds half a surrogate pair.
            OutOfMemory: the device has no memory for the answer (raised by the stream).
        """

    def check_fits(self, n_tokens: int) -> None:
        """Checks that a prompt of so many tokens leaves room for an answer.

        Raises:
            InputTooLarge: it fills the context.
        """
        if n_tokens >= self.context_tokens:
            raise InputTooLarge(
                f"the prompt has {n_tokens} tokens, the model's context {self.context_tokens}",
                hint="send less, or use a model with a longer context",
            )

    def complete(
        self,
        chats: Sequence[Sequence[dict[str, str]]],
        options: GenerationOptions,
        *,
        adapter: Adapter | None = None,
    ) -> list[str]:
        """Answers each chat with greedy decoding, for evaluation. It runs in the background of streamed answers.

        This default answers one chat after the other; an engine may compute several at once.

        Args:
            options: only `max_tokens` and `repetition_penalty` count.
        """
        # `generate` samples if the options say so, and the callers pass options of greedy decoding.
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

        It runs in the background of streamed answers.

        Args:
            pairs: chats and texts.
            with_end: whether to add the log probability that the answer ends after the text.
        """


@dataclass(slots=True)
class GenerationFacts:
    """Facts about one generated answer. They are complete after its stream has ended.

    Attributes:
        stop_reason: `stop`, `length` (`max_tokens` or the context is used up) or `cancelled`.
        stop_text: the text of `GenerationOptions.stop` that ended the answer and is not part of it; empty if none did.
        notices: what the user should know, such as a retry after memory ran out.
    """

    n_prompt_tokens: int
    n_completion_tokens: int = 0
    stop_reason: str = "stop"
    stop_text: str = ""
    notices: list[Notice] = field(default_factory=list)


class TextStream(Iterator[str]):
    """The text deltas of an answer, none of them empty, and the `facts` about it."""

    def __init__(self, deltas: Iterator[str], facts: GenerationFacts) -> None:
        self._deltas = deltas
        self.facts = facts

    def __next__(self) -> str:
        # The decoder yields once per step, also when a step completes no character. Readers want text.
        while not (delta := next(self._deltas)):
            pass
        return delta

    def close(self) -> None:
        """Stops the computation."""
        close = getattr(self._deltas, "close", None)
        if close is not None:
            close()


class EmbeddingModel(LoadedModel):
    """A model that turns texts into sentence vectors."""

    n_dimensions: int

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> FloatArray:
        """The vectors of the texts: float32, shape (n_texts, n_dimensions), each row of length 1."""


class ImageModel(LoadedModel):
    """An image classifier that also gives its embedding.

    Attributes:
        labels: class names; the position is the class index.
        n_dimensions: the length of an embedding.
    """

    labels: tuple[str, ...]
    n_dimensions: int

    @abstractmethod
    def classify(self, images: Sequence[ImageArray]) -> FloatArray:
        """The probability of each class: float32, shape (n_images, n_classes).

        Args:
            images: RGB pictures, uint8, shape (height, width, 3); sizes may differ.
        """

    @abstractmethod
    def embed(self, images: Sequence[ImageArray]) -> FloatArray:
        """The embeddings: float32, shape (n_images, n_dimensions), not normalized."""


class ImageTextModel(LoadedModel):
    """A model that compares pictures with texts, such as CLIP or SigLIP: zero-shot classification."""

    @abstractmethod
    def match(self, images: Sequence[ImageArray], texts: Sequence[str]) -> FloatArray:
        """How well each text fits each picture, compared with the other texts.

        Args:
            images: RGB pictures, uint8, shape (height, width, 3); sizes may differ.
            texts: class names; the model puts its own prompt around them.

        Returns:
            Shares, float32, shape (n_images, n_texts). Each row sums to 1.
        """


class Engine(ABC):
    """Loads models of one file format.

    Attributes:
        name: stable, such as `transformers`; users write it into `ModelSpec.engine`.
        devices: the kinds of devices that it runs on, as torch names them.
        unread: suffixes of files in a model's folder that it does not open. They are not compared with their hashes
            when it loads the model.
    """

    name: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    unread: tuple[str, ...] = ()

    @abstractmethod
    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        """Whether this engine can load the files in `folder`. It is cheap: it reads a config file at most."""

    @abstractmethod
    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        """The bytes that the loaded model will need, to within about 20 %, computed from file headers."""

    @abstractmethod
    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> LoadedModel:
        """Loads the model.

        Args:
            folder: the folder of its files; they are not trusted.
            progress: call it with what is going on and the fraction done, in [0, 1].

        Raises:
            ModelInvalid: a file is malformed or unsafe.
            OutOfMemory: the device has no memory for the model.
        """
