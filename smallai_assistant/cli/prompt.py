"""The line editor of `smallai chat`, with a history and with completion of commands, tasks and files."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import create_output

from smallai_assistant.cli.streams import out
from smallai_assistant.filesystem import expanded

if TYPE_CHECKING:
    from smallai_assistant.cli.conversation import Command

_WITH_FILE = ("/image ", "/audio ")
_WITH_TASK = ("/task ", "/learn ")
_PATH_AT_END = re.compile(r"(?:^|\s)((?:~|\.\.?)?/(?:\\.|\S)*)$")
_REFRESH_S = 0.5  # of the progress of learning; a person does not read faster
_MAX_FILES = 200  # more do not help anybody to choose, and a folder may hold a million


class LineReader:
    """Reads lines from a person.

    Args:
        history: the file that keeps what was typed.
        commands: the commands that are completed, by name without the slash.
        tasks: the task names that are completed, `auto` first.
        note: prints a remark.
        status: gives what happens in the background, which is shown at the right of the line; empty if nothing does.
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
            # Completion is for Tab: a menu that opens by itself covers what stands below.
            complete_while_typing=False,
            output=create_output(out()),
            # With mouse support, text could not be selected as in any other program.
            mouse_support=False,
        )

    def read(self, prompt: str) -> str | None:
        """Reads the next line. Returns None after Ctrl-D; Ctrl-C empties the line."""
        while True:
            try:
                is_busy = bool(self._status())
                return self._session.prompt(
                    prompt,
                    # A toolbar below the line would need a terminal that tells where the cursor is.
                    rprompt=self._status if is_busy else None,
                    refresh_interval=_REFRESH_S if is_busy else 0,
                )
            except KeyboardInterrupt:
                self._note("Ctrl-D or /quit ends")
            except EOFError:
                return None

    def confirm(self, question: str) -> bool:
        """Asks a question; anything but `y` and `yes` is a no, Ctrl-C and Ctrl-D too."""
        try:
            # A session without a history, so that the answer is not offered as a message later.
            answer = PromptSession[str](output=create_output(out())).prompt(f"{question} [y/n] ")
        except (KeyboardInterrupt, EOFError):
            return False
        return answer.strip().lower() in ("y", "yes")


class ChatCompleter(Completer):
    """Completes commands, task names, file names after /image and /audio, and paths inside a message.

    Args:
        commands: by name, without the slash.
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
            # `auto` is the first name; /learn needs a task that learns.
            names = self._tasks if command == "/task" else self._tasks[1:]
            yield from (Completion(name, -len(word)) for name in names if name.startswith(word))
        elif text.startswith(_WITH_FILE):
            yield from _files(text.split(" ", 1)[1].lstrip())
        # With a second slash it is the path of a file that is dropped or typed.
        elif text.startswith("/") and not re.search(r"[/\s]", text[1:]):
            for name, command in self._commands.items():
                if name.startswith(text[1:]):
                    yield Completion(f"/{name}", -len(text), display_meta=command.help)
        elif path := _PATH_AT_END.search(text):
            yield from _files(path[1])


def _files(typed: str) -> Iterable[Completion]:
    """The files whose names begin as typed; a name with spaces is quoted."""
    if typed[:1] in ("'", '"'):
        begun = typed[1:]
    elif " " in typed.replace("\\ ", ""):
        return  # the name has ended, a question follows
    else:
        begun = typed.replace("\\ ", " ")
    folder, _, start = begun.rpartition("/")
    base = expanded(f"{folder}/" if folder or begun.startswith("/") else ".")
    try:
        entries = sorted(os.scandir(base), key=lambda entry: entry.name)
    except OSError:
        return
    # As in a shell, hidden files are shown only to somebody who types the dot.
    shows_hidden = start.startswith(".")
    shown = [
        entry for entry in entries if entry.name.startswith(start) and (shows_hidden or not entry.name.startswith("."))
    ]
    for entry in shown[:_MAX_FILES]:
        name = f"{folder}/{entry.name}" if folder or begun.startswith("/") else entry.name
        if entry.is_dir():
            # The quote stays open, because more of the path will be typed. A quoted `~` would not be expanded.
            text = f"'{name}/" if shlex.quote(name) != name and not name.startswith("~") else f"{name}/"
        else:
            text = name if name.startswith("~") else shlex.quote(name)
        yield Completion(text, -len(typed), display=entry.name + ("/" if entry.is_dir() else ""))


def _history(path: Path, note: Callable[[str], None]) -> History:
    """Opens the history. If the file cannot be written, says so and keeps the history in memory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made with these rights before anything is written: what people type to the assistant is private.
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as error:
        note(f"note: what you type is not kept for another time: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(path)
