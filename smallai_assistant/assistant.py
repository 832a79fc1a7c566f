"""The front door: wires configuration, store, models and plugins."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smallai_assistant.config import AssistantConfig, load_config, make_options, nearest
from smallai_assistant.conversation.router import Router
from smallai_assistant.conversation.session import Response, Session
from smallai_assistant.conversation.turn_runner import Services
from smallai_assistant.engines.base import ModelSpec
from smallai_assistant.engines.sentence_transformers import SentenceTransformersEngine
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.engines.transformers_vision import TransformersVisionEngine
from smallai_assistant.errors import Cancelled, ConfigError, InvalidInput
from smallai_assistant.feedback import Adapter, Feedback, Receipt
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.feedback_service import Erased, FeedbackService, ServingAdapters
from smallai_assistant.learning.learner import CycleOptions, Learner, LearningJob
from smallai_assistant.learning.report import CycleReport
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.runtime import ModelRuntime, ProgressCallback
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.feedback_transfer import FeedbackTransfer, Transfer
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.task import Task, TaskContext
from smallai_assistant.types import Content, Notice, check_key, new_id


class Assistant:
    """An assistant with its data, its models and its plugins.

    Args:
        config: the settings; None reads the file and the environment.
        plugins: plugin modules or objects beside the installed ones.
        on_progress: called while a model loads, with what is going on and the fraction done in [0, 1].
        overrides: single settings over `config`'s sources, such as `data_dir=Path("x")`.

    Raises:
        ConfigError: a setting is wrong, or the data directory cannot be written.
        StoreError: the database cannot be opened.

    Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        config: AssistantConfig | None = None,
        *,
        plugins: Sequence[object] = (),
        on_progress: ProgressCallback | None = None,
        **overrides: Any,
    ) -> None:
        if config is not None and overrides:
            raise ValueError("give a config or single settings, not both")
        self.config = config or load_config(**overrides)
        self._database = Database(self.config.data_dir, self.config.database_url)
        self.store = TurnStore(self._database, self.config.data_dir / "media")
        self.items = ItemStore(self._database)
        self.feedback = FeedbackStore(self._database, self.store)
        self._transfer = FeedbackTransfer(self._database, self.config.data_dir / "media")
        self.adapters = AdapterStore(self._database, self.config.data_dir / "adapters")
        self._serving = ServingAdapters(self.adapters)
        self._plugins = PluginManager(disabled=self.config.disabled_plugins, extra=plugins)
        self.catalog = Catalog(self.config.models_dir)
        engines = [
            *self._plugins.engines.values(),
            TransformersEngine(),
            TransformersVisionEngine(),
            SentenceTransformersEngine(),
        ]
        self.models = ModelRuntime(
            self.catalog,
            engines,
            device=self.config.device,
            memory_budget_mb=self.config.memory_budget_mb,
            on_progress=on_progress,
        )
        options = self._task_options()
        self._set_up_tasks(options)
        self._feedback_service = FeedbackService(self._plugins, self.store, self.feedback, self.adapters)
        self._feedback_service.rebuild_all()
        self._learner = Learner(
            self._plugins,
            self.models,
            stores=(self.feedback, self.adapters),
            feedback_service=self._feedback_service,
            folder=self.config.data_dir / "learning",
        )
        self.router = Router(
            self._plugins,
            self.models,
            embedding=ModelSpec(self.config.models.embedding, task="feature-extraction"),
            threshold=self.config.intent_threshold,
        )
        self._first_notices_lock = threading.Lock()
        self._first_notices_given = False
        self._services = Services(
            router=self.router,
            models=self.models,
            turns=self.store,
            options=options,
            reply_to_speech=self.config.reply_to_speech,
            turn_finished=self._plugins.notify_turn_finished,
            first_notices=self._first_notices,
            give_feedback=self._feedback_service.give,
        )
        self._is_closed = False

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return MappingProxyType(self._plugins.tasks)

    @property
    def plugins(self) -> Mapping[str, str]:
        """The plugins in use and their versions."""
        return MappingProxyType(self._plugins.loaded)

    @property
    def broken_plugins(self) -> Mapping[str, str]:
        """The plugins left out, and what is wrong with each."""
        return MappingProxyType(self._plugins.broken)

    @property
    def database(self) -> Database:
        """The open database."""
        return self._database

    def session(self, user_id: str | None = None, *, session_id: str | None = None) -> Session:
        """Opens a conversation, or resumes the one with that id.

        Raises:
            InvalidInput: there is no such session, or the user's id is blank or over 512 characters.
        """
        if user_id is not None:
            check_key("user_id", user_id)
        if session_id is None:
            return Session(self._services, session_id=new_id(), user_id=user_id, history=[])
        owner = self.store.user_of_session(session_id)
        if user_id is not None and user_id != owner:
            raise InvalidInput(f"the session {session_id!r} belongs to another user", hint="open a new session")
        history = [turn for turn in self.store.turns(session_id) if turn.error in (None, Cancelled.code)]
        return Session(self._services, session_id=session_id, user_id=owner, history=history)

    def ask(
        self,
        content: Content,
        *,
        task: str | None = None,
        options: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """A session of one turn; the arguments are those of `Session.send`."""
        return self.session(user_id).send(content, task=task, options=options, timeout_s=timeout_s)

    def give_feedback(self, feedback: Feedback) -> Receipt:
        """Stores a feedback and lets the next turn know; returns once it is on disk.

        Raises:
            InvalidInput: there is no such turn.
            StoreError: it could not be stored.
        """
        return self._feedback_service.give(feedback)

    def teach(self, task: str, content: Content, label: str, *, source: str = "local") -> Receipt:
        """Teaches an example that was never asked, such as a picture and what is on it.

        Raises:
            InvalidInput: the task does not exist, does not learn, or does not take such content.
        """
        return self._feedback_service.teach(task, content, label, source=source)

    def undo_feedback(self, feedback_id: str) -> Receipt:
        """Takes a feedback back: it stays in the log and no longer counts."""
        return self._feedback_service.undo(feedback_id)

    def erase_feedback(self, ids: Sequence[str]) -> Erased:
        """Deletes the content of feedback for good, also from the checkpoints of stopped learning cycles.

        Returns:
            What was erased, and the adapters that learned from it: rebuild or remove them.
        """
        erased = self._feedback_service.erase(ids)
        self._learner.drop_checkpoints()
        return erased

    def export_feedback(self, path: Path, *, task: str | None = None) -> Transfer:
        """Writes feedback, the turns it is about and their pictures and recordings to one JSONL file.

        Raises:
            StoreError: it could not be written.
        """
        return self._transfer.export_to(path, task=task)

    def import_feedback(self, path: Path) -> Transfer:
        """Takes in what `export_feedback` wrote, all or nothing, without what is known already; the next turn knows.

        Raises:
            InvalidInput: a line is malformed; the message names it, and nothing was stored.
        """
        done = self._transfer.import_from(path)
        for task in done.tasks:
            self._feedback_service.rebuild(task)
        return done

    def learn(
        self,
        task: str,
        options: CycleOptions | None = None,
        *,
        cancel: threading.Event | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> CycleReport:
        """Runs a learning cycle: a candidate from the feedback, the gate's word, and the swap where it approves.

        Args:
            cancel: set it to stop; the next cycle goes on from the last checkpoint.
            on_progress: called with what is going on and the fraction done in [0, 1].

        Raises:
            InvalidInput: the task does not exist or does not learn.
            NotEnoughData: there is too little feedback to learn from or to judge by.
            EvalContaminated: something to be trained on is asked in the evaluation.
            TrainingFailed: the loss became NaN, or the new adapter did not answer and was taken back.
            Cancelled: `cancel` was set.
            Busy: another cycle runs.
        """
        return self._learner.learn(task, options, cancel=cancel, on_progress=on_progress)

    def learn_in_background(self, task: str, options: CycleOptions | None = None) -> LearningJob:
        """The same in a thread of its own, which waits between steps while answers are made."""
        return LearningJob(self._learner, task, options or CycleOptions())

    def promote(self, adapter_id: str, *, force: bool = False) -> Adapter:
        """Lets an adapter serve.

        Args:
            force: also one that the gate refused; the registry's log says so.

        Raises:
            GateRejected: the gate did not approve it.
            IntegrityError: a file of it is missing or changed.
            TrainingFailed: it did not answer and was taken back.
        """
        return self._learner.promote(adapter_id, force=force)

    def rollback(self, task: str, *, to: str | None = None) -> Adapter | None:
        """Lets an earlier version serve: `to` is an id, `none` for the bare base, None for the one before.

        Returns:
            What serves now, None for the bare base.
        """
        return self._learner.rollback(task, to=to)

    def close(self) -> None:
        """Stops a cycle in the background, commits what is queued, closes tasks, models and database. Twice is once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._learner.close()
        self.store.close()
        for name, task in self._plugins.tasks.items():
            with self._plugins.containing(name):
                task.close()
        self.models.close()
        self._database.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _task_options(self) -> dict[str, Any]:
        for name in self.config.tasks:
            if name not in self._plugins.tasks and not self._plugins.broken:
                raise ConfigError(f"[tasks.{name}] names no task", hint=nearest(name, self._plugins.tasks))
        options = {}
        for name, task in list(self._plugins.tasks.items()):
            try:
                with self._plugins.containing(name, drop_task=True, but=InvalidInput):
                    options[name] = make_options(task.options_type, self.config.tasks.get(name, {}))
            except InvalidInput as error:
                raise ConfigError(
                    f"[tasks.{name}]: {error.message}", hint=error.hint, suggestion=error.suggestion
                ) from error
        return options

    def _set_up_tasks(self, options: Mapping[str, Any]) -> None:
        for name, task in list(self._plugins.tasks.items()):
            folder = self.config.data_dir / "tasks" / name
            context = TaskContext(
                options=options[name],
                models=self.models,
                model_names=self.config.models,
                items=self.items,
                data_dir=folder,
                adapters=self._serving,
            )
            with self._plugins.containing(name, drop_task=True):
                folder.mkdir(parents=True, exist_ok=True)
                task.setup(context)

    def _first_notices(self) -> tuple[Notice, ...]:
        """What is said once per assistant: a CPU fallback, plugins that were left out."""
        with self._first_notices_lock:
            if self._first_notices_given:
                return ()
            self._first_notices_given = True
        notices = [
            Notice("plugin_skipped", f"The plugin {name} was left out: {why}")
            for name, why in self.broken_plugins.items()
        ]
        if self.models.device_notice is not None:
            notices.append(self.models.device_notice)
        return tuple(notices)
