"""Moving the champion while answers are made: promote, try it, take it back if it does not answer, roll back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from smallai_assistant.errors import AssistantError, InvalidInput, TrainingFailed
from smallai_assistant.feedback import Adapter
from smallai_assistant.learning.adapter_files import check_base
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.feedback_service import FeedbackService
from smallai_assistant.learning.preparation import base_of
from smallai_assistant.learning.report import did_not_answer
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.runtime import ModelRuntime
from smallai_assistant.task import LearningTask
from smallai_assistant.types import Message, Request
from smallai_assistant.validation import EVERYONE, member_of

log = logging.getLogger(__name__)

# The first probe that can be used decides; the others are spares for messages whose picture or recording is gone.
_MAX_PROBES = 3
# Parts of the answer to a probe that are read. Weights that do not fit fail at the first token.
_PROBE_PARTS = 4
# A large model may have to be loaded before it answers.
_PROBE_PATIENCE_S = 120.0


class Promoter:
    """Moves the champion of a task.

    Running answers end with the version they began with; new answers take the new version.
    """

    def __init__(
        self, plugins: PluginManager, models: ModelRuntime, *, adapters: AdapterStore, feedback_service: FeedbackService
    ) -> None:
        self._plugins = plugins
        self._models = models
        self._adapters = adapters
        self._feedback_service = feedback_service

    def promote(
        self, adapter: Adapter, probes: Sequence[Message], *, reason: str = "promoted by hand", force: bool = False
    ) -> None:
        """Makes an adapter the champion and lets it answer a probe; if it does not answer, it is taken back.

        Args:
            probes: real messages of the task; only their answers' first parts are made, and nothing is stored.

        Raises:
            GateRejected: the gate did not approve it and `force` is not set.
            AdapterMismatch: it was made for another base than the task has now.
            IntegrityError: one of its files is missing or has changed.
            TrainingFailed: it did not answer; the one before serves again.
        """
        task = self._feedback_service.learning_task(adapter.task)
        check_base(adapter, base_of(task))
        previous = self._adapters.promote(adapter.id, reason=reason, force=force)
        try:
            any(self._answers(task, message, adapter.audience) for message in probes[:_MAX_PROBES])
        except AssistantError as error:
            self._take_back(adapter, previous, error)
        if previous is not None and previous.id != adapter.id:
            self._models.retire_adapter(previous.id)
        # The new champion answers other rows by itself than the previous one did.
        self._feedback_service.rebuild(task.name)
        self._plugins.notify_adapter_promoted(adapter, previous)

    def rollback(self, name: str, *, to: str | None = None, audience: str = EVERYONE) -> Adapter | None:
        """Lets an earlier version serve; see `AdapterStore.rollback`. Returns it; None if none serves the audience."""
        before = self._adapters.champion_id(name, audience)
        now = self._adapters.rollback(name, to=to, audience=audience)
        self._retire(name, before if now is None or now.id != before else None)
        self._plugins.notify_adapter_promoted(now, self._known(before))
        return now

    def _take_back(self, adapter: Adapter, previous: Adapter | None, error: AssistantError) -> None:
        """Refuses an adapter that did not answer, and lets the version before it serve.

        Raises:
            TrainingFailed: always; it names what serves now.
        """
        why = f"it did not answer: {error.message}"
        self._adapters.judge(adapter.id, "refused", did_not_answer(adapter.report, error.message))
        if previous is not None and previous.id == adapter.id:
            # It served before it was promoted again, so "the one before" is further back.
            to = self._adapters.previous_id(adapter.task, adapter.audience)
        else:
            to = previous.id if previous is not None else None
        now = self._adapters.rollback(adapter.task, to=to or "none", reason=why, audience=adapter.audience)
        self._retire(adapter.task, adapter.id)
        raise TrainingFailed(
            f"the adapter {adapter.id} did not answer; {now.id if now else _below(adapter)} serves again: "
            f"{error.message}"
        ) from error

    def _retire(self, name: str, adapter_id: str | None) -> None:
        """Drops an adapter from the loaded models and rebuilds the fast memory, which takes over what it knew."""
        if adapter_id is not None:
            self._models.retire_adapter(adapter_id)
        self._feedback_service.rebuild(name)

    def _answers(self, task: LearningTask, message: Message, audience: str) -> bool:
        """Lets the champion begin a real answer to somebody of its audience.

        Returns:
            False if the message cannot be used, such as one whose picture is gone: that says nothing of the adapter.

        Raises:
            TrainingFailed: it does not answer in time, or it raises an error that is not ours.
            AssistantError: the error that it raises.
        """
        user_id, groups = member_of(audience)
        request = Request(message, (), task.context.options, session_id="probe", user_id=user_id, groups=groups)
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
                # A plugin may return any iterator, also one without `close`.
                close = getattr(stream, "close", None)
                if close is not None:
                    close()

        # A thread can be left behind: a plugin that hangs must not keep the promotion from being taken back.
        thread = threading.Thread(target=answer, name="probe", daemon=True)
        thread.start()
        thread.join(_PROBE_PATIENCE_S)
        request.cancel.set()
        self._models.leases.give_up(thread)
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
        except AssistantError:  # a rollback may leave a damaged version behind
            return None


def _below(adapter: Adapter) -> str:
    return "the bare base" if adapter.audience == EVERYONE else "what serves everyone"
