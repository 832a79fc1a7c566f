"""`/learn` in `smallai chat`: a learning cycle in the background of the conversation."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.learn import show_report, stop
from smallai_assistant.errors import AssistantError, Busy, InvalidInput, nearest
from smallai_assistant.learning.audience_words import for_whom
from smallai_assistant.learning.cycle import CycleOptions
from smallai_assistant.learning.schedule import learners
from smallai_assistant.validation import EVERYONE, USER, audience_of_user, canonical_audience

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.cli.conversation import Chat
    from smallai_assistant.learning.learning_job import LearningJob


class BackgroundLearning:
    """The learning cycles of one run of the chat: one at a time. The result is printed when the next line is typed."""

    def __init__(self, context: CommandContext, assistant: Assistant) -> None:
        self._context = context
        self._assistant = assistant
        self._task = ""
        self._job: LearningJob | None = None  # None also after its result was printed

    def learn(self, chat: Chat, text: str) -> None:
        """`/learn [TASK] [for me|group:NAME]`: without a name, the pinned task learns, or that of the last answer.

        Raises:
            Busy: a cycle is running.
        """
        text, _, whom = f" {text}".partition(" for ")
        text, audience = text.strip(), _audience(chat, whom.strip())
        task = text or chat.task or (chat.session.history[-1].task if chat.session.history else "")
        if not task:
            raise InvalidInput("which task should learn?", hint="/learn TASK, see /task")
        known = learners(self._assistant.tasks)
        if task not in known:
            raise InvalidInput(f"no task {task!r} learns", hint=nearest(task, known))
        self.tell_finished()
        if self._job is not None:
            raise Busy(f"{self._task} still learns", hint="wait until it is done")
        # On a thread that waits between steps while an answer is made, so that the conversation stays quick.
        options = CycleOptions(audience=audience)
        self._task, self._job = task, self._assistant.learn_in_background(task, options)
        chat.tell(f"{task} learns{for_whom(audience)} in the background; go on talking")

    def status(self) -> str:
        """The progress of the running cycle in a few words; empty if there is none."""
        if self._job is None:
            return ""
        if not self._job.is_running:
            return f"{self._task} has learned: press Enter"
        return f"{self._task} learns: {self._job.what}, {self._job.fraction:.0%}"

    def tell_finished(self) -> None:
        """Prints the result of a cycle that has ended, once."""
        if self._job is None or self._job.is_running:
            return
        job, self._job = self._job, None
        try:
            report = job.result()
        except AssistantError as error:
            self._context.failed(error, about={"task": self._task})
        else:
            # The same output as that of `smallai learn`.
            if self._context.args.json:
                self._context.screen.json(report.to_json())
            else:
                show_report(self._context.screen, report)

    def finish(self) -> None:
        """Waits for the running cycle and prints its result; Ctrl-C stops the cycle.

        A script that pipes its lines into the chat ends with `/learn` and wants the result.
        """
        if self._job is None:
            return
        try:
            with contextlib.suppress(AssistantError):  # `tell_finished` prints it
                self._job.result()
        except KeyboardInterrupt:
            self.stop()
            raise
        self.tell_finished()

    def stop(self) -> None:
        """Stops the running cycle at its next step. Idempotent."""
        if self._job is not None and self._job.is_running:
            self._context.screen.note(
                f"stopping: {self._task} learns; `smallai learn {self._task}` continues from there"
            )
            stop(self._job)
            self._job = None
        self.tell_finished()


def _audience(chat: Chat, text: str) -> str:
    """The audience that somebody names in the chat."""
    return audience_of_user(chat.session.user_id) if text in ("me", USER) else canonical_audience(text or EVERYONE)
