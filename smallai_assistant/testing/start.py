"""Checks the cost of a start when there is feedback to rebuild from, in a fresh interpreter."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from smallai_assistant.assistant import Assistant
from smallai_assistant.config import AssistantConfig, load_config
from smallai_assistant.foreign.installed import installed_plugins
from smallai_assistant.testing.imports import HEAVY, RESULT, START_S, module_of, result_in

_CODE = "from smallai_assistant.testing.start import main; main()"


def installed() -> tuple[str, ...]:
    """The names of the installed plugins, which the kit leaves out."""
    return tuple(plugin.label for plugin in installed_plugins())


def quiet_config(folder: Path, task_names: Iterable[str]) -> AssistantConfig:
    """The user's configuration, with another data directory and without other plugins."""
    config = load_config()
    # A table of options for a task that does not exist is an error, and only this plugin's tasks exist here.
    names = set(task_names)
    tables = {name: table for name, table in config.tasks.items() if name in names}
    return replace(
        config, data_dir=folder, database_url="", reply_to_speech=False, disabled_plugins=installed(), tasks=tables
    )


def heavy_start(plugin: object, assistant: Assistant) -> str:
    """Starts an assistant with the plugin, and the feedback stored by `assistant`, in a fresh interpreter."""
    name = module_of(plugin).__name__
    command = [sys.executable, "-c", _CODE, name, str(assistant.config.data_dir), *assistant.tasks]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        return f"a fresh interpreter cannot start with it: {''.join(done.stderr.strip().splitlines()[-1:])}"
    found = json.loads(result_in(done.stdout))
    if found["broken"]:
        return "; ".join(found["broken"].values())
    return f"every start would load {', '.join(found['heavy'])}" if found["heavy"] else ""


def main() -> None:
    """Runs in the fresh interpreter. Prints, as JSON, the heavy libraries that were loaded, and what went wrong."""
    name, folder, *task_names = sys.argv[1:]
    plugin = importlib.import_module(name)
    with Assistant(quiet_config(Path(folder), task_names), plugins=[plugin]) as assistant:
        heavy = sorted(HEAVY & {module.partition(".")[0] for module in sys.modules})
        print()  # the plugin may have printed an unfinished line
        print(f"{RESULT}{json.dumps({'heavy': heavy, 'broken': dict(assistant.broken_plugins)})}")
