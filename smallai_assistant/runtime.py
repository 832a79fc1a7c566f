"""Load, quantize, cache, lease, evict: the memory budget."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from smallai_assistant.engines.base import Engine, LoadedModel, ModelSpec
from smallai_assistant.engines.device import available_bytes, choose_device, give_back_memory, total_bytes
from smallai_assistant.errors import AssistantError, Busy, ModelError, ModelInvalid, OutOfMemory
from smallai_assistant.types import Notice

M = TypeVar("M", bound=LoadedModel)
ProgressCallback = Callable[[str, float], None]

_MB = 2**20
_BUDGET_SHARE = 0.6  # the rest is for activations, caches and the app itself
_LEASE_PATIENCE_S = 60.0
_POLITE_S = 30.0  # training goes on beside an answer that takes longer
_IDLE_POLL_S = 0.02


class ModelFiles(Protocol):
    """What the runtime needs of a catalogue."""

    def name_for(self, name: str, task: str) -> str: ...

    def resolve(self, name: str, *, task: str | None = None, revision: str | None = None) -> Path: ...

    def fingerprint(self, name: str, *, task: str | None = None, revision: str | None = None) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A model in memory: `n_bytes` measured, `n_leases` in use right now."""

    spec: ModelSpec
    device: str
    n_bytes: int
    n_leases: int


@dataclass(slots=True)
class _Slot:
    """A model that is loaded, or being loaded (`model` None) with an estimate of its size."""

    n_bytes: int
    model: LoadedModel | None = None
    n_leases: int = 0


