"""`smallai chat`: reads lines from a person or from standard input, and gives them to the conversation."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from smallai_assistant.cli.background_learning import BackgroundLearning
from smallai_assistant.cli.chat_feedback import ChatFeedback
from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.conversation import AUTO, Chat, Command
from smallai_assistant.cli.why import of_last_answer

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant


def chat(context: CommandContext) -> int:
    """`smallai chat`."""
    with context.assistant() as assistant:
        repl = Repl(context, assistant)
        try:
            if context.screen.is_terminal and not context.args.json:
                repl.talk()
            else:
                repl.read_stdin()
        finally:
            # A cycle that outlives the assistant would find its database closed.
            repl.learning.stop()
    return 0


class Repl:
    """The loop of the chat. It wires the conversation, the feedback commands and the learning in the background."""

    def __init__(self, context: CommandContext, assistant: Assistant) -> None:
        self.context = context
        self.assistant = assistant
        self.learning = BackgroundLearning(context, assistant)
        self.chat = Chat(context, assistant, make_commands(ChatFeedback(), self.learning))

    def handle(self, line: str) -> bool:
        """Handles a line. Returns False if it ends the conversation."""
        # The result of a cycle is printed here and not when it ends, because then the person may be typing.
        self.learning.tell_finished()
        return self.chat.handle(line)

    def talk(self) -> None:
        """Talks with the person at the terminal until they end it."""
        from smallai_assistant import __version__
        from smallai_assistant.cli.prompt import LineReader

        chat, screen = self.chat, self.context.screen
        welcome = "Type a message; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends."
        screen.out(textwrap.fill(f"smallai {__version__}. {welcome}", screen.width))
        reader = LineReader(
            self.assistant.config.data_dir / "chat_history",
            commands=chat.commands,
            tasks=[AUTO, *self.assistant.tasks],
            note=screen.note,
            status=self.learning.status,
        )
        chat.confirm = reader.confirm
        chat.offer_chat_model()
        # The prompt names a pinned task, since every message goes there.
        while (line := reader.read(f"{chat.task}> " if chat.task else "> ")) is not None:
            if not self.handle(line):
                break
        self.learning.stop()
        if chat.session.history:
            screen.note(f"continue another time with: smallai chat --session {chat.session.id}")

    def read_stdin(self) -> None:
        """Handles the lines of standard input, and waits for a cycle that runs at its end."""
        for line in _stdin_lines():
            if not self.handle(line):
                break
        self.learning.finish()


def make_commands(feedback: ChatFeedback, learning: BackgroundLearning) -> dict[str, Command]:
    """The commands of the chat by name, in the order of `/help`."""
    return {
        "image": Command("/image FILE [question]", "say what is on a picture", Chat.image),
        "audio": Command("/audio FILE", "transcribe a recording", Chat.audio),
        "recommend": Command("/recommend [wish]", "recommend items", Chat.recommend),
        "good": Command("/good [why]", "the last answer was good", feedback.good),
        "bad": Command("/bad [why]", "the last answer was bad", feedback.bad),
        "correct": Command("/correct TEXT", "what the last answer should have been", feedback.correct),
        "label": Command("/label NAME", "what is on the last picture", feedback.label),
        "undo": Command("/undo", "take back the last of these four", feedback.undo),
        "why": Command("/why", "what the last answer came from", of_last_answer),
        "for": Command(
            "/for [me|everyone|group:NAME]", "show or choose whom these four reach", feedback.choose_audience
        ),
        "learn": Command("/learn [TASK] [for me]", "train on the feedback, in the background", learning.learn),
        "task": Command(
            "/task [NAME]", "show the tasks, or send every message to one; auto chooses again", Chat.choose
        ),
        "new": Command("/new", "begin a new conversation", Chat.new),
        "history": Command("/history", "show this conversation", Chat.history),
        "help": Command("/help", "show this list", Chat.help),
        "quit": Command("/quit", "end", Chat.quit),
    }


def _stdin_lines() -> Iterator[str]:
    with contextlib.suppress(AttributeError, ValueError):  # an embedder's own stream
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    for line in sys.stdin or ():  # a shell closes it with `<&-`
        yield line.rstrip("\r\n")
