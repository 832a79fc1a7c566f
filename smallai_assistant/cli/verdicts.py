"""What a person says of an answer in `smallai chat`, and the learning that follows in the background."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from smallai_assistant.config import nearest
from smallai_assistant.errors import AssistantError, Busy, InvalidInput, StoreError
from smallai_assistant.task import LearningTask
from smallai_assistant.types import ImagePart, Turn

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.cli.context import CommandContext
    from smallai_assistant.cli.repl import Chat
    from smallai_assistant.learning.learner import LearningJob


def good(chat: Chat, text: str) -> None:
    """`/good [why]`."""
    _give(chat, _last_turn(chat), is_good=True, comment=text)


def bad(chat: Chat, text: str) -> None:
    """`/bad [why]`."""
    _give(chat, _last_turn(chat), is_good=False, comment=text)


def correct(chat: Chat, text: str) -> None:
    """`/correct TEXT`."""
    if not text:
        raise InvalidInput("the correction is missing", hint="/correct TEXT")
    _give(chat, _last_turn(chat), correction=text)


def label(chat: Chat, text: str) -> None:
    """`/label NAME`."""
    if not text:
        raise InvalidInput("the name is missing", hint="/label NAME")
    for turn in reversed(chat.session.history):
        if any(isinstance(part, ImagePart) for part in turn.request.parts):
            _give(chat, turn, correction=text)
            return
    raise InvalidInput("no picture was shown yet", hint="show one with /image FILE")


def undo(chat: Chat, _: str = "") -> None:
    """`/undo`."""
    from smallai_assistant.cli.feedback import report

    if not chat.given:
        raise InvalidInput("there is no feedback to take back", hint="see `smallai feedback list`")
    feedback_id = chat.given.pop()
    try:
        receipt = chat.assistant.undo_feedback(feedback_id)
    except StoreError:
        chat.given.append(feedback_id)  # it still counts
        raise
    report(chat.context, chat.assistant, receipt)


def learn(chat: Chat, text: str) -> None:
    """`/learn [TASK]`: that of the last answer where none is named."""
    task = text or chat.task or (chat.session.history[-1].task if chat.session.history else "")
    if not task:
        raise InvalidInput("which task should learn?", hint="/learn TASK, see /task")
    learners = [name for name, each in chat.assistant.tasks.items() if isinstance(each, LearningTask)]
    if task not in learners:
        raise InvalidInput(f"no task {task!r} learns", hint=nearest(task, learners))
    chat.cycles.start(task)
    chat.tell(f"{task} learns in the background; go on talking")


def _last_turn(chat: Chat) -> Turn:
    if not chat.session.history:
        raise InvalidInput("there is no answer to judge yet", hint="ask something first")
    return chat.session.history[-1]


def _give(
    chat: Chat, turn: Turn, *, is_good: bool | None = None, correction: str | None = None, comment: str = ""
) -> None:
    from smallai_assistant.cli.feedback import report

    receipt = chat.session.give_feedback(turn.id, good=is_good, correction=correction, comment=comment)
    if receipt.is_new:
        chat.given.append(receipt.feedback.id)
    report(chat.context, chat.assistant, receipt)


class Cycles:
    """The learning cycle of a conversation: one at a time, told when it is done."""

    def __init__(self, context: CommandContext, assistant: Assistant) -> None:
        self._context = context
        self._assistant = assistant
        self._task = ""
        self._job: LearningJob | None = None

    def start(self, task: str) -> None:
        """Starts one.

        Raises:
            Busy: one runs.
        """
        self.tell_finished()
        if self._job is not None:
            raise Busy(f"{self._task} still learns", hint="wait until it is done")
        self._task, self._job = task, self._assistant.learn_in_background(task)

    def status(self) -> str:
        """How far it is; empty where none runs that was not told of."""
        if self._job is None:
            return ""
        if not self._job.is_running:
            return f"{self._task} has learned: press Enter"
        return f"{self._task} learns: {self._job.what}, {self._job.fraction:.0%}"

    def tell_finished(self) -> None:
        """Prints what came of one that has ended."""
        from smallai_assistant.cli.learn import show_report

        if self._job is None or self._job.is_running:
            return
        job, self._job = self._job, None
        try:
            report = job.result()
        except AssistantError as error:
            self._context.failed(error, about={"task": self._task})
        else:
            if self._context.args.json:
                self._context.screen.json(report.to_json())
            else:
                show_report(self._context.screen, report)

    def finish(self) -> None:
        """Waits for the one that runs and tells of it; Ctrl-C stops it."""
        if self._job is None:
            return
        try:
            with contextlib.suppress(AssistantError):  # told below
                self._job.result()
        except KeyboardInterrupt:
            self.stop()
            raise
        self.tell_finished()

    def stop(self) -> None:
        """Stops the one that runs at its next step."""
        from smallai_assistant.cli.learn import stop

        if self._job is not None and self._job.is_running:
            self._context.screen.note(f"stopping: {self._task} learns; `smallai learn {self._task}` goes on from there")
            stop(self._job)
            self._job = None
        self.tell_finished()
