"""Loading of plugins: a broken plugin is listed with its error, and the others work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.installed_plugin import GOOD, install
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import Assistant, Message, Task, Turn, hookimpl
from smallai_assistant import plugin_manager as module
from smallai_assistant.errors import PluginError
from smallai_assistant.plugin_manager import PluginManager

OURS = ("chat", "image", "recommend", "speech")
BAD = {
    "import_error": ("import nothing_of_that_name", "ModuleNotFoundError"),
    "syntax": ("def broken(:", "SyntaxError"),
    "exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "memory": ("raise MemoryError", "MemoryError"),
    "ctrl_c": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "hook_name": (GOOD.replace("def register_tasks", "def register_taks"), "register_taks"),
    "hook_arguments": (GOOD.replace("(register)", "(register, more)"), "more"),
    "registers_badly": (GOOD.replace("register(Good())", "1 / 0"), "ZeroDivisionError"),
    "class": (GOOD.replace("register(Good())", "register(Good)"), "needs an instance of Task"),
    "no_name": (GOOD.replace('name = "good"', ""), "needs a class attribute `name`"),
    "api": (GOOD.replace('name = "good"', 'name = "good"\n    api_version = 99'), "API version 99, this host has 1"),
    "accepts": (
        GOOD.replace('name = "good"', 'name = "good"\n    accepts = ("text",)'),
        "must be a tuple of frozensets",
    ),
    "twice": (GOOD.replace("register(Good())", "register(Good()); register(Good())"), "already registered"),
}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> PluginManager:
    """A manager with the bad plugins, and a good one that comes last."""
    folder = tmp_path_factory.mktemp("site")
    for name, (source, _) in BAD.items():
        install(folder, name, source)
    install(folder, "zz_good", GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return PluginManager(disabled=OURS)


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


@pytest.mark.parametrize("name", BAD)
def test_broken_plugin_is_listed_and_others_load(manager: PluginManager, name: str) -> None:
    assert BAD[name][1] in manager.broken[name]
    assert set(manager.loaded) == {"zz_good"}
    assert set(manager.tasks) == {"good"}


def test_disabled_plugin_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "off", "raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    manager = PluginManager(disabled=["off", *OURS])
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
    manager = PluginManager(disabled=OURS, extra=[ScriptedPlugin(*(make_task(name=n) for n in names))])
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
    def fail(_self: Task, _context: Any) -> None:
        raise RuntimeError("no setup")

    plugin = ScriptedPlugin(make_task(name="bad", setup=fail), make_task())
    with Assistant(plugins=[plugin], data_dir=tmp_path, models_dir=tmp_path, device="cpu") as assistant:
        assert "no setup" in assistant.broken_plugins["bad"]
        assert "bad" not in assistant.tasks
        response = assistant.ask("hi", task="scripted")
        assert response.text == "hi"
        assert any(notice.code == "plugin_skipped" and "no setup" in notice.text for notice in response.notices)


def test_setup_and_close_that_hang_hold_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    real = PluginManager.call_task
    monkeypatch.setattr(PluginManager, "call_task", lambda *args, **_: real(*args, timeout_s=2.0))

    def hang(_self: Task, *_: Any) -> None:
        release.wait(60)

    plugin = ScriptedPlugin(make_task(name="slow", setup=hang), make_task(name="stays", close=hang), make_task())
    with Assistant(plugins=[plugin], data_dir=tmp_path, models_dir=tmp_path, device="cpu") as assistant:
        assert assistant.broken_plugins["slow"] == "setup of slow takes longer than 2 s"
        assert "slow" not in assistant.tasks
        assert assistant.ask("hi", task="scripted").text == "hi"
    assert assistant.broken_plugins["stays"] == "close of stays takes longer than 2 s"
    release.set()


class Chooser(ScriptedPlugin):
    """Chooses as a test says."""

    def __init__(self, choose: Callable[[], Any]) -> None:
        super().__init__(make_task(name="a"), make_task(name="b"))
        self.choose = choose

    @hookimpl
    def choose_task(self, message: Message, candidates: Sequence[Task]) -> Any:
        return self.choose()


def test_a_choice_that_hangs_is_cut_off_and_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(module, "_CHOICE_TIMEOUT_S", 0.1)
    manager = PluginManager(disabled=OURS, extra=[Chooser(release.wait)])
    candidates = list(manager.tasks.values())
    with pytest.raises(PluginError, match=r"plugin 'Chooser': choose_task takes longer than 0\.1 s"):
        manager.choose_task(Message.of("x"), candidates)
    assert manager.choose_task(Message.of("x"), candidates) is None
    assert manager.broken["Chooser"].endswith("it is not asked again")
    release.set()


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt()])
def test_a_choice_that_raises_is_an_error_of_that_call(error: BaseException) -> None:
    def fail() -> None:
        raise error

    manager = PluginManager(disabled=OURS, extra=[Chooser(fail)])
    for _ in range(2):
        with pytest.raises(PluginError, match=f"plugin 'Chooser': choose_task raised {type(error).__name__}"):
            manager.choose_task(Message.of("x"), list(manager.tasks.values()))


def test_an_observer_that_hangs_loses_no_turn(tmp_path: Path) -> None:
    release, begun = threading.Event(), threading.Event()

    class Observer(ScriptedPlugin):
        @hookimpl
        def turn_finished(self, turn: Turn) -> None:
            begun.set()
            release.wait(60)

    with Assistant(plugins=[Observer(make_task())], data_dir=tmp_path, device="cpu") as assistant:
        session = assistant.session()
        for text in ("one", "two", "three"):
            _ = session.send(text, task="scripted").turn
        assert begun.wait(30)
        assert [turn.text for turn in assistant.store.turns(session.id)] == ["one", "two", "three"]
    assert assistant.broken_plugins["Observer"].startswith("its turn_finished had not ended 2 s after")
    release.set()
