"""Loads models, lends them to tasks, and evicts idle ones to stay within the memory budget."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from smallai_assistant.engines import device as devices
from smallai_assistant.engines.base import Engine, LoadedModel, ModelSpec
from smallai_assistant.engines.leases import Leases
from smallai_assistant.errors import AssistantError, Busy, ModelError, ModelInvalid, OutOfMemory
from smallai_assistant.models.boundary import is_out_of_memory, model_errors
from smallai_assistant.models.integrity import ModelFiles as ModelFiles
from smallai_assistant.types import Notice

M = TypeVar("M", bound=LoadedModel)
ProgressCallback = Callable[[str, float], None]

_MB = 2**20
_BUDGET_SHARE = 0.6  # of the device's memory; the rest is for activations, caches and the application itself
_LEASE_PATIENCE_S = 60.0  # long answers of other tasks end within it
_POLITE_S = 30.0  # training continues beside an answer that takes longer, or it would never end
_IDLE_POLL_S = 0.02  # far below the time of a training step, so polling costs no speed


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A model in memory.

    Args:
        n_bytes: its measured size.
        n_leases: how many leases use it now.
    """

    spec: ModelSpec
    device: str
    n_bytes: int
    n_leases: int


@dataclass(slots=True)
class _Slot:
    """The place of one model in the budget. While the model is loading, `model` is None and `n_bytes` an estimate."""

    n_bytes: int
    model: LoadedModel | None = None
    n_leases: int = 0

    @property
    def n_total(self) -> int:
        return self.n_bytes + (self.model.extra_bytes if self.model is not None else 0)  # such as adapters


