"""Shell completion: `smallai completion SHELL`, and the names that are offered for arguments."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.streams import write

if TYPE_CHECKING:
    from smallai_assistant.cli.context import CommandContext

SHELLS = ("bash", "zsh", "fish")


def completion(context: CommandContext) -> int:
    """`smallai completion SHELL`: prints the code that the shell has to run."""
    from argcomplete.shell_integration import shellcode

    write(f"{shellcode(['smallai'], shell=context.args.shell)}\n")
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell, which runs `smallai` with `_ARGCOMPLETE` set for each Tab, and ends the process."""
    import argcomplete

    argcomplete.autocomplete(parser)


def offer(action: argparse.Action, completer: Any) -> None:
    """Lets the shell complete an argument with the names that `completer` returns."""
    action.completer = completer  # type: ignore[attr-defined]  # argcomplete looks for this attribute


def model_names(**_: Any) -> list[str]:
    """The catalogue's models and sets."""
    from pathlib import Path

    from smallai_assistant.models.catalog import Catalog

    # The names are part of the program; no folder is read.
    entries = Catalog(Path()).entries
    return [*entries, *sorted({name for entry in entries.values() for name in entry.sets})]


def task_names(**_: Any) -> list[str]:
    """The tasks of the installed plugins."""
    from smallai_assistant.config import load_config
    from smallai_assistant.errors import AssistantError
    from smallai_assistant.plugin_manager import PluginManager

    try:
        config = load_config()
    except AssistantError:  # the next command says what is wrong
        return []
    # With the folder, plugins that are known need no trial in a child process.
    return list(PluginManager(disabled=config.disabled_plugins, folder=config.data_dir).tasks)
