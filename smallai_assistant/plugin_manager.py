"""Finds and loads plugins, and contains their faults. Each assistant has its own manager; nothing is global."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pluggy

from smallai_assistant import hookspecs
from smallai_assistant.engines.base import Engine
from smallai_assistant.errors import AssistantError, PluginError
from smallai_assistant.feedback import Adapter, Feedback
from smallai_assistant.task import API_VERSION, Task
from smallai_assistant.types import Message, Turn

log = logging.getLogger(__name__)

_MODALITIES = frozenset({"text", "image", "audio"})


class PluginManager:
    """Loads plugins and calls their hooks. A fault of one plugin does not affect the others.

    Args:
        disabled: names of entry points to leave out. They are not even imported.
        extra: plugin modules or objects without an entry point.

    Attributes:
        tasks: task name -> task, in the order of registration.
        engines: engine name -> engine, in the order of registration.
        loaded: name -> version of the plugins in use; the version of an extra plugin is empty.
        broken: name -> what is wrong with a plugin that was left out.
    """

    def __init__(self, *, disabled: Sequence[str] = (), extra: Sequence[object] = ()) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.tasks: dict[str, Task] = {}
        self.engines: dict[str, Engine] = {}
        self.loaded: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        for entry_point in _entry_points():
            if entry_point.name in disabled:
                continue
            version = entry_point.dist.version if entry_point.dist else ""
            with self.containing(entry_point.name):
                self._add(entry_point.name, entry_point.load(), version)
        for plugin in extra:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            with self.containing(name):
                self._add(name, plugin, "")

    def choose_task(self, message: Message, candidates: Sequence[Task]) -> Task | None:
        """Asks the plugins, the last registered first, and returns the first choice; None if no plugin chooses.

        Raises:
            PluginError: a hook raised, or named a task that is not a candidate.
        """
        # One by one, because an error of pluggy's own call does not say which plugin raised it. pluggy keeps the
        # implementations in the reverse order of calls.
        for implementation in reversed(self._manager.hook.choose_task.get_hookimpls()):
            try:
                name = _call(implementation, message=message, candidates=candidates)
            except AssistantError:
                raise
            except BaseException as error:
                raise PluginError(
                    f"plugin {implementation.plugin_name!r}: choose_task raised {_described(error)}",
                    hint="name the task yourself, or disable the plugin",
                ) from error
            if name is None:
                continue
            for task in candidates:
                if task.name == name:
                    return task
            raise PluginError(
                f"plugin {implementation.plugin_name!r}: choose_task returned {name!r}",
                hint=f"it must return None or one of: {', '.join(task.name for task in candidates)}",
            )
        return None

    def notify_turn_finished(self, turn: Turn) -> None:
        """Tells the observers that a turn was stored. An error of one is logged, and the others are still told."""
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
            PluginError: a hook raised, or returned something other than True, False or None.
        """
        for implementation in reversed(self._manager.hook.approve_adapter.get_hookimpls()):
            try:
                decision = _call(implementation, candidate=candidate, champion=champion)
            except AssistantError:
                raise
            except BaseException as error:
                raise PluginError(
                    f"plugin {implementation.plugin_name!r}: approve_adapter raised {_described(error)}",
                    hint="the champion stays in use; disable the plugin to leave the decision to the gate",
                ) from error
            if decision is None:
                continue
            if not isinstance(decision, bool):
                raise PluginError(f"plugin {implementation.plugin_name!r}: approve_adapter returned {decision!r}")
            return str(implementation.plugin_name), decision
        return None

    def _notify(self, hook: Any, **arguments: Any) -> None:
        for implementation in reversed(hook.get_hookimpls()):
            try:
                _call(implementation, **arguments)
            except BaseException as error:
                log.warning("plugin %r: %s raised %s", implementation.plugin_name, hook.name, _described(error))

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
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # plugins call sys.exit, and a panic in Rust code is a BaseException
            if but is not None and isinstance(error, but):
                raise
            if drop_task:
                self.tasks.pop(name, None)
            self.broken[name] = error.message if isinstance(error, PluginError) else _described(error)
            log.warning("plugin %r is left out: %s", name, self.broken[name])

    def _add(self, name: str, plugin: object, version: str) -> None:
        # Everything is collected and checked first, so that a broken plugin leaves nothing behind.
        tasks: dict[str, Task] = {}
        engines: dict[str, Engine] = {}
        self._manager.register(plugin, name)
        try:
            self._manager.check_pending()  # raises for a marked function that is not the name of a hook
            hook = self._manager.hook
            for implementation in _of_plugin(hook.register_engines, plugin):
                _call(implementation, register=_registrar(engines, self.engines, Engine))
            for implementation in _of_plugin(hook.register_tasks, plugin):
                _call(implementation, register=_registrar(tasks, self.tasks, Task))
            for task in tasks.values():
                _check_task(task)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        self.tasks |= tasks
        self.engines |= engines
        self.loaded[name] = version


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """The installed plugins by name. A distribution that is found twice on the path counts once."""
    found = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    unique = {entry_point.name: entry_point for entry_point in found}
    return [unique[name] for name in sorted(unique)]


def _of_plugin(hook: Any, plugin: object) -> list[Any]:
    return [implementation for implementation in hook.get_hookimpls() if implementation.plugin is plugin]


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


def _described(error: BaseException) -> str:
    """The error's type and message, without a trailing colon if it has no message."""
    return f"{type(error).__name__}: {error}".strip().rstrip(":")