class ModelRuntime:
    """Holds loaded models under a byte budget and lends them out.

    Args:
        files: where names become folders.
        engines: asked in this order.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory_budget_mb: most loaded megabytes (2**20 bytes); 0 is 60 % of the device's memory.
        on_progress: called while a model loads.

    Attributes:
        budget_bytes: what all loaded models together may take, by their measured bytes.
    """

    def __init__(
        self,
        files: ModelFiles,
        engines: Sequence[Engine],
        *,
        device: str = "auto",
        memory_budget_mb: int = 0,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._files = files
        self._engines = list(engines)
        self._wanted_device = device
        self._memory_budget_mb = memory_budget_mb
        self._on_progress = on_progress or (lambda *_: None)
        self._changed = threading.Condition()
        self._slots: OrderedDict[ModelSpec, _Slot] = OrderedDict()  # least recently used first
        self._device: tuple[str, Notice | None] | None = None
        self._n_answers = 0
        self._is_closed = False

    @property
    def device(self) -> str:
        """The torch device string that models load on."""
        with self._changed:
            if self._device is None:
                self._device = choose_device(self._wanted_device)
            return self._device[0]

    @property
    def device_notice(self) -> Notice | None:
        """Says that the CPU was taken for want of CUDA."""
        return self._device[1] if self.device and self._device else None

    @property
    def budget_bytes(self) -> int:
        if self._memory_budget_mb:
            return self._memory_budget_mb * _MB
        return int(_BUDGET_SHARE * total_bytes(self.device))

    @contextmanager
    def lease(self, spec: ModelSpec, kind: type[M], *, timeout_s: float = _LEASE_PATIENCE_S) -> Iterator[M]:
        """Lends the model, loading it first where needed; it is not evicted while lent.

        Args:
            kind: the class the caller needs, such as `TextModel`.
            timeout_s: how long to wait for room that other leases hold.

        Raises:
            ModelNotFound, ModelInvalid: the model is not here, or its files cannot be used.
            OutOfMemory: it does not fit; the message has what it needs, what there is and what would fit.
            Busy: other leases held the room too long.
            ModelError: the model is not of `kind`.
        """
        resolved = replace(spec, name=self._files.name_for(spec.name, spec.task))
        model = self._acquire(resolved, timeout_s)
        try:
            if not isinstance(model, kind):
                raise ModelError(
                    f"{resolved} was loaded as {type(model).__name__}, the task needs {kind.__name__}",
                    hint="name a model of the right kind in the configuration",
                )
            yield model
        finally:
            self._release(resolved)

    def loaded(self) -> list[LoadedInfo]:
        """The models in memory, least recently used first."""
        with self._changed:
            return [
                LoadedInfo(spec, slot.model.device, slot.n_bytes, slot.n_leases)
                for spec, slot in self._slots.items()
                if slot.model is not None
            ]

    def wait_until_idle(self, *, cancel: threading.Event | None = None, patience_s: float = _POLITE_S) -> bool:
        """Waits while answers are being made, at most `patience_s`. Returns whether none is."""
        deadline = time.monotonic() + patience_s
        while self._n_answers > 0 and not (cancel is not None and cancel.is_set()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_IDLE_POLL_S)
        return self._n_answers == 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer is being made; background work waits for its end."""
        with self._changed:
            self._n_answers += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_answers -= 1

    def base_of(self, spec: ModelSpec) -> dict[str, str]:
        """What an adapter on this model is made for: its name, revision, the hashes of weights and tokenizer, and how
        it is quantized; the files are hashed once.

        Raises:
            ModelNotFound: the model is not here.
        """
        name = self._files.name_for(spec.name, spec.task)
        found = self._files.fingerprint(name, task=spec.task, revision=spec.revision)
        return {"model": name, "quantization": spec.quantization, **found}

    def folder_of(self, spec: ModelSpec) -> Path:
        """The folder of the model's files, checked; for training, which loads a copy of its own.

        Raises:
            ModelNotFound: the model is not here.
        """
        return self._files.resolve(self._files.name_for(spec.name, spec.task), task=spec.task, revision=spec.revision)

    def retire_adapter(self, adapter_id: str) -> None:
        """Tells every loaded model that an adapter no longer serves new answers."""
        with self._changed:
            models = [slot.model for slot in self._slots.values() if slot.model is not None]
        for model in models:
            model.retire_adapter(adapter_id)

    def unload(self, spec: ModelSpec) -> bool:
        """Drops a model that is not lent. Returns whether it was there and is gone."""
        resolved = replace(spec, name=self._files.name_for(spec.name, spec.task))
        with self._changed:
            slot = self._slots.get(resolved)
            if slot is None or slot.model is None or slot.n_leases:
                return False
            del self._slots[resolved]
        self._drop([slot])
        return True

    def close(self) -> None:
        """Drops every model; streams that still run end with an error."""
        with self._changed:
            self._is_closed = True
            slots = list(self._slots.values())
            self._slots.clear()
            self._changed.notify_all()
        self._drop(slots)

    def _acquire(self, spec: ModelSpec, timeout_s: float) -> LoadedModel:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._is_closed:
                    raise ModelError("the assistant is closed")
                slot = self._slots.get(spec)
                if slot is None:
                    break
                if slot.model is not None:
                    slot.n_leases += 1
                    self._slots.move_to_end(spec)
                    return slot.model
                self._changed.wait()  # somebody else loads it: a load always ends
            # Claimed while the lock is held, so no other thread loads it too.
            slot = self._slots[spec] = _Slot(n_bytes=0)
        try:
            slot_model = self._load(spec, slot, deadline)
        except BaseException:
            with self._changed:
                self._slots.pop(spec, None)
                self._changed.notify_all()
            raise
        with self._changed:
            if self._is_closed:
                self._slots.pop(spec, None)
                closed = True
            else:
                slot.model = slot_model
                slot.n_leases = 1
                closed = False
            self._changed.notify_all()
        if closed:
            slot_model.close()
            raise ModelError("the assistant is closed")
        return slot_model

    def _release(self, spec: ModelSpec) -> None:
        with self._changed:
            slot = self._slots.get(spec)
            if slot is not None and slot.n_leases:
                slot.n_leases -= 1
                self._changed.notify_all()

    def _load(self, spec: ModelSpec, slot: _Slot, deadline: float) -> LoadedModel:
        folder = self._files.resolve(spec.name, task=spec.task, revision=spec.revision)
        engine = self._engine_for(spec, folder)
        estimate = engine.estimate_bytes(spec, folder)
        self._make_room(spec, slot, estimate, deadline, engine=engine, folder=folder)
        try:
            model = self._load_once(engine, spec, folder)
        except OutOfMemory:
            self._evict_idle()
            model = self._load_once(engine, spec, folder)
        try:
            self._make_room(spec, slot, model.n_bytes, deadline, engine=engine, folder=folder)
        except BaseException:
            model.close()
            give_back_memory(self.device)
            raise
        return model

    def _load_once(self, engine: Engine, spec: ModelSpec, folder: Path) -> LoadedModel:
        self._on_progress(f"loading {spec}", 0.0)
        try:
            model = engine.load(spec, folder, device=self.device, progress=self._on_progress)
        except AssistantError:
            give_back_memory(self.device)
            raise
        except BaseException as error:
            give_back_memory(self.device)
            if isinstance(error, KeyboardInterrupt):
                raise
            if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
                raise OutOfMemory(
                    f"the device {self.device} had no memory for {spec}",
                    hint="close other programs or use a smaller model",
                ) from error
            raise ModelInvalid(
                f"{spec} could not be loaded: {type(error).__name__}: {error}", hint="verify it, or pull it again"
            ) from error
        self._on_progress(f"loading {spec}", 1.0)
        return model

    def _engine_for(self, spec: ModelSpec, folder: Path) -> Engine:
        for engine in self._engines:
            if spec.engine in (None, engine.name) and engine.can_load(spec, folder):
                return engine
        names = ", ".join(engine.name for engine in self._engines)
        raise ModelInvalid(f"no engine loads {spec} for {spec.task}", hint=f"engines: {names}")

    def _make_room(
        self, spec: ModelSpec, slot: _Slot, n_bytes: int, deadline: float, *, engine: Engine, folder: Path
    ) -> None:
        """Evicts idle models, oldest first, until `n_bytes` fit; waits for leases that hold the room."""
        budget = self.budget_bytes
        if n_bytes > budget:
            raise self._does_not_fit(spec, n_bytes, budget, engine, folder)
        while True:
            with self._changed:
                slot.n_bytes = 0
                evicted = []
                while self._used() + n_bytes > budget and (idle := self._oldest_idle()) is not None:
                    evicted.append(self._slots.pop(idle))
                fits = self._used() + n_bytes <= budget
                if fits:
                    slot.n_bytes = n_bytes
                elif not evicted and not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    held = ", ".join(str(each) for each, other in self._slots.items() if other.n_leases)
                    raise Busy(
                        f"{spec} needs room that {held or 'other loads'} hold",
                        hint="try again, or raise memory_budget_mb",
                    )
            self._drop(evicted)
            if fits:
                return

    def _used(self) -> int:
        return sum(slot.n_bytes for slot in self._slots.values())

    def _oldest_idle(self) -> ModelSpec | None:
        return next((spec for spec, slot in self._slots.items() if slot.model is not None and not slot.n_leases), None)

    def _evict_idle(self) -> None:
        with self._changed:
            evicted = []
            while (idle := self._oldest_idle()) is not None:
                evicted.append(self._slots.pop(idle))
        self._drop(evicted)
        give_back_memory(self.device)

    def _drop(self, slots: list[_Slot]) -> None:
        for slot in slots:
            if slot.model is not None:
                slot.model.close()
                slot.model = None
        if slots:
            give_back_memory(self.device)

    def _does_not_fit(self, spec: ModelSpec, n_bytes: int, budget: int, engine: Engine, folder: Path) -> OutOfMemory:
        smaller = []
        for quantization in ("int8", "nf4"):
            estimate = engine.estimate_bytes(replace(spec, quantization=quantization), folder)
            if estimate < n_bytes and estimate <= budget:
                smaller.append(f"{quantization} with about {estimate // _MB} MB")
        fits = f"{spec.name} would fit in {' or '.join(smaller)}" if smaller else "take a smaller model"
        return OutOfMemory(
            f"{spec} needs about {n_bytes // _MB} MB, the memory budget is {budget // _MB} MB "
            f"({available_bytes(self.device) // _MB} MB are free on {self.device})",
            hint=f"{fits}; or raise memory_budget_mb",
        )
