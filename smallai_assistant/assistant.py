"""The front door: configuration, database, models and plugins as one object."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smallai_assistant.config import AssistantConfig, load_config
from smallai_assistant.conversation.first_notices import FirstNotices
from smallai_assistant.conversation.router import Router
from smallai_assistant.conversation.session import Response, Session
from smallai_assistant.conversation.turn_runner import Conversation, Services
from smallai_assistant.engines.base import ModelSpec
from smallai_assistant.engines.llama_cpp import LlamaCppEngine
from smallai_assistant.engines.sentence_transformers import SentenceTransformersEngine
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.engines.transformers_vision import TransformersVisionEngine
from smallai_assistant.errors import Cancelled, InvalidInput
from smallai_assistant.feedback import DEFAULT_SOURCE, Adapter, Feedback, Receipt
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.cycle_history import CycleHistory
from smallai_assistant.learning.eraser import Erased, Eraser
from smallai_assistant.learning.fast_memory import FastMemory
from smallai_assistant.learning.feedback_service import FeedbackService, LearningStores
from smallai_assistant.learning.learner import CycleOptions, Learner
from smallai_assistant.learning.learning_job import LearningJob
from smallai_assistant.learning.report import CycleReport
from smallai_assistant.learning.schedule import LearningSchedule
from smallai_assistant.learning.serving_adapters import ServingAdapters
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.plugin_manager import CLOSE_TIMEOUT_S, PluginManager
from smallai_assistant.runtime import ModelRuntime, ProgressCallback
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.feedback_transfer import FeedbackTransfer, Transfer
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.turn_store import TurnStore
from smallai_assistant.task import Task, TaskContext
from smallai_assistant.types import Content, new_id
from smallai_assistant.validation import EVERYONE, canonical_audience, canonical_key


class Assistant:
    """An assistant with its data, its models and its plugins. Use it in a `with` block, or close it.

    Args:
        config: the settings; None reads the configuration file and the environment.
        plugins: plugin modules or objects, in addition to the installed plugins.
        on_progress: called while a model loads, with what is going on and the fraction done, in [0, 1].
        overrides: single settings, such as `data_dir=Path("x")`. They override the file and the environment.

    Attributes:
        config: the settings in use.
        store: sessions and turns.
        items: items and interactions, for recommendation.
        feedback: the stored feedback.
        adapters: the versions that were learned, and which of them serves.
        catalog: the models that can be pulled, and those that were.
        models: the models in memory.
        schedule: starts learning cycles by itself; `schedule.status()` says what each task waits for.
        router: chooses the task of a message.
        database: the open database.

    Raises:
        ConfigError: a setting is wrong, or the data directory cannot be written.
        StoreError: the database cannot be opened.
        ValueError: both a config and overrides are given.

    Example:
        >>> with Assistant() as assistant:
        ...     print(assistant.ask("What is the capital of France?").text)
    """

    def __init__(
        self,
        config: AssistantConfig | None = None,
        *,
        plugins: Sequence[object] = (),
        on_progress: ProgressCallback | None = None,
        **overrides: Any,
    ) -> None:
        if config is not None and overrides:  # it would not be clear which of the two counts
            raise ValueError("give a config or single settings, not both")
        # The order matters. Engines come from plugins, the runtime needs the engines, `setup` of a task needs the
        # runtime, and a fast memory can be rebuilt only after its task was set up.
        self.config = config or load_config(**overrides)
        self.database = Database(self.config.data_dir, self.config.database_url)
        self.store = TurnStore(self.database, self.config.data_dir / "media")
        self.items = ItemStore(self.database)
        self.feedback = FeedbackStore(self.database, self.store, audience=self.config.learning.default_audience)
        self._transfer = FeedbackTransfer(self.database, self.config.data_dir / "media")
        self.adapters = AdapterStore(self.database, self.config.data_dir / "adapters")
        self._serving = ServingAdapters(self.adapters)
        self._plugins = PluginManager(disabled=self.config.disabled_plugins, extra=plugins, folder=self.config.data_dir)
        self.catalog = Catalog(self.config.models_dir)
        own = [TransformersEngine(), TransformersVisionEngine(), SentenceTransformersEngine(), LlamaCppEngine()]
        self.models = ModelRuntime(
            self.catalog,
            [*self._plugins.engines.values(), *own],  # theirs first, so that a plugin can replace an engine
            device=self.config.device,
            memory_budget_mb=self.config.memory_budget_mb,
            on_progress=on_progress,
        )
        options = self._plugins.options_of_tasks(self.config.tasks)
        self._plugins.set_up_tasks({name: self._context_of(name, values) for name, values in options.items()})
        stores = LearningStores(self.store, self.feedback, self.adapters, CycleHistory(self.database))
        memory = FastMemory(self._plugins, self.feedback, self._serving)
        self._feedback_service = FeedbackService(self._plugins, stores, memory)
        self._eraser = Eraser(
            self.models, stores=stores, items=self.items, memory=memory, data_dir=self.config.data_dir
        )
        self.feedback.finish_erasure(only_unfinished=True)
        memory.rebuild_all()
        self._learner = Learner(
            self._plugins,
            self.models,
            stores=stores,
            feedback_service=self._feedback_service,
            folder=self.config.data_dir / "learning",
            config=self.config.learning,
        )
        self.schedule = LearningSchedule(self._learner, stores, self._plugins.tasks, self.config.learning)
        embedding = ModelSpec(self.config.models.embedding, task="feature-extraction")
        self.router = Router(self._plugins, self.models, embedding=embedding, threshold=self.config.intent_threshold)
        self._services = Services(
            router=self.router,
            models=self.models,
            turns=self.store,
            options=options,
            reply_to_speech=self.config.reply_to_speech,
            turn_finished=self._plugins.notify_turn_finished,
            first_notices=FirstNotices(self.broken_plugins, self.models).take,
            give_feedback=self._feedback_service.give,
            answer_timeout_s=self.config.answer_timeout_s,
            refresh=memory.refresh,
            notices_of=memory.notices,
            feedback=self.feedback,
            set_aside=self._serving.set_aside,
            audience_of=self.adapters.audience_of,
        )
        self._is_closed = False
        self.schedule.start()  # last: a cycle uses all of the above

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Task name -> task."""
        return MappingProxyType(self._plugins.tasks)

    @property
    def plugins(self) -> Mapping[str, str]:
        """Name -> version of the plugins in use."""
        return MappingProxyType(self._plugins.loaded)

    @property
    def broken_plugins(self) -> Mapping[str, str]:
        """Name -> what is wrong, of plugins and tasks that failed."""
        return MappingProxyType(self._plugins.broken)

    def session(
        self, user_id: str | None = None, *, session_id: str | None = None, groups: Sequence[str] = ()
    ) -> Session:
        """Opens a conversation, or resumes an earlier one.

        Args:
            user_id: whose conversation it is. What this user teaches stays with this user unless the feedback names
                another audience; recommendations and the weight of feedback depend on it, too.
            session_id: the id of the conversation to resume; None opens a new one.
            groups: the groups that the user belongs to. Feedback for a group reaches its members.

        Raises:
            InvalidInput: there is no such session, it belongs to another user, or the user's id is blank or longer than
                512 characters.
        """
        if user_id is not None:
            user_id = canonical_key("user_id", user_id)
        groups = tuple(canonical_key("group", name) for name in groups)
        if session_id is None:
            return Session(self._services, Conversation(new_id(), user_id, [], groups))
        owner = self.store.user_of_session(session_id)
        if user_id is not None and user_id != owner:
            raise InvalidInput(f"the session {session_id!r} belongs to another user", hint="open a new session")
        # As in the running session: a turn that failed is not part of the history, a turn that was cut short is.
        history = [turn for turn in self.store.turns(session_id) if turn.error in (None, Cancelled.code)]
        return Session(self._services, Conversation(session_id, owner, history, groups))

    def ask(
        self,
        content: Content,
        *,
        task: str | None = None,
        options: Mapping[str, Any] | None = None,
        user_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Asks one question in a new session. The arguments and errors are those of `Session.send`."""
        return self.session(user_id).send(content, task=task, options=options, timeout_s=timeout_s)

    def give_feedback(self, feedback: Feedback) -> Receipt:
        """Stores feedback and lets the next turn take it into account. Returns after it is on disk.

        Raises:
            InvalidInput: there is no such turn.
            StoreError: it could not be stored.
        """
        return self._feedback_service.give(feedback)

    def teach(
        self, task: str, content: Content, label: str, *, source: str = DEFAULT_SOURCE, audience: str | None = None
    ) -> Receipt:
        """Teaches an example that nobody asked before, such as a picture and what it shows.

        It stores a turn with the content, and a correction of it.

        Args:
            label: the right answer.
            source: who teaches it; see `Feedback`.
            audience: whom it reaches: `everyone` unless it is named; `user` is who teaches it.

        Raises:
            InvalidInput: the task does not exist, does not learn, or does not take such content; or the label is empty.
            StoreError: it could not be stored.
        """
        return self._feedback_service.teach(task, content, label, source=source, audience=audience)

    def undo_feedback(self, feedback_id: str) -> Receipt:
        """Takes feedback back. It stays in the log, and the task no longer learns from it.

        Raises:
            InvalidInput: there is no such feedback.
        """
        return self._feedback_service.undo(feedback_id)

    def erase_feedback(self, ids: Sequence[str]) -> Erased:
        """Deletes feedback permanently; a taught example goes with the last feedback on it, its picture too.

        When the call has returned, no process uses what was erased for an answer that begins, no file of the data
        directory holds it, and no rollback brings it back: the adapters that learned from it are deleted, too.

        Returns:
            What was erased, the adapters that went with it, and what serves instead.

        Raises:
            InvalidInput: there is no such feedback; nothing was erased.
        """
        return self._erase(feedback_ids=ids)

    def erase_turns(self, ids: Sequence[str]) -> Erased:
        """Deletes turns permanently, with all feedback on them; see `erase_feedback`.

        A picture or a recording goes with the last turn that has it.

        Raises:
            InvalidInput: there is no such turn; nothing was erased.
        """
        return self._erase(turn_ids=ids)

    def erase_session(self, session_id: str) -> Erased:
        """Deletes the turns of a conversation permanently, and whose it was; see `erase_turns` and its errors."""
        self.store.flush()
        return self._erase(turn_ids=self.store.forget_session(session_id), session_id=session_id)

    def forget_user(self, user_id: str) -> Erased:
        """Deletes everything of a user permanently: turns, media, feedback, interactions, and what learned from them.

        See `erase_feedback`. A user who is not known leaves nothing to delete.
        """
        erased = self._eraser.forget_user(canonical_key("user_id", user_id))
        self._learner.drop_checkpoints()
        return erased

    def _erase(self, *, feedback_ids: Sequence[str] = (), turn_ids: Sequence[str] = (), session_id: str = "") -> Erased:
        erased = self._eraser.erase(feedback_ids, turn_ids=turn_ids, session_id=session_id)
        # A checkpoint may hold weights that were trained on what was erased, and nobody can tell which.
        self._learner.drop_checkpoints()
        return erased

    def export_feedback(self, path: Path, *, task: str | None = None) -> Transfer:
        """Writes feedback, the judged turns, and their pictures and recordings to one JSONL file.

        Args:
            task: only the feedback of this task; None writes all.

        Raises:
            StoreError: the file could not be written.
        """
        return self._transfer.export_to(path, task=task)

    def import_feedback(self, path: Path) -> Transfer:
        """Stores what `export_feedback` wrote, without the feedback that is already stored.

        Everything is stored or nothing. The next turn takes the new feedback into account.

        Raises:
            InvalidInput: a line is malformed. The message names the line, and nothing was stored.
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
        """Runs a learning cycle: trains an adapter, evaluates it, and lets it serve if the gate approves.

        Args:
            options: the time budget, trusted sources, and whether to promote; None takes the defaults.
            cancel: set it to stop the cycle. The next cycle continues from the last checkpoint.
            on_progress: called with what is going on and the fraction done, in [0, 1].

        Returns:
            The report: the figures before and after, the decision of the gate, and its reasons.

        Raises:
            InvalidInput: the task does not exist or does not learn.
            NotEnoughData: there is too little feedback to train on or to evaluate with.
            EvalContaminated: an example to train on is also asked in the evaluation.
            TrainingFailed: the loss became NaN, or the new adapter did not answer and was rolled back.
            Cancelled: `cancel` was set.
            Busy: another cycle is running.
        """
        return self._learner.learn(task, options, cancel=cancel, on_progress=on_progress)

    def learn_in_background(self, task: str, options: CycleOptions | None = None) -> LearningJob:
        """Runs `learn` on another thread, which waits between steps while answers are made."""
        return LearningJob(self._learner, task, options or CycleOptions())

    def promote(self, adapter_id: str, *, force: bool = False) -> Adapter:
        """Lets an adapter serve from the next answer on.

        Args:
            force: promote it although the gate refused it. The log of promotions says so.

        Raises:
            GateRejected: the gate did not approve it.
            IntegrityError: one of its files is missing or was changed.
            TrainingFailed: it did not answer and was rolled back.
        """
        return self._learner.promote(adapter_id, force=force)

    def rollback(self, task: str, *, to: str | None = None, audience: str = EVERYONE) -> Adapter | None:
        """Lets an earlier version serve again.

        Args:
            to: the id of a version, `none` for no version; None takes the version before the current one.
            audience: whose version: `everyone`, `user:ID` or `group:NAME`.

        Returns:
            The adapter that serves now; None for the bare base, or what serves everyone.

        Raises:
            InvalidInput: there is no such version, or nothing to roll back.
            GateRejected: the version never served, and the gate did not approve it.
            IntegrityError: one of its files is missing or was changed.
        """
        return self._learner.rollback(task, to=to, audience=canonical_audience(audience))

    def close(self) -> None:
        """Stops a background cycle, commits queued turns, and closes tasks, models and database. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        # The reverse of the order in `__init__`: each part may use the parts that are closed after it.
        self.schedule.close()
        self._learner.close()
        self.store.close()
        self._plugins.close()  # observers are told of the last turns while everything they may ask is open
        for name, task in self._plugins.tasks.items():
            with self._plugins.containing(name):
                self._plugins.call_task(name, "close", task.close, timeout_s=CLOSE_TIMEOUT_S)
        self.models.close()
        self.database.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _context_of(self, name: str, options: Any) -> TaskContext:
        return TaskContext(
            options=options,
            models=self.models,
            model_names=self.config.models,
            items=self.items,
            data_dir=self.config.data_dir / "tasks" / name,
            adapters=self._serving,
            min_people=self.config.learning.min_people,
            titles=lambda: {name: task.title for name, task in self._plugins.tasks.items()},
        )
