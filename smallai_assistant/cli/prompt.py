"""The line editor of `smallai chat`: history, completion of commands, tasks and files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

if TYPE_CHECKING:
    from smallai_assistant.cli.repl import Command

_WITH_FILE = ("/image ", "/audio ")
_WITH_TASK = ("/task ", "/learn ")
_REFRESH_S = 0.5
_MAX_FILES = 200


class LineReader:
    """Reads lines from a person.

    Args:
        history: the file that keeps what was typed.
        note: prints a remark.
        status: what goes on meanwhile, shown at the right; empty where nothing does.
    """

    def __init__(
        self,
        history: Path,
        *,
        commands: Mapping[str, Command],
        tasks: Sequence[str],
        note: Callable[[str], None],
        status: Callable[[], str] = lambda: "",
    ) -> None:
        self._note, self._status = note, status
        self._session: PromptSession[str] = PromptSession(
            history=_history(history, note),
            completer=ChatCompleter(commands, tasks),
            complete_while_typing=False,
            mouse_support=False,
        )

    def read(self, prompt: str) -> str | None:
        """The next line; None after Ctrl-D. Ctrl-C empties the line."""
        while True:
            try:
                is_busy = bool(self._status())
                return self._session.prompt(
                    prompt,
                    rprompt=self._status if is_busy else None,  # a toolbar shows only where CPR is answered
                    refresh_interval=_REFRESH_S if is_busy else 0,
                )
            except KeyboardInterrupt:
                self._note("Ctrl-D or /quit ends")
            except EOFError:
                return None

    def confirm(self, question: str) -> bool:
        """Asks yes or no; Ctrl-C and Ctrl-D are no."""
        try:
            answer = PromptSession[str]().prompt(f"{question} [y/n] ")
        except (KeyboardInterrupt, EOFError):
            return False
        return answer.strip().lower() in ("y", "yes")


class ChatCompleter(Completer):
    """Completes slash commands, task names, and file names after /image and /audio.

    Args:
        tasks: names that /task takes, `auto` first.
    """

    def __init__(self, commands: Mapping[str, Any], tasks: Sequence[str]) -> None:
        self._commands = commands
        self._tasks = tasks

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        text = document.text_before_cursor
        if text.startswith(_WITH_TASK):
            command, _, word = text.partition(" ")
            word = word.lstrip()
            names = self._tasks if command == "/task" else self._tasks[1:]  # nothing learns `auto`, which is the first
            yield from (Completion(name, -len(word)) for name in names if name.startswith(word))
        elif text.startswith(_WITH_FILE):
            yield from _files(text.split(" ", 1)[1].lstrip())
        elif text.startswith("/") and " " not in text:
            for name, command in self._commands.items():
                if name.startswith(text[1:]):
                    yield Completion(f"/{name}", -len(text), display_meta=command.help)


def _files(typed: str) -> Iterable[Completion]:
    """File names that begin as typed, quoted where they hold spaces."""
    if typed[:1] in ("'", '"'):
        begun = typed[1:]
    elif " " in typed.replace("\\ ", ""):
        return
    else:
        begun = typed.replace("\\ ", " ")
    folder, _, start = begun.rpartition("/")
    base = Path(f"{folder}/" if folder or begun.startswith("/") else ".").expanduser()
    try:
        entries = sorted(os.scandir(base), key=lambda entry: entry.name)
    except OSError:
        return
    shown = [e for e in entries if e.name.startswith(start) and (start.startswith(".") or not e.name.startswith("."))]
    for entry in shown[:_MAX_FILES]:
        name = f"{folder}/{entry.name}" if folder or begun.startswith("/") else entry.name
        if entry.is_dir():
            # The quote stays open: more of the path is to come.
            text = f"'{name}/" if shlex.quote(name) != name and not name.startswith("~") else f"{name}/"
        else:
            text = name if name.startswith("~") else shlex.quote(name)
        yield Completion(text, -len(typed), display=entry.name + ("/" if entry.is_dir() else ""))


def _history(path: Path, note: Callable[[str], None]) -> History:
    """A history only its owner can read; one in memory where the file cannot be written, and a word about it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as error:
        note(f"note: what you type is not kept for another time: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(path)
