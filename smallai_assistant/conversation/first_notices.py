"""The notices that only the first answer of an assistant carries."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from smallai_assistant.foreign.calls import fault_notice
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.types import Notice


class FirstNotices:
    """A CPU fallback, and plugins that were left out. Thread-safe.

    Args:
        broken_plugins: name -> what is wrong; read at the first answer.
    """

    def __init__(self, broken_plugins: Mapping[str, str], models: ModelRuntime) -> None:
        self._broken_plugins = broken_plugins
        self._models = models
        self._lock = threading.Lock()
        self._is_given = False

    def take(self) -> tuple[Notice, ...]:
        """Returns the notices at the first call, and none afterwards."""
        with self._lock:  # two first answers may be made at the same time
            if self._is_given:
                return ()
            self._is_given = True
        notices = [fault_notice(name, why) for name, why in list(self._broken_plugins.items())]
        if self._models.device_notice is not None:
            notices.append(self._models.device_notice)
        return tuple(notices)
