"""The adapters that are loaded beside one model: who uses which, and which go when the room is needed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from smallai_assistant.engines.executor import Ending
from smallai_assistant.errors import AdapterMismatch, OutOfMemory
from smallai_assistant.feedback import Adapter, AdapterPart
from smallai_assistant.models.boundary import is_out_of_memory

# Weights of adapters in memory beside one model: 26 of the 135M model, 14 of the one with 0.5B, as a cycle trains them.
MAX_BYTES = 512 * 2**20
WEIGHTS = "adapter_model.safetensors"


T = TypeVar("T")


class LoadedWeights(Protocol):
    """The weights of an adapter in memory."""

    @property
    def n_bytes(self) -> int: ...


W = TypeVar("W", bound=LoadedWeights)


class AdapterPool(ABC, Generic[W]):
    """The adapters of one loaded model. A subclass loads and drops the weights.

    Idle adapters stay loaded. Those beyond `limit` are dropped, the least recently used first, and all of them if
    another model needs the room (`drop_idle`).

    Args:
        limit: bytes that the weights of adapters may take, None for `MAX_BYTES`; those in use may exceed it.
        make_room: called with the bytes that are about to be loaded.
    """

    def __init__(self, *, limit: int | None = None, make_room: Callable[[int], None] = lambda _: None) -> None:
        self._limit = MAX_BYTES if limit is None else limit
        self._make_room = make_room
        self._lock = threading.Lock()
        self._n_streams: dict[AdapterPart, int] = {}
        self._retired: set[str] = set()  # adapter ids: all parts of an adapter are retired together
        # The least recently used first. Only the model's thread touches it.
        self._loaded: dict[AdapterPart, W] = {}

    @property
    def n_bytes(self) -> int:
        """The bytes of all weights that are loaded."""
        return sum(weights.n_bytes for weights in list(self._loaded.values()))

    def begin(self, adapter: Adapter) -> None:
        """Counts a stream that starts to use the adapter. Call it from any thread."""
        with self._lock:
            self._retired.discard(adapter.id)
            self._n_streams[adapter.part] = self._n_streams.get(adapter.part, 0) + 1

    def retire(self, adapter_id: str) -> None:
        """Marks an adapter that no longer serves new answers; `drop_unused` drops it. Call it from any thread."""
        with self._lock:
            self._retired.add(adapter_id)

    def end(self, adapter: Adapter) -> None:
        """Counts a stream that has ended. Call it from any thread."""
        with self._lock:
            self._n_streams[adapter.part] -= 1
            if not self._n_streams[adapter.part]:
                del self._n_streams[adapter.part]

    def using(self, steps: Iterator[T], adapter: Adapter | None, on_end: Callable[[], None]) -> Iterator[T]:
        """The steps of a stream. The adapter, if there is one, counts as used until they have ended.

        Args:
            on_end: called then, on the model's thread; not without an adapter.
        """
        if adapter is None:
            return steps
        self.begin(adapter)

        def at_end() -> None:
            self.end(adapter)
            on_end()

        return Ending(steps, at_end)

    def is_unknown(self, part: AdapterPart | None) -> bool:
        """Whether weights are neither in memory nor used by a stream. On the model's thread only."""
        with self._lock:
            return part is not None and part not in self._loaded and part not in self._n_streams

    def get(self, part: AdapterPart) -> W:
        """The weights, loaded if they are not in memory. On the model's thread only.

        Raises:
            AdapterMismatch: the weights do not fit the model.
            OutOfMemory: the device has no memory for them.
        """
        # This runs before every step of every stream. Usually the weights are loaded already.
        weights = self._loaded.pop(part, None) or self._loaded_now(part)
        self._loaded[part] = weights  # put back at the end, as the most recently used
        return weights

    def drop_unused(self) -> None:
        """Drops retired adapters without streams, and the oldest idle ones beyond the limit.

        On the model's thread only.
        """
        with self._lock:
            gone = [part for part in self._idle() if part.adapter_id in self._retired]
            self._retired &= {part.adapter_id for part in self._n_streams}  # the others are dropped
        self._drop(gone)
        self._drop_beyond(self._limit)

    def drop_idle(self) -> None:
        """Drops all adapters that no stream uses. On the model's thread only."""
        self._drop_beyond(0)

    @abstractmethod
    def _load(self, part: AdapterPart) -> W:
        """Loads the weights. Whatever it raises becomes AdapterMismatch or OutOfMemory."""

    @abstractmethod
    def _dropped(self, weights: W) -> None:
        """Called after weights were taken out of `_loaded`."""

    def _idle(self) -> list[AdapterPart]:
        """The parts that no stream uses, the least recently used first. Call it with the lock held."""
        return [part for part in self._loaded if part not in self._n_streams]

    def _drop_beyond(self, limit: int) -> None:
        with self._lock:
            idle = self._idle()
        for part in idle:
            if self.n_bytes <= limit:
                break
            self._drop([part])

    def _drop(self, parts: Sequence[AdapterPart]) -> None:
        for part in parts:
            self._dropped(self._loaded.pop(part))

    def _loaded_now(self, part: AdapterPart) -> W:
        try:
            size = (part.folder / WEIGHTS).stat().st_size
            self._make_room(size)
            # Room for this one; what an answer has computed with those that go is dropped when its stream ends.
            self._drop_beyond(max(0, self._limit - size))
            return self._load(part)
        except Exception as error:  # for files that do not fit, torch and safetensors raise many types
            if is_out_of_memory(error):
                raise OutOfMemory(f"there is no memory for the adapter {part}") from error
            message = error.message if isinstance(error, AdapterMismatch) else f"{type(error).__name__}: {error}"
            raise AdapterMismatch(f"{part} does not fit the model: {message}") from error
