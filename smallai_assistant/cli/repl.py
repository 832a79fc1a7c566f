"""`smallai chat`: a conversation in the terminal, or lines from standard input."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smallai_assistant.cli import verdicts
from smallai_assistant.cli.context import CommandContext, check_file
from smallai_assistant.cli.info import conversations
from smallai_assistant.cli.one_shot import ANY_WISH, CHAT, RECOMMEND, show
from smallai_assistant.cli.render import AnswerPrinter
from smallai_assistant.config import nearest
from smallai_assistant.errors import AssistantError, InvalidInput, ModelNotFound
from smallai_assistant.types import AudioPart, ImagePart, Message, Part, TextPart, Turn

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.conversation.session import Session

AUTO = "auto"
_COMMAND = re.compile(r"/([A-Za-z]*)(?:\s+(.*))?", re.DOTALL)
_PULL_HINT = re.compile(r"smallai models pull ([\w.-]+)`")


@dataclass(frozen=True, slots=True)
class Command:
    """A word after a slash."""

    usage: str
    help: str
    run: Callable[[Chat, str], None]


def chat(context: CommandContext) -> int:
    """`smallai chat`."""
    with context.assistant() as assistant:
        conversation = Chat(context, assistant)
        try:
            if context.screen.is_terminal and not context.args.json:
                _interactive(conversation)
            else:
                for line in _stdin_lines():
                    if not conversation.handle(line):
                        break
                conversation.cycles.finish()
        finally:
            conversation.cycles.stop()
    return 0


def _interactive(conversation: Chat) -> None:
    from smallai_assistant import __version__
    from smallai_assistant.cli.prompt import LineReader

    screen, config = conversation.screen, conversation.assistant.config
    screen.out(f"smallai {__version__}. Type a message; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.")
    reader = LineReader(
        config.data_dir / "chat_history",
        commands=COMMANDS,
        tasks=[AUTO, *conversation.assistant.tasks],
        note=screen.note,
        status=conversation.cycles.status,
    )
    conversation.confirm = reader.confirm
    conversation.offer_chat_model()
    while (line := reader.read(f"{conversation.task}> " if conversation.task else "> ")) is not None:
        if not conversation.handle(line):
            break
    conversation.cycles.stop()
    if conversation.session.history:
        screen.note(f"go on another time with: smallai chat --session {conversation.session.id}")


def _stdin_lines() -> Iterator[str]:
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    for line in sys.stdin or ():
        yield line.rstrip("\r\n")


class Chat:
    """The state of one conversation, and what each line does to it.

    Attributes:
        task: the name of the task every message goes to; None lets the router choose.
        confirm: asks the person yes or no; None where nobody is there to ask.
        given: ids of the feedback given here that was not taken back, oldest first.
        cycles: the learning cycles that run in the background.
    """

    def __init__(self, context: CommandContext, assistant: Assistant) -> None:
        self.context = context
        self.screen = context.screen
        self.assistant = assistant
        self.confirm: Callable[[str], bool] | None = None
        self.given: list[str] = []
        self.cycles = verdicts.Cycles(context, assistant)
        self.task: str | None = None
        if context.args.task is not None:
            self._pin(context.args.task)
        self.session = self._open_session()

    def handle(self, line: str) -> bool:
        """Does what a line says. False where it ends the conversation.

        An error is printed; the conversation goes on. Ctrl-C stops the answer where a person is there, otherwise it
        is raised.
        """
        self.cycles.tell_finished()
        text = line.strip()
        if not text:
            return True
        command = None if text.startswith("//") else _COMMAND.fullmatch(text)
        if command is not None and command[1].lower() in ("quit", "exit", "q"):
            return False
        try:
            if command is not None:
                self._command(command[1].lower()).run(self, (command[2] or "").strip())
            else:
                self.say([TextPart(text[1:] if text.startswith("//") else text)])
        except AssistantError as error:
            self.context.failed(error)
        except KeyboardInterrupt:
            if self.confirm is None:
                raise
            self.screen.end_progress()
            self.screen.note("stopped")
        except Exception as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.context.crashed(error)
        return True

    def say(self, parts: list[Part], *, task: str | None = None) -> None:
        """Sends a message and prints the answer.

        Args:
            task: the one to use; None takes the pinned one where it accepts the message, else the router's.
        """
        try:
            self._send(parts, task)
        except ModelNotFound as error:
            if not self._offer_pull(error):
                raise
            self._send(parts, task)

    def offer_chat_model(self) -> None:
        """Asks whether to get a chat model where there is none, before the first message meets the error."""
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
        self.session = self.assistant.session(self.session.user_id)
        self.tell("a new conversation")

    def history(self, _: str = "") -> None:
        """`/history`."""
        if not self.session.history:
            self.tell("nothing was said yet")
        for turn in self.session.history:
            self._show_turn(turn)

    def help(self, _: str = "") -> None:
        """`/help`."""
        self.tell("Type a message, or one of these. Put a file name with spaces into quotes.")
        column = max(len(command.usage) for command in COMMANDS.values())
        narrow = self.screen.width < column + 30
        for command in COMMANDS.values():
            self.tell(f"  {command.usage}" if narrow else f"  {command.usage:<{column}}  {command.help}")

    def quit(self, _: str = "") -> None:
        """`/quit`; `handle` ends the conversation."""

    def _send(self, parts: list[Part], task: str | None) -> None:
        message = Message.of(parts)
        if task is None and self.task is not None and message.modalities in self.assistant.tasks[self.task].accepts:
            task = self.task
        response = self.session.send(message, task=task)
        show(self.context, response)
        _ = response.turns  # an answer that could not be stored is said, not lost in silence

    def _command(self, name: str) -> Command:
        if name not in COMMANDS:
            guess = nearest(name, COMMANDS).replace("did you mean '", "did you mean '/")
            raise InvalidInput(f"unknown command '/{name}'", hint=guess if guess.startswith("did") else "see /help")
        return COMMANDS[name]

    def _pin(self, name: str) -> None:
        if name != AUTO and name not in self.assistant.tasks:
            raise InvalidInput(f"there is no task {name!r}", hint=nearest(name, [AUTO, *self.assistant.tasks]))
        self.task = None if name == AUTO else name

    def _open_session(self) -> Session:
        args = self.context.args
        if args.session is None and args.resume:
            talks = conversations(self.assistant, limit=1000)
            mine = [row["id"] for row in talks if args.user is None or row["user_id"] == args.user]
            if not mine:
                self.screen.note("there is no conversation to go on with; this is a new one")
                return self.assistant.session(args.user)
            return self.assistant.session(session_id=mine[0])
        return self.assistant.session(args.user, session_id=args.session)

    def _offer_pull(self, error: ModelNotFound) -> bool:
        """Asks whether to do what the error's hint says, and does it. False where it was not done."""
        from smallai_assistant.cli.models import pull_models

        hint = _PULL_HINT.search(error.hint)
        if self.confirm is None or hint is None or not self.confirm(f"{error.message}. Get {hint[1]} now?"):
            return False
        pull_models(self.screen, self.assistant.catalog, [hint[1]])
        return True

    def _show_turn(self, turn: Turn) -> None:
        if self.context.args.json:
            self.screen.json({"turn_id": turn.id, "task": turn.task, "said": _said(turn.request), "text": turn.text})
            return
        self.screen.out(f"{self.screen.bold('you:')} {_said(turn.request)}")
        self.screen.out(f"{self.screen.bold('assistant:')} ", end="")
        printer = AnswerPrinter(self.screen)
        for part in turn.response:
            printer.show(part)
        printer.finish()
        if not turn.text:
            self.screen.out("")

    def tell(self, text: str) -> None:
        """Prints about the conversation, which is no answer: not where a program reads JSON."""
        if self.context.args.json:
            self.screen.note(text)
        else:
            self.screen.out(text)


