"""Several LoRA adapters on one base: each stream computes with its own, whatever the others use.

Everything that touches the weights runs on the model's thread. An adapter is loaded beside the others under its own
name, and dropped when it no longer serves and the last stream that began with it has ended: weights are never
overwritten in place and never merged into quantized ones.
"""

from __future__ import annotations

import threading
from typing import Any

from smallai_assistant.errors import AdapterMismatch
from smallai_assistant.feedback import Adapter


class LoraAdapters:
    """The adapters of one loaded model.

    Args:
        module: a transformers model; no other code may load or choose adapters on it.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._n_streams: dict[str, int] = {}
        self._retired: set[str] = set()
        self._loaded: set[str] = set()
        self._active: str | None = None

    def begin(self, adapter: Adapter) -> None:
        """A stream starts to use the adapter; from any thread."""
        with self._lock:
            self._retired.discard(adapter.id)
            self._n_streams[adapter.id] = self._n_streams.get(adapter.id, 0) + 1

    def retire(self, adapter_id: str) -> None:
        """The adapter no longer serves new answers; from any thread. `drop_unused` then drops it."""
        with self._lock:
            self._retired.add(adapter_id)

    def end(self, adapter: Adapter) -> None:
        """A stream has ended."""
        with self._lock:
            self._n_streams[adapter.id] -= 1

    def activate(self, adapter: Adapter | None) -> None:
        """Makes the next forward use the adapter, or the bare base; on the model's thread only.

        Raises:
            AdapterMismatch: its weights do not fit the model.
        """
        wanted = adapter.id if adapter is not None else None
        if wanted == self._active:
            return
        if adapter is None:
            self._module.disable_adapters()
        else:
            if adapter.id not in self._loaded:
                self._load(adapter)
            elif self._active is None:
                self._module.enable_adapters()
            self._module.set_adapter(adapter.id)
        self._active = wanted

    def drop_unused(self) -> list[str]:
        """Drops the retired adapters without streams; on the model's thread only. Returns their ids."""
        with self._lock:
            gone = [each for each in self._retired & self._loaded if not self._n_streams.get(each)]
        for adapter_id in gone:
            self._module.delete_adapter(adapter_id)
            self._loaded.discard(adapter_id)
            if self._active == adapter_id:
                self._active = None
        if gone and self._loaded and self._active is None:
            self._module.disable_adapters()
        with self._lock:
            self._retired -= set(gone)
        return gone

    def _load(self, adapter: Adapter) -> None:
        try:
            info = self._module.load_adapter(str(adapter.folder), adapter_name=adapter.id, local_files_only=True)
        except Exception as error:  # peft and torch raise of many kinds where shapes or names do not fit
            raise AdapterMismatch(f"{adapter.id} does not fit the model: {error}") from error
        for name in ("missing_keys", "unexpected_keys"):
            if wrong := sorted(getattr(info, name, None) or ()):
                self._module.delete_adapter(adapter.id)
                raise AdapterMismatch(f"{adapter.id} does not fit the model: {name.replace('_', ' ')} {wrong[:2]}")
        self._loaded.add(adapter.id)
        self._module.requires_grad_(False)
        self._module.enable_adapters()
