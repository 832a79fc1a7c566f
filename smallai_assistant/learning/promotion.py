"""Moving the champion while answers are made: promote, try, take back where it does not answer, roll back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from smallai_assistant.config import nearest
from smallai_assistant.errors import AssistantError, InvalidInput, TrainingFailed
from smallai_assistant.feedback import Adapter
from smallai_assistant.learning.adapter_store import AdapterStore, check_base
from smallai_assistant.learning.feedback_service import FeedbackService
from smallai_assistant.learning.preparation import base_of
from smallai_assistant.learning.report import did_not_answer
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import LearningTask
from smallai_assistant.types import Message, Request

log = logging.getLogger(__name__)

_MAX_PROBES = 3  # of which the first that can be used decides
_PROBE_PARTS = 4
_PROBE_PATIENCE_S = 120.0  # a large model may have to be loaded first


class Promoter:
    """Moves the champion of a task. Answers that run end on the version they began with, new ones take the new one."""

    def __init__(
        self, plugins: PluginManager, models: ModelRuntime, *, adapters: AdapterStore, feedback_service: FeedbackService
    ) -> None:
        self._plugins = plugins
        self._models = models
        self._adapters = adapters
        self._feedback_service = feedback_service

    def task(self, name: str) -> LearningTask:
        """The task of that name.

        Raises:
            InvalidInput: there is none, or it does not learn.
        """
        task = self._plugins.tasks.get(name)
        if task is None:
            raise InvalidInput(f"there is no task {name!r}", hint=nearest(name, self._plugins.tasks))
        if not isinstance(task, LearningTask):
            raise InvalidInput(f"the task {name!r} does not learn")
        return task

    def promote(
        self, adapter: Adapter, probes: Sequence[Message], *, reason: str = "promoted by hand", force: bool = False
    ) -> None:
        """Makes an adapter the champion and asks it the first probes; where it does not answer, it is taken back.

        Raises:
            GateRejected: the gate did not approve it and `force` is not set.
            AdapterMismatch: it was made for another base than the task has now.
            IntegrityError: a file of it is missing or changed.
            TrainingFailed: it did not answer; the one before serves again.
        """
        task = self.task(adapter.task)
        check_base(adapter, base_of(task))
        previous = self._adapters.promote(adapter.id, reason=reason, force=force)
        try:
            any(self._answers(task, message) for message in probes[:_MAX_PROBES])
        except AssistantError as error:
            self._take_back(adapter, previous, error)
        if previous is not None and previous.id != adapter.id:
            self._models.retire_adapter(previous.id)
        self._feedback_service.rebuild(task.name)
        self._plugins.notify_adapter_promoted(adapter, previous)

    def rollback(self, name: str, *, to: str | None = None) -> Adapter | None:
        """Lets an earlier version serve; see `AdapterStore.rollback`. Returns it, None for the bare base."""
        before = self._adapters.champion_id(name)
        now = self._adapters.rollback(name, to=to)
        self._dropped(name, before if now is None or now.id != before else None)
        self._plugins.notify_adapter_promoted(now, self._known(before))
        return now

    def _take_back(self, adapter: Adapter, previous: Adapter | None, error: AssistantError) -> None:
        why = f"it did not answer: {error.message}"
        self._adapters.judge(adapter.id, "refused", did_not_answer(adapter.report, error.message))
        is_same = previous is not None and previous.id == adapter.id
        to = self._adapters.previous_id(adapter.task) if is_same else previous.id if previous is not None else None
        now = self._adapters.rollback(adapter.task, to=to or "none", reason=why)
        self._dropped(adapter.task, adapter.id)
        raise TrainingFailed(
            f"the adapter {adapter.id} did not answer; {now.id if now else 'the bare base'} serves again: "
            f"{error.message}"
        ) from error

    def _dropped(self, name: str, adapter_id: str | None) -> None:
        if adapter_id is not None:
            self._models.retire_adapter(adapter_id)
        self._feedback_service.rebuild(name)

    def _answers(self, task: LearningTask, message: Message) -> bool:
        """Asks for the beginning of a real answer, which is not stored.

        Returns False where the message cannot be used, such as one whose picture is gone: that says nothing of the
        adapter.
        """
        request = Request(message, (), task.context.options, session_id="probe", cancel=threading.Event())
        errors: list[BaseException] = []

        def answer() -> None:
            stream: Any = None
            try:
                stream = task.run(request, self._models)
                for n, _ in enumerate(stream, 1):
                    if n >= _PROBE_PARTS:
                        break
            except BaseException as error:
                errors.append(error)
            finally:
                close = getattr(stream, "close", None)
                if close is not None:
                    close()

        thread = threading.Thread(target=answer, name="probe", daemon=True)
        thread.start()
        thread.join(_PROBE_PATIENCE_S)
        request.cancel.set()
        if thread.is_alive():
            raise TrainingFailed(f"no answer within {_PROBE_PATIENCE_S:.0f} seconds")
        for error in errors:
            if isinstance(error, InvalidInput):
                log.info("a probe of %s cannot be used: %s", task.name, error)
                return False
            if isinstance(error, AssistantError):
                raise error
            raise TrainingFailed(f"{type(error).__name__}: {error}") from error
        return True

    def _known(self, adapter_id: str | None) -> Adapter | None:
        try:
            return None if adapter_id is None else self._adapters.get(adapter_id)
        except AssistantError:  # a damaged one may be left behind
            return None
