"""Imports of strangers' plugins: none can end a command, delay it twice, or take another's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.installed_plugin import GOOD, install

from smallai_assistant.foreign import imports
from smallai_assistant.plugin_manager import PluginManager

HANG = "import threading; threading.Event().wait(600)"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed plugins."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget(folder)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the plugins that were tried in a child process."""
    tried: list[str] = []
    real = subprocess.Popen

    def popen(command: list[str], **kwargs: Any) -> Any:
        tried.append(command[4])
        return real(command, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return tried


def records(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "plugins.json").read_text())


def forget(site: Path) -> None:
    """Lets the next manager import everything again, as a new process would."""
    for name in [name for name, module in sys.modules.items() if str(site) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(3)", "its import ends the process with the exit code 3"),
        ("import os; os._exit(0)", "its import ends the process with the exit code 0"),
        ("import ctypes; ctypes.string_at(0)", "its import ends the process by SIGSEGV"),
        ("import os; os.abort()", "its import ends the process by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its import ends the process by SIGKILL"),
        (GOOD.replace("register(Good())", "import os; os._exit(9)"), "ends the process with the exit code 9"),
        (HANG, "its import takes longer than 8 s"),
        (GOOD.replace("    register(Good())", f"    {HANG}"), "its import takes longer than 8 s"),
    ],
)
def test_what_ends_a_process_or_hangs_is_named_and_not_tried_again(
    site: Path, tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    if HANG in source:  # the other plugin must be imported in that time, too
        monkeypatch.setattr(imports, "IMPORT_TIMEOUT_S", 8.0)
    install(site, "bad", source)
    install(site, "also", GOOD)
    first = PluginManager(folder=tmp_path)
    assert reason in first.broken["bad"]
    assert "in an hour, or once its files change" in first.broken["bad"]
    assert {"good", "text-generation"} <= set(first.tasks)
    assert children == ["also", "bad"]
    assert PluginManager(folder=tmp_path).broken == first.broken
    assert children == ["also", "bad"]


def test_a_plugin_is_tried_again_after_an_hour_or_a_change(
    site: Path, tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = install(site, "bad", "import os; os._exit(3)")
    assert "bad" in PluginManager(folder=tmp_path).broken
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert "bad" in PluginManager(folder=tmp_path).broken
    monkeypatch.setattr(time, "time", lambda: now - 3700)  # a clock that goes back makes no record last for ever
    assert "bad" in PluginManager(folder=tmp_path).broken
    assert children == ["bad"] * 3
    file.write_text(GOOD)
    monkeypatch.setattr(time, "time", lambda: now)
    assert "good" in PluginManager(folder=tmp_path).tasks
    assert children == ["bad"] * 4


def test_a_known_plugin_needs_no_child(site: Path, tmp_path: Path, children: list[str]) -> None:
    install(site, "fine", GOOD)
    for _ in range(2):
        manager = PluginManager(folder=tmp_path)
        assert (manager.loaded["fine"], manager.broken) == ("1.0", {})
        forget(site)
    assert children == ["fine"]
    assert records(tmp_path)["fine"]["state"] == "good"
    assert (tmp_path / "plugins.json").stat().st_mode & 0o777 == 0o600


def test_without_a_folder_each_start_tries_first(site: Path, children: list[str]) -> None:
    install(site, "fine", GOOD)
    for _ in range(2):
        assert "good" in PluginManager().tasks
        forget(site)
    assert children == ["fine", "fine"]


def test_an_error_is_not_remembered(site: Path, tmp_path: Path, children: list[str]) -> None:
    install(site, "bad", "import a_module_that_comes_later")
    for _ in range(2):
        assert PluginManager(folder=tmp_path).broken["bad"].startswith("ModuleNotFoundError: No module named 'a_mod")
    (site / "a_module_that_comes_later.py").touch()
    assert "bad" in PluginManager(folder=tmp_path).loaded
    assert children == ["bad"] * 3


ONLY_IN_ITS_PLACE = f"import os\nif {imports._IS_CHILD!r} not in os.environ: os._exit(5)\n"


def test_a_plugin_that_ends_only_the_real_process_is_found_at_the_next_start(site: Path, tmp_path: Path) -> None:
    install(site, "sly", ONLY_IN_ITS_PLACE)
    code = "import sys; sys.path.insert(0, sys.argv[1])\n" + (
        "from pathlib import Path; from smallai_assistant.plugin_manager import PluginManager\n"
        "print(PluginManager(folder=Path(sys.argv[2])).broken)"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", code, str(site), str(tmp_path)], capture_output=True, text=True, check=False
        )
        for _ in range(3)
    ]
    assert [run.returncode for run in done] == [5, 0, 0], done
    for run in done[1:]:
        assert "the last process that imported it ended meanwhile" in run.stdout


def test_another_process_that_imports_now_is_no_crash(site: Path, tmp_path: Path) -> None:
    install(site, "fine", GOOD)
    PluginManager(folder=tmp_path)
    rows = records(tmp_path)
    rows["fine"] |= {"state": "importing", "pid": os.getpid(), "at": time.time()}
    (tmp_path / "plugins.json").write_text(json.dumps(rows))
    forget(site)
    assert PluginManager(folder=tmp_path).broken == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"fine": 3}', '{"fine": {"stamp": 1, "more": 2}}', "\0" * 10])