def _said(message: Message) -> str:
    files = [f"[{part.name}]" for part in message.parts if isinstance(part, (ImagePart, AudioPart))]
    return " ".join([*files, message.text]).strip()


def split_path(text: str, *, usage: str) -> tuple[Path, str]:
    """A file name and what follows it. The name may be quoted, or be unquoted with spaces where such a file is there.

    Raises:
        InvalidInput: there is no name.
    """
    if not text:
        raise InvalidInput("the file is missing", hint=usage)
    source = io.StringIO(text)
    lexer = shlex.shlex(source, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        first = lexer.get_token() or ""
        rest = source.read().strip()
    except ValueError:  # a quote that is not closed
        first, _, rest = text.partition(" ")
    if _is_there(first):
        return Path(first).expanduser(), rest
    ends = [match.start() for match in re.finditer(r"\s|$", text)]
    for end in reversed(ends):
        if _is_there(text[:end]):
            return Path(text[:end]).expanduser(), text[end:].strip()
    return Path(first).expanduser(), rest.strip()


def _is_there(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


COMMANDS: Mapping[str, Command] = {
    "image": Command("/image FILE [question]", "say what is on a picture", Chat.image),
    "audio": Command("/audio FILE", "write down a recording", Chat.audio),
    "recommend": Command("/recommend [wish]", "recommend items", Chat.recommend),
    "good": Command("/good [why]", "the last answer was good", verdicts.good),
    "bad": Command("/bad [why]", "the last answer was bad", verdicts.bad),
    "correct": Command("/correct TEXT", "what the last answer should have been", verdicts.correct),
    "label": Command("/label NAME", "what is on the last picture", verdicts.label),
    "undo": Command("/undo", "take back the last of these four", verdicts.undo),
    "learn": Command("/learn [TASK]", "learn from it for good, in the background", verdicts.learn),
    "task": Command("/task [NAME]", "show the tasks, or send every message to one; auto chooses again", Chat.choose),
    "new": Command("/new", "begin a new conversation", Chat.new),
    "history": Command("/history", "show this conversation", Chat.history),
    "help": Command("/help", "show this list", Chat.help),
    "quit": Command("/quit", "end", Chat.quit),
}
