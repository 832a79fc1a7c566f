"""Finds and loads plugins, and contains their faults. Each assistant has its own manager; nothing is global."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from smallai_assistant import hookspecs
from smallai_assistant.config import make_options
from smallai_assistant.engines.base import Engine
from smallai_assistant.errors import AssistantError, ConfigError, InvalidInput, PluginError, nearest
from smallai_assistant.feedback import Adapter, Feedback
from smallai_assistant.foreign.calls import PluginHangsError, call, described, is_ctrl_c
from smallai_assistant.foreign.imports import IMPORT_TIMEOUT_S, PluginImporter, send_result
from smallai_assistant.foreign.installed import installed_plugins
from smallai_assistant.foreign.observers import Observers
from smallai_assistant.task import API_VERSION, Task, TaskContext
from smallai_assistant.types import Message, Turn

log = logging.getLogger(__name__)
T = TypeVar("T")

_MODALITIES = frozenset({"text", "image", "audio"})
# A person waits for the answer, and choosing looks at one message.
_CHOICE_TIMEOUT_S = 5.0
# Setup runs at every start, and must load nothing heavy; close runs at the end of every command.
SETUP_TIMEOUT_S, CLOSE_TIMEOUT_S = 20.0, 5.0
# Whoever approves may ask a model or a service about every example. Nobody waits for it but the learning cycle.
_APPROVAL_TIMEOUT_S = 600.0


class PluginManager:
    """Loads plugins and calls their hooks. A fault of one plugin does not affect the others.

    Our own plugins are called directly. Everything else is foreign code: it runs on other threads, and a deadline ends
    the wait for it.

    Args:
        disabled: labels of plugins to leave out. They are not even imported.
        extra: plugin modules or objects without an entry point.
        folder: where to keep which plugins can be imported; None tries each of them in a child process first.

    Attributes:
        tasks: task name -> task, in the order of registration.
        engines: engine name -> engine, in the order of registration.
        loaded: label -> version of the plugins in use; the version of an extra plugin is empty.
    """

    def __init__(
        self, *, disabled: Sequence[str] = (), extra: Sequence[object] = (), folder: Path | None = None
    ) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._importer = PluginImporter(folder)
        self._observers = Observers(self._observer_failed)
        self._own: set[str] = set()  # names of our own plugins and of their tasks
        self._without_choice: set[str] = set()  # plugins whose `choose_task` hangs
        self._faulty: set[str] = set()  # plugins whose observers hang or are too slow
        self.tasks: dict[str, Task] = {}
        self.engines: dict[str, Engine] = {}
        self.loaded: dict[str, str] = {}
        self._broken: dict[str, str] = {}
        self._load_installed(disabled)
        for plugin in extra:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            with self.containing(name):
                self._add(name, plugin, "")

    @property
    def broken(self) -> dict[str, str]:
        """Label or task name -> what is wrong with a plugin that was left out, or that failed later."""
        self._observers.check()
        return self._broken

    def options_of_tasks(self, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Makes the options of each task from its table of the configuration.

        Raises:
            ConfigError: there is no such task, or a value is wrong.
        """
        for name in tables:
            # A broken plugin may have brought the task. Its own error is shown instead.
            if name not in self.tasks and not self.broken:
                raise ConfigError(f"[tasks.{name}]: there is no task {name!r}", hint=nearest(name, self.tasks))
        options = {}
        for name, task in list(self.tasks.items()):  # a list, because `containing` may drop a task
            try:
                with self.containing(name, drop_task=True, but=InvalidInput):
                    options[name] = make_options(task.options_type, tables.get(name, {}))
            except InvalidInput as error:
                raise ConfigError(
                    f"[tasks.{name}]: {error.message}", hint=error.hint, suggestion=error.suggestion
                ) from error
        return options

    def set_up_tasks(self, contexts: Mapping[str, TaskContext]) -> None:
        """Gives each task what it may use, and makes its folder. A task that fails is left out."""
        for name, task in list(self.tasks.items()):
            context = contexts[name]
            with self.containing(name, drop_task=True):
                context.data_dir.mkdir(parents=True, exist_ok=True)
                self.call_task(name, "setup", functools.partial(task.setup, context))

    def choose_task(self, message: Message, candidates: Sequence[Task]) -> Task | None:
        """Asks the plugins, the last registered first, and returns the first choice; None if no plugin chooses.

        Raises:
            PluginError: a hook raised or hung, or named a task that is not a candidate.
        """
        # One by one, because an error of pluggy's own call does not say which plugin raised it. pluggy keeps the
        # implementations in the reverse order of calls.
        for implementation in reversed(self._manager.hook.choose_task.get_hookimpls()):
            plugin = str(implementation.plugin_name)
            if plugin in self._without_choice:
                continue
            ask = functools.partial(_call, implementation, message=message, candidates=candidates)
            hint = "name the task yourself, or disable the plugin"
            try:
                name = self._ask(plugin, "choose_task", ask, timeout_s=_CHOICE_TIMEOUT_S, hint=hint)
            except PluginHangsError as error:
                # Each further call would cost the deadline and a thread.
                self._without_choice.add(plugin)
                self._broken[plugin] = f"{error.message}; it is not asked again"
                raise
            if name is None:
                continue
            for task in candidates:
                if task.name == name:
                    return task
            raise PluginError(
                f"plugin {plugin!r}: choose_task returned {name!r}",
                hint=f"it must return None or one of: {', '.join(task.name for task in candidates)}",
            )
        return None

    def notify_turn_finished(self, turn: Turn) -> None:
        """Tells the observers that a turn was stored, each on a thread of its own. Returns at once."""
        self._notify(self._manager.hook.turn_finished, turn=turn)

    def notify_feedback_given(self, feedback: Feedback, turn: Turn) -> None:
        """Tells the observers that feedback was stored."""
        self._notify(self._manager.hook.feedback_given, feedback=feedback, turn=turn)

    def notify_adapter_promoted(self, adapter: Adapter | None, previous: Adapter | None) -> None:
        """Tells the observers that another adapter serves."""
        self._notify(self._manager.hook.adapter_promoted, adapter=adapter, previous=previous)

    def approve_adapter(self, candidate: Adapter, champion: Adapter | None) -> tuple[str, bool] | None:
        """Asks the plugins, the last registered first, whether an adapter may serve.

        Returns:
            The name and the decision of the first plugin that decides, None if none does.

        Raises:
            PluginError: a hook raised or hung, or returned something other than True, False or None.
        """
        for implementation in reversed(self._manager.hook.approve_adapter.get_hookimpls()):
            plugin = str(implementation.plugin_name)
            ask = functools.partial(_call, implementation, candidate=candidate, champion=champion)
            hint = "the champion stays in use; disable the plugin to leave the decision to the gate"
            decision = self._ask(plugin, "approve_adapter", ask, timeout_s=_APPROVAL_TIMEOUT_S, hint=hint)
            if decision is None:
                continue
            if not isinstance(decision, bool):
                raise PluginError(f"plugin {plugin!r}: approve_adapter returned {decision!r}")
            return plugin, decision
        return None

    def call_task(self, name: str, method: str, work: Callable[[], T], *, timeout_s: float = SETUP_TIMEOUT_S) -> T:
        """Calls a method of a task: ours directly, a stranger's with a deadline.

        Raises:
            PluginHangsError: it took longer than `timeout_s`.
            Exception: what it raised.
        """
        return work() if name in self._own else call(work, timeout_s=timeout_s, what=f"{method} of {name}")

    @contextmanager
    def containing(
        self, name: str, *, drop_task: bool = False, but: type[AssistantError] | None = None
    ) -> Iterator[None]:
        """Catches what the block raises and lists it in `broken` as a fault of the plugin or task `name`.

        Args:
            drop_task: also stop offering the task.
            but: errors that are the user's fault and not the plugin's; they are raised.
        """
        try:
            yield
        except BaseException as error:  # plugins call sys.exit, and a panic in Rust code is a BaseException
            if is_ctrl_c(error) or (but is not None and isinstance(error, but)):
                raise
            if drop_task:
                self.drop_task(name)
            self._broken[name] = described(error)
            log.warning("plugin %r is left out: %s", name, self._broken[name])

    def drop_task(self, name: str) -> None:
        """Stops offering a task. Its plugin stays."""
        # Replaced and not changed, because another thread may be looking through it.
        self.tasks = {known: task for known, task in self.tasks.items() if known != name}

    def close(self) -> None:
        """Waits at most two seconds until the observers were told everything. Idempotent."""
        self._observers.close()

    def _load_installed(self, disabled: Sequence[str]) -> None:
        for plugin in installed_plugins():
            label = plugin.label
            if label in disabled or plugin.entry_point.name in disabled:
                continue
            if not plugin.is_own and self._importer.is_inside_import:
                continue
            with self.containing(label):
                if plugin.unusable:
                    raise PluginError(plugin.unusable)
                add = functools.partial(self._add, label, version=plugin.version, is_own=plugin.is_own)
                if plugin.is_own:
                    add(plugin.entry_point.load())
                else:
                    self._importer.load(plugin, add)
                    if fault := self._importer.fault_of(label):
                        self._broken[label] = f"{fault} (of an earlier run)"

    def _add(self, name: str, plugin: object, version: str, *, is_own: bool = False) -> None:
        # Everything is collected and checked first, so that a broken plugin leaves nothing behind.
        collect = functools.partial(_collect, name, plugin, tasks=self.tasks, engines=self.engines)
        if is_own:
            tasks, engines = collect()
        else:
            tasks, engines = call(collect, timeout_s=IMPORT_TIMEOUT_S, what="its registration")
        self._manager.register(plugin, name)
        self.tasks |= tasks
        self.engines |= engines
        self.loaded[name] = version
        if is_own:
            self._own |= {name, *tasks}

    def _ask(self, plugin: str, hook: str, ask: Callable[[], Any], *, timeout_s: float, hint: str) -> Any:
        """Calls a hook that decides, and names the plugin in what goes wrong."""
        try:
            return ask() if plugin in self._own else call(ask, timeout_s=timeout_s, what=hook)
        except PluginHangsError as error:
            raise PluginHangsError(f"plugin {plugin!r}: {error.message}", hint=hint) from error
        except BaseException as error:
            cause = error.__cause__ if isinstance(error, PluginError) and error.__cause__ is not None else error
            if is_ctrl_c(error) or (isinstance(error, AssistantError) and cause is error):
                raise
            raise PluginError(f"plugin {plugin!r}: {hook} raised {described(cause)}", hint=hint) from error

    def _notify(self, hook: Any, **arguments: Any) -> None:
        for implementation in reversed(hook.get_hookimpls()):
            plugin = str(implementation.plugin_name)
            self._observers.tell(plugin, hook.name, functools.partial(_call, implementation, **arguments))

    def _observer_failed(self, plugin: str, why: str) -> None:
        if plugin not in self._faulty:  # once, and not for each event that it drops
            self._faulty.add(plugin)
            log.warning("plugin %r: %s", plugin, why)
            self._importer.keep_fault(plugin, why)
        self._broken[plugin] = why


