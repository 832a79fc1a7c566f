"""The state of one conversation in the terminal, and what each line changes in it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext, check_file
from smallai_assistant.cli.info import conversations
from smallai_assistant.cli.one_shot import ANY_WISH, CHAT, RECOMMEND, show
from smallai_assistant.cli.render import AnswerPrinter
from smallai_assistant.cli.streams import OutputError
from smallai_assistant.cli.typed_files import find_files, lone_path, split_path
from smallai_assistant.errors import AssistantError, InvalidInput, ModelNotFound, nearest
from smallai_assistant.types import AudioPart, ImagePart, Message, Part, TextPart, Turn, file_part

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.conversation.session import Session

AUTO = "auto"
_ENDING = ("quit", "exit", "q")
# A path such as "/usr/bin" is not a command: after the letters, a command has a space or ends.
_COMMAND = re.compile(r"/([A-Za-z]*)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """A command that begins with a slash.

    Attributes:
        run: gets the conversation and the text after the command's name.
    """

    usage: str
    help: str
    run: Callable[[Chat, str], None]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was typed, taken apart.

    Attributes:
        command: the name after the slash, in small letters; None for a message.
        text: the message, or what follows the command's name.
        is_literal: the line began with two slashes: it is text, whatever it names.
    """

    command: str | None
    text: str
    is_literal: bool = False


def parse(line: str) -> Line:
    """Tells a command from a message."""
    text = line.strip()
    if text.startswith("//"):
        return Line(None, text[1:], is_literal=True)  # the first slash only escapes the second
    match = _COMMAND.fullmatch(text)
    return Line(None, text) if match is None else Line(match[1].lower(), (match[2] or "").strip())