def test_a_damaged_record_costs_a_child_only(site: Path, tmp_path: Path, children: list[str], text: str) -> None:
    install(site, "fine", GOOD)
    (tmp_path / "plugins.json").write_text(text)
    assert PluginManager(folder=tmp_path).broken == {}
    assert children == ["fine"]
    assert list(records(tmp_path)) == ["fine"]


def test_a_plugin_that_opens_an_assistant_makes_no_chain_of_children(site: Path, tmp_path: Path) -> None:
    install(site, "first", f"from smallai_assistant.plugin_manager import PluginManager\nPluginManager()\n{GOOD}")
    install(site, "second", GOOD.replace('"good"', '"other"'))
    assert {"good", "other"} <= set(PluginManager(folder=tmp_path).tasks)


def test_a_stranger_cannot_take_a_name_of_ours(site: Path, tmp_path: Path) -> None:
    install(site, "chat", GOOD, distribution="a-chat")
    install(site, "aaa", GOOD.replace('"good"', '"text-generation"'))
    install(site, "twice", GOOD, distribution="one")
    install(site, "twice", GOOD, distribution="two")
    manager = PluginManager(folder=tmp_path)
    assert type(manager.tasks["text-generation"]).__module__.startswith("smallai_chat")
    assert manager.broken["aaa"] == "Task 'text-generation' is already registered"
    assert manager.broken["chat (a-chat 1.0)"].startswith("the name 'chat' is taken by smallai-assistant")
    assert manager.broken["twice (two 1.0)"].startswith("the name 'twice' is taken by one 1.0")
    assert {"chat", "twice"} <= set(manager.loaded)
    label = "chat (a-chat 1.0)"
    assert label not in PluginManager(folder=tmp_path, disabled=[label]).broken
    assert not {"twice", "twice (two 1.0)"} & set(PluginManager(folder=tmp_path, disabled=["twice"]).broken)


@pytest.mark.parametrize("text", ["[smallai_assistant]\nbad\n", "[smallai_assistant]\nbad = \n"])
def test_a_malformed_list_of_entry_points_hides_no_other(site: Path, tmp_path: Path, text: str) -> None:
    install(site, "bad", GOOD, entry_point=text)
    install(site, "fine", GOOD)
    manager = PluginManager(folder=tmp_path)
    assert set(manager.loaded) == {"chat", "image", "speech", "recommend", "fine"}
    (named,) = manager.broken
    assert "bad" in named