def try_plugin() -> None:
    """Imports and registers one plugin, and tells the parent process how that went. Runs in a child process."""
    name, value, descriptor = sys.argv[1:]
    try:
        plugin = EntryPoint(name, value, hookspecs.PROJECT).load()
        _collect(name, plugin, tasks={}, engines={})
        error = ""
    except BaseException as raised:
        error = described(raised)
    send_result(int(descriptor), error)


def _collect(
    name: str, plugin: object, *, tasks: dict[str, Task], engines: dict[str, Engine]
) -> tuple[dict[str, Task], dict[str, Engine]]:
    """Lets a plugin register its tasks and engines, and checks them.

    Args:
        tasks, engines: those of other plugins, whose names are taken.
    """
    # A manager of its own: if the plugin hangs, nothing of it is in the one that is used.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    new_tasks: dict[str, Task] = {}
    new_engines: dict[str, Engine] = {}
    manager.register(plugin, name)
    manager.check_pending()  # raises for a marked function that is not the name of a hook
    for implementation in manager.hook.register_engines.get_hookimpls():
        _call(implementation, register=_registrar(new_engines, engines, Engine))
    for implementation in manager.hook.register_tasks.get_hookimpls():
        _call(implementation, register=_registrar(new_tasks, tasks, Task))
    for task in new_tasks.values():
        _check_task(task)
    return new_tasks, new_engines


