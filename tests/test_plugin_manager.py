"""Loading of plugins: a broken plugin is listed with its error, and the others work."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import Task, hookimpl
from smallai_assistant import plugin_manager as module
from smallai_assistant.plugin_manager import PluginManager


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes entry points from source texts, as if each text were an installed distribution."""

    def install(**sources: str) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        found = []
        for name, source in sources.items():
            (tmp_path / f"plug_{name}.py").write_text(source)
            found.append(importlib.metadata.EntryPoint(name, f"plug_{name}", "smallai_assistant"))
        monkeypatch.setattr(module, "_entry_points", lambda: found)

    return install


GOOD = """
from smallai_assistant import Task, TextPart, hookimpl
class Good(Task):
    name = "good"
    def run(self, request, models):
        yield TextPart("fine")
@hookimpl
def register_tasks(register):
    register(Good())
"""


def test_four_bundled_plugins_are_found() -> None:
    manager = PluginManager()
    assert manager.broken == {}
    assert set(manager.loaded) == {"chat", "image", "recommend", "speech"}
    assert set(manager.tasks) == {
        "automatic-speech-recognition",
        "image-classification",
        "recommendation",
        "text-generation",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise MemoryError", "MemoryError"),
        (GOOD.replace("def register_tasks", "def register_taks"), "register_taks"),
        (GOOD.replace("(register)", "(register, more)"), "more"),
        (GOOD.replace("register(Good())", "1 / 0"), "ZeroDivisionError"),
        (GOOD.replace("register(Good())", "register(Good)"), "needs an instance of Task"),
        (GOOD.replace('name = "good"', ""), "needs a class attribute `name`"),
        (GOOD.replace('name = "good"', 'name = "good"\n    api_version = 99'), "API version 99, this host has 1"),
        (GOOD.replace('name = "good"', 'name = "good"\n    accepts = ("text",)'), "must be a tuple of frozensets"),
        (GOOD.replace("register(Good())", "register(Good()); register(Good())"), "already registered"),
    ],
)
def test_broken_plugin_is_listed_and_others_load(
    installed: Callable[..., None], source: str, message: str, request: pytest.FixtureRequest
) -> None:
    name = f"bad{abs(hash(request.node.name))}"
    installed(**{name: source, f"ok{name}": GOOD})
    manager = PluginManager()
    assert message in manager.broken[name]
    assert set(manager.loaded) == {f"ok{name}"}
    assert set(manager.tasks) == {"good"}


def test_disabled_plugin_is_not_imported(installed: Callable[..., None]) -> None:
    installed(off="raise RuntimeError")
    manager = PluginManager(disabled=["off"])
    assert manager.broken == manager.loaded == {}


def test_module_can_be_a_plugin() -> None:
    plugin = ModuleType("my_plugin")

    @hookimpl
    def register_tasks(register: Callable[[Task], None]) -> None:
        register(make_task(name="mine"))

    plugin.register_tasks = register_tasks  # type: ignore[attr-defined]
    assert "mine" in PluginManager(extra=[plugin]).tasks


def test_two_managers_share_nothing() -> None:
    first = PluginManager(extra=[ScriptedPlugin(make_task())])
    assert "scripted" in first.tasks
    assert "scripted" not in PluginManager().tasks


def test_hook_register_tasks_keeps_the_order() -> None:
    names = ["b", "a", "c"]
    manager = PluginManager(
        disabled=["chat", "image", "recommend", "speech"], extra=[ScriptedPlugin(*(make_task(name=n) for n in names))]
    )
    assert list(manager.tasks) == names


def test_hook_register_engines() -> None:
    from smallai_assistant import Engine

    class Nothing(Engine):
        name = "nothing"

        def can_load(self, *_: Any) -> bool:
            return False

        def estimate_bytes(self, *_: Any) -> int:
            return 0

        def load(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    class Plugin:
        @hookimpl
        def register_engines(self, register: Callable[[Engine], None]) -> None:
            register(Nothing())

    assert isinstance(PluginManager(extra=[Plugin()]).engines["nothing"], Nothing)


def test_task_with_failing_setup_is_left_out(tmp_path: Path) -> None:
    from smallai_assistant import Assistant

    def fail(_self: Task, _context: Any) -> None:
        raise RuntimeError("no setup")

    plugin = ScriptedPlugin(make_task(name="bad", setup=fail), make_task())
    with Assistant(plugins=[plugin], data_dir=tmp_path, models_dir=tmp_path, device="cpu") as assistant:
        assert "no setup" in assistant.broken_plugins["bad"]
        assert "bad" not in assistant.tasks
        response = assistant.ask("hi", task="scripted")
        assert response.text == "hi"
        assert any(notice.code == "plugin_skipped" and "no setup" in notice.text for notice in response.notices)