class Chat:
    """One conversation. Each line is a command or a message.

    Args:
        commands: by name, without the slash.

    Attributes:
        task: the name of the task that gets every message; None lets the router choose.
        session: the stored conversation.
        confirm: asks the person yes or no; None if nobody is there to ask.
    """

    def __init__(self, context: CommandContext, assistant: Assistant, commands: Mapping[str, Command]) -> None:
        self.context = context
        self.screen = context.screen
        self.assistant = assistant
        self.commands = commands
        self.confirm: Callable[[str], bool] | None = None
        self.task: str | None = None
        # A misspelt task is reported before a conversation is opened.
        if context.args.task is not None:
            self._pin(context.args.task)
        self.session = self._open_session()

    def handle(self, line: str) -> bool:
        """Runs a command, or sends a message and prints the answer. Returns False if the line ends the conversation.

        An error is printed and the conversation continues. Ctrl-C stops the answer if a person is there.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed and nobody is there, so the whole program is meant.
        """
        typed = parse(line)
        if typed.command in _ENDING:
            return False
        try:
            self._run(typed)
        except OutputError:
            raise  # the next answer could not be shown either
        except AssistantError as error:
            self.context.failed(error)
        except KeyboardInterrupt:
            if self.confirm is None:
                raise
            self.screen.end_progress()
            self.screen.note("stopped")
        except BrokenPipeError:
            raise  # nobody reads the answers any more
        except Exception as error:
            self.context.crashed(error)
        return True

    def say(self, parts: list[Part], *, task: str | None = None) -> None:
        """Sends a message and prints the answer. Offers to pull a model that is missing.

        Args:
            task: the task to use. None takes the pinned one if it accepts the message, or else the router's choice.
        """
        try:
            self._send(parts, task)
        except ModelNotFound as error:
            if not self._offer_pull(error):
                raise
            self._send(parts, task)

    def tell(self, text: str) -> None:
        """Prints a line about the conversation. With `--json`, standard output is for objects, so it is a note."""
        if self.context.args.json:
            self.screen.note(text)
        else:
            self.screen.out(text)

    def offer_chat_model(self) -> None:
        """Offers to pull a chat model if there is none, before the first message fails for want of it."""
        try:
            self.assistant.catalog.resolve(self.assistant.config.models.chat, task=CHAT)
        except ModelNotFound as error:
            self.screen.note(error.message)
            try:
                self._offer_pull(error)
            except AssistantError as failure:
                self.context.failed(failure)

    def image(self, text: str) -> None:
        """`/image FILE [question]`."""
        path, question = split_path(text, usage="/image FILE [question]")
        self.say([ImagePart(check_file(path)), *([TextPart(question)] if question else [])])

    def audio(self, text: str) -> None:
        """`/audio FILE`."""
        path, rest = split_path(text, usage="/audio FILE")
        self.say([AudioPart(check_file(path)), *([TextPart(rest)] if rest else [])])

    def recommend(self, text: str) -> None:
        """`/recommend [wish]`."""
        self.say([TextPart(text or ANY_WISH)], task=RECOMMEND)

    def choose(self, text: str) -> None:
        """`/task [NAME]`."""
        if text:
            self._pin(text)
            self.tell(f"task: {self.task or 'chosen for each message'}")
            return
        for name, task in self.assistant.tasks.items():
            self.tell(f"{'*' if name == self.task else ' '} {name}  {task.title}".rstrip())
        self.tell(f"{'*' if self.task is None else ' '} {AUTO}  chosen for each message")

    def new(self, _: str = "") -> None:
        """`/new`."""
        self.session = self.assistant.session(self.session.user_id, groups=self.session.groups)
        self.tell("a new conversation")

    def history(self, _: str = "") -> None:
        """`/history`."""
        if not self.session.history:
            self.tell("nothing was said yet")
        for turn in self.session.history:
            self._show_turn(turn)

    def help(self, _: str = "") -> None:
        """`/help`."""
        intro = "Type a message, or one of these. A file that you name or drop into a message is sent with it."
        self.tell(textwrap.fill(intro, self.screen.width) if self.screen.is_terminal else intro)
        column = max(len(command.usage) for command in self.commands.values())
        # With less room than that beside the column, the help would wrap after every few words.
        is_narrow = self.screen.width < column + 30
        for command in self.commands.values():
            self.tell(f"  {command.usage}" if is_narrow else f"  {command.usage:<{column}}  {command.help}")

    def quit(self, _: str = "") -> None:
        """`/quit`. It is listed for `/help`; `handle` ends the conversation without running it."""

    def _run(self, typed: Line) -> None:
        if typed.command is not None:
            self._command(typed.command).run(self, typed.text)
        elif typed.is_literal:
            self.say([TextPart(typed.text)])
        elif typed.text:
            self._say_with_files(typed.text)

    def _say_with_files(self, text: str) -> None:
        """Sends a message together with the pictures and recordings that it names."""
        message = find_files(text)
        if not message.files and (path := lone_path(text)) is not None:
            try:
                file_part(check_file(path))
            except InvalidInput as error:
                # It stays text: a line may well be about a path.
                self.screen.note(f"note: sent as text: {error}")
        self.say([*message.files, *([TextPart(message.text)] if message.text else [])])

    def _send(self, parts: list[Part], task: str | None) -> None:
        message = Message.of(parts)
        # A pinned chat task does not take pictures: such a message goes where the router sends it.
        if task is None and self.task is not None and message.modalities in self.assistant.tasks[self.task].accepts:
            task = self.task
        response = self.session.send(message, task=task)
        show(self.context, response)
        _ = response.turns  # raises if the answer could not be stored

    def _command(self, name: str) -> Command:
        if name not in self.commands:
            near = nearest(f"/{name}", [f"/{known}" for known in self.commands])
            hint = near if near.name is not None else "see /help"
            raise InvalidInput(f"unknown command '/{name}'", hint=hint)
        return self.commands[name]

    def _pin(self, name: str) -> None:
        if name != AUTO and name not in self.assistant.tasks:
            raise InvalidInput(f"there is no task {name!r}", hint=nearest(name, [AUTO, *self.assistant.tasks]))
        self.task = None if name == AUTO else name

    def _open_session(self) -> Session:
        args = self.context.args
        if args.session is None and args.resume:
            # 1,000 conversations back, somebody has long forgotten what the latest one was about.
            talks = conversations(self.assistant, limit=1000)
            mine = [row["id"] for row in talks if args.user is None or row["user_id"] == args.user]
            if mine:
                return self.assistant.session(session_id=mine[0], groups=args.group)
            self.screen.note("there is no conversation to continue; this is a new one")
            return self.assistant.session(args.user, groups=args.group)
        return self.assistant.session(args.user, session_id=args.session, groups=args.group)

    def _offer_pull(self, error: ModelNotFound) -> bool:
        """Asks whether to pull the missing model, and pulls it. Returns False if it was not pulled."""
        from smallai_assistant.cli.models import pull_models

        name = error.pull_name
        if self.confirm is None or name is None or not self.confirm(f"{error.message}. Get {name} now?"):
            return False
        pull_models(self.screen, self.assistant.catalog, [name])
        return True

    def _show_turn(self, turn: Turn) -> None:
        if self.context.args.json:
            self.screen.json({"turn_id": turn.id, "task": turn.task, "said": _said(turn.request), "text": turn.text})
            return
        self.screen.out(f"{self.screen.bold('you:')} {_said(turn.request)}")
        # Rendered Markdown begins at the start of a line.
        self.screen.out(self.screen.bold("assistant:"), end="\n" if self.screen.shows_markdown else " ")
        printer = AnswerPrinter(self.screen)
        for part in turn.response:
            printer.show(part)
        printer.finish()
        if not turn.text:
            self.screen.out("")


def _said(message: Message) -> str:
    files = [f"[{part.name}]" for part in message.parts if isinstance(part, (ImagePart, AudioPart))]
    return " ".join([*files, message.text]).strip()