class ModelRuntime:
    """Keeps loaded models within a memory budget and lends them out. All methods are safe to call from any thread.

    Args:
        files: turns model names into folders.
        engines: asked in this order whether they can load a model's files.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory_budget_mb: the maximum size of all loaded models together, in units of 2**20 bytes; 0 is 60 % of the
            device's memory.
        on_progress: called while a model loads, with what is going on and the fraction done, in [0, 1].
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
        devices.limit_spinning()
        self._files = files
        self._engines = list(engines)
        self._wanted_device = device
        self._memory_budget_mb = memory_budget_mb
        self._on_progress = on_progress or (lambda *_: None)
        self.leases = Leases()  # public, so that those of a thread that hangs can be ended
        # It guards everything below, and is notified when a lease ends or a load finishes. It is never held while a
        # model loads or closes, because both take seconds.
        self._changed = threading.Condition()
        self._slots: OrderedDict[ModelSpec, _Slot] = OrderedDict()  # the least recently used first
        self._device: tuple[str, Notice | None] | None = None  # chosen at the first use, because it imports torch
        self._n_answers = 0
        self._is_closed = False

    @property
    def device(self) -> str:
        """The torch device string that models load on."""
        with self._changed:
            if self._device is None:
                self._device = devices.choose_device(self._wanted_device)
            return self._device[0]

    @property
    def device_notice(self) -> Notice | None:
        """A notice if the device is `auto` and no CUDA device was found, else None."""
        return self._device[1] if self.device and self._device else None

    @property
    def budget_bytes(self) -> int:
        """The maximum of the measured bytes of all loaded models together."""
        if self._memory_budget_mb:
            return self._memory_budget_mb * _MB
        return int(_BUDGET_SHARE * devices.total_bytes(self.device))

    @contextmanager
    def lease(self, spec: ModelSpec, kind: type[M], *, timeout_s: float = _LEASE_PATIENCE_S) -> Iterator[M]:
        """Lends the model for a `with` block, and loads it first if needed. It is not evicted while it is lent.

        Args:
            kind: the class that the caller needs, such as `TextModel`.
            timeout_s: how long to wait for memory that other leases hold.

        Raises:
            ModelNotFound: the model was not pulled.
            ModelInvalid: its files cannot be used.
            IntegrityError: a file is not the one that was recorded, or that this process used before.
            OutOfMemory: it does not fit. The message says what it needs and what there is, the hint what would fit.
            Busy: other leases held the memory too long.
            ModelError: the model is not of `kind`, or the assistant is closed.
        """
        resolved = replace(spec, name=self._files.name_for(spec.name, spec.task))
        model = self._acquire(resolved, timeout_s)
        lease = self.leases.begin(lambda: self._release(resolved))
        try:
            if not isinstance(model, kind):
                raise ModelError(
                    f"{resolved} was loaded as {type(model).__name__}, the task needs {kind.__name__}",
                    hint="name a model of the right kind in the configuration",
                )
            yield model
        finally:
            lease.end()

    def loaded(self) -> list[LoadedInfo]:
        """The models in memory, least recently used first."""
        with self._changed:
            here = [(spec, slot, slot.model) for spec, slot in self._slots.items() if slot.model is not None]
            return [LoadedInfo(spec, model.device, slot.n_total, slot.n_leases) for spec, slot, model in here]

    def wait_until_idle(self, *, cancel: threading.Event | None = None, patience_s: float = _POLITE_S) -> bool:
        """Waits while answers are being made, at most `patience_s`. Returns whether no answer is being made."""
        deadline = time.monotonic() + patience_s
        while self._n_answers > 0 and not (cancel is not None and cancel.is_set()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_IDLE_POLL_S)
        return self._n_answers == 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Marks a block in which an answer is made. Background work waits for its end."""
        with self._changed:
            self._n_answers += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_answers -= 1

    def base_of(self, spec: ModelSpec) -> dict[str, str]:
        """What an adapter on this model depends on, for `LearningTask.base`.

        Returns:
            The model's name, revision, quantization, and the hashes of its weights and tokenizer, as JSON values. The
            files are hashed once, and each load compares them with these hashes.

        Raises:
            ModelNotFound: the model was not pulled.
        """
        name = self._files.name_for(spec.name, spec.task)
        found = self._files.fingerprint(name, task=spec.task, revision=spec.revision)
        return {"model": name, "quantization": spec.quantization, **found}

    def folder_of(self, spec: ModelSpec) -> Path:
        """The folder of the model's files, checked and compared with their hashes. Training loads its copy from it.

        Raises:
            ModelNotFound: the model was not pulled.
            IntegrityError: a file is not the one that was recorded, or that this process used before.
        """
        name = self._files.name_for(spec.name, spec.task)
        with model_errors(str(spec)):
            folder = self._files.resolve(name, task=spec.task, revision=spec.revision)
        self._files.end_check(self._files.begin_check(name, task=spec.task, revision=spec.revision))
        return folder

    def retire_adapter(self, adapter_id: str) -> None:
        """Tells every loaded model that an adapter no longer serves new answers."""
        with self._changed:  # only for the list: a model may finish a step before it answers
            models = [slot.model for slot in self._slots.values() if slot.model is not None]
        for model in models:
            model.retire_adapter(adapter_id)

    def unload(self, spec: ModelSpec) -> bool:
        """Drops a model. Returns False if it was not loaded, or is lent."""
        resolved = replace(spec, name=self._files.name_for(spec.name, spec.task))
        with self._changed:
            slot = self._slots.get(resolved)
            if slot is None or slot.model is None or slot.n_leases:
                return False
            del self._slots[resolved]
        self._drop([slot])
        return True

    def close(self) -> None:
        """Drops all models. Streams that still run end with Cancelled."""
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
                self._changed.wait()  # another thread loads it; a load always ends and notifies
            # The slot is claimed while the lock is held, so no other thread loads the same model.
            slot = self._slots[spec] = _Slot(n_bytes=0)
        try:
            slot_model = self._load(spec, slot, deadline)
        except BaseException:
            with self._changed:
                self._slots.pop(spec, None)
                self._changed.notify_all()
            raise
        with self._changed:
            closed = self._is_closed
            if closed:
                self._slots.pop(spec, None)
            else:
                slot.model = slot_model
                slot_model.on_growth = self._make_room_beside
                slot.n_leases = 1
            self._changed.notify_all()
        if closed:  # the assistant was closed during the load
            slot_model.close()
            raise ModelError("the assistant is closed")
        return slot_model

    def _release(self, spec: ModelSpec) -> None:
        with self._changed:
            slot = self._slots.get(spec)
            if slot is not None and slot.n_leases:  # `close` may have dropped the slot meanwhile
                slot.n_leases -= 1
                self._changed.notify_all()

    def _load(self, spec: ModelSpec, slot: _Slot, deadline: float) -> LoadedModel:
        # The boundary of the stage: files of strangers can make any engine or library raise anything.
        with model_errors(str(spec)):
            folder = self._files.resolve(spec.name, task=spec.task, revision=spec.revision)
            engine = self._engine_for(spec, folder)
            estimate = engine.estimate_bytes(spec, folder)
        self._make_room(spec, slot, estimate, deadline, engine=engine, folder=folder)
        try:
            model = self._load_once(engine, spec, folder)
        except OutOfMemory:
            # The budget counts weights only; something else on the device took the rest. Try once with all there is.
            self._evict_idle()
            model = self._load_once(engine, spec, folder)
        # The measured size may be above the estimate, so room is made a second time.
        try:
            self._make_room(spec, slot, model.n_bytes, deadline, engine=engine, folder=folder)
        except BaseException:
            model.close()
            devices.give_back_memory(self.device)
            raise
        return model

    def _load_once(self, engine: Engine, spec: ModelSpec, folder: Path) -> LoadedModel:
        self._on_progress(f"loading {spec}", 0.0)
        check = self._files.begin_check(spec.name, task=spec.task, revision=spec.revision, unread=engine.unread)
        model = None
        try:
            with model_errors(str(spec), hint="verify it, or pull it again"):
                model = engine.load(spec, folder, device=self.device, progress=self._on_progress)
            self._files.end_check(check)
        except BaseException as error:
            if model is not None:
                model.close()
            devices.give_back_memory(self.device)
            if isinstance(error, ModelInvalid):
                self._files.end_check(check)  # a damaged file explains more than what the loader said about it
            check.abandon()
            if isinstance(error, KeyboardInterrupt | AssistantError) or not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"the device {self.device} has no memory for {spec}", hint="close other programs or use a smaller model"
            ) from error
        self._on_progress(f"loading {spec}", 1.0)
        return model

    def _engine_for(self, spec: ModelSpec, folder: Path) -> Engine:
        kind = self.device.partition(":")[0]
        for engine in self._engines:
            if spec.engine in (None, engine.name) and kind in engine.devices and engine.can_load(spec, folder):
                return engine
        wanted = f"the engine {spec.engine} cannot" if spec.engine else "no engine can"
        names = ", ".join(f"{engine.name} ({', '.join(engine.devices)})" for engine in self._engines)
        raise ModelInvalid(f"{wanted} load {spec} for {spec.task} on {self.device}", hint=f"engines: {names}")

    def _make_room(
        self, spec: ModelSpec, slot: _Slot, n_bytes: int, deadline: float, *, engine: Engine, folder: Path
    ) -> None:
        """Evicts idle models, the least recently used first, until `n_bytes` fit. Waits for leases that hold memory.

        On return the slot has claimed the bytes.
        """
        budget = self.budget_bytes
        if n_bytes > budget:
            raise self._does_not_fit(spec, n_bytes, budget, engine, folder)
        with self._changed:
            slot.n_bytes = 0  # the slot's own earlier claim does not count against it
            is_full = self._used() + n_bytes > budget
            models = [other.model for other in self._slots.values() if is_full and other.model is not None]
        for model in models:
            model.drop_extras()
        while True:
            with self._changed:
                evicted = self._evicted_for(n_bytes)
                fits = self._used() + n_bytes <= budget
                if fits:
                    slot.n_bytes = n_bytes
                # After an eviction the loop tries again at once; otherwise only the end of a lease can help.
                elif not evicted and not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    held = ", ".join(str(lent) for lent, other in self._slots.items() if other.n_leases)
                    raise Busy(
                        f"{spec} needs memory that {held or 'other loads'} hold",
                        hint="try again, or raise memory_budget_mb",
                    )
            self._drop(evicted)
            if fits:
                return

    def _make_room_beside(self, n_bytes: int) -> None:
        """Evicts idle models, so that a loaded one may grow; called on its thread."""
        with self._changed:
            evicted = self._evicted_for(n_bytes)
        self._drop(evicted)

    def _evicted_for(self, n_bytes: int) -> list[_Slot]:
        """Takes out idle models, the least recently used first, until as many bytes fit or none is left."""
        evicted = []
        while self._used() + n_bytes > self.budget_bytes and (idle := self._oldest_idle()) is not None:
            evicted.append(self._slots.pop(idle))
        return evicted

    def _used(self) -> int:
        return sum(slot.n_total for slot in self._slots.values())

    def _oldest_idle(self) -> ModelSpec | None:
        return next((spec for spec, slot in self._slots.items() if slot.model is not None and not slot.n_leases), None)

    def _evict_idle(self) -> None:
        with self._changed:
            evicted = self._evicted_for(self.budget_bytes + 1)  # which never fits: all of them
        self._drop(evicted)
        devices.give_back_memory(self.device)

    def _drop(self, slots: list[_Slot]) -> None:
        for slot in slots:
            if slot.model is not None:
                slot.model.close()
                slot.model = None
        if slots:
            devices.give_back_memory(self.device)

    def _does_not_fit(self, spec: ModelSpec, n_bytes: int, budget: int, engine: Engine, folder: Path) -> OutOfMemory:
        smaller = []
        for quantization in ("int8", "nf4"):
            estimate = engine.estimate_bytes(replace(spec, quantization=quantization), folder)
            if estimate < n_bytes and estimate <= budget:
                smaller.append(f"{quantization} with about {estimate // _MB} MB")
        fits = f"{spec.name} would fit in {' or '.join(smaller)}" if smaller else "use a smaller model"
        return OutOfMemory(
            f"{spec} needs about {n_bytes // _MB} MB, the memory budget is {budget // _MB} MB "
            f"({devices.available_bytes(self.device) // _MB} MB are free on {self.device})",
            hint=f"{fits}; or raise memory_budget_mb",
        )