def _call(implementation: Any, **arguments: Any) -> Any:
    """Calls one implementation of a hook with the arguments that it asks for."""
    return implementation.function(*(arguments[name] for name in implementation.argnames))


def _registrar(found: dict[str, Any], taken: dict[str, Any], kind: type[Any]) -> Callable[[Any], None]:
    """Makes the `register` function of a hook.

    Args:
        found: it adds to these.
        taken: names that other plugins have registered.
        kind: the class that it accepts, Task or Engine.
    """

    def register(thing: Any) -> None:
        noun = kind.__name__
        if not isinstance(thing, kind):
            raise PluginError(f"register() needs an instance of {noun}, not {thing!r}")
        name = getattr(thing, "name", None)
        if not isinstance(name, str) or not name:
            raise PluginError(f"{type(thing).__name__} needs a class attribute `name` of type str")
        if name in taken or name in found:
            raise PluginError(f"{noun} {name!r} is already registered")
        found[name] = thing

    return register


def _check_task(task: Task) -> None:
    label = type(task).__name__
    # The name is also that of a folder and of a table in the configuration.
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", task.name):
        raise PluginError(f"{label}.name is {task.name!r}: use lower-case letters, digits, '.', '_' and '-'")
    if task.api_version != API_VERSION:
        raise PluginError(f"{label} was written for API version {task.api_version}, this host has {API_VERSION}")
    accepts = task.accepts
    if not isinstance(accepts, tuple) or not all(
        isinstance(accept, frozenset) and accept and accept <= _MODALITIES for accept in accepts
    ):
        raise PluginError(f"{label}.accepts must be a tuple of frozensets of 'text', 'image', 'audio', not {accepts!r}")
