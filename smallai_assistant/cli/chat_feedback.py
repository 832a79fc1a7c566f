"""What a person says about an answer in `smallai chat`: /good, /bad, /correct, /label and /undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smallai_assistant.cli.feedback import report
from smallai_assistant.errors import InvalidInput, StoreError
from smallai_assistant.feedback import default_audience
from smallai_assistant.types import ImagePart, Turn
from smallai_assistant.validation import EVERYONE, USER, checked_audience

if TYPE_CHECKING:
    from smallai_assistant.cli.conversation import Chat


class ChatFeedback:
    """The feedback commands of one run of the chat. It remembers what was given, so that `/undo` can take it back.

    Attributes:
        audience: whom further feedback reaches; None for the default.
    """

    def __init__(self) -> None:
        self.audience: str | None = None
        self._given: list[str] = []  # ids, oldest first, without those that were taken back

    def good(self, chat: Chat, text: str) -> None:
        """`/good [why]`."""
        self._give(chat, _last_turn(chat), is_good=True, comment=text)

    def bad(self, chat: Chat, text: str) -> None:
        """`/bad [why]`."""
        self._give(chat, _last_turn(chat), is_good=False, comment=text)

    def correct(self, chat: Chat, text: str) -> None:
        """`/correct TEXT`."""
        if not text:
            raise InvalidInput("the correction is missing", hint="/correct TEXT")
        self._give(chat, _last_turn(chat), correction=text)

    def label(self, chat: Chat, text: str) -> None:
        """`/label NAME`: about the last picture, even if something else was said since."""
        if not text:
            raise InvalidInput("the name is missing", hint="/label NAME")
        for turn in reversed(chat.session.history):
            if any(isinstance(part, ImagePart) for part in turn.request.parts):
                self._give(chat, turn, correction=text)
                return
        raise InvalidInput("no picture was shown yet", hint="show one with /image FILE")

    def choose_audience(self, chat: Chat, text: str) -> None:
        """`/for [me|everyone|group:NAME]`: whom further feedback reaches."""
        if text:
            self.audience = checked_audience(USER if text == "me" else text)
        chosen = self.audience or chat.assistant.config.learning.default_audience
        chosen = chosen or default_audience(chat.session.user_id)
        who = {USER: "you alone", EVERYONE: "everyone"}.get(chosen, f"the {chosen.replace(':', ' ', 1)}")
        chat.tell(f"what you say about answers is for {who}")

    def undo(self, chat: Chat, _: str = "") -> None:
        """`/undo`: takes back the latest feedback of this run; used again, the one before."""
        if not self._given:
            raise InvalidInput("there is no feedback to take back", hint="see `smallai feedback list`")
        feedback_id = self._given.pop()
        try:
            receipt = chat.assistant.undo_feedback(feedback_id)
        except StoreError:
            self._given.append(feedback_id)  # it still counts, so the next /undo tries again
            raise
        report(chat.context, chat.assistant, receipt)

    def _give(
        self,
        chat: Chat,
        turn: Turn,
        *,
        is_good: bool | None = None,
        correction: str | None = None,
        comment: str = "",
    ) -> None:
        receipt = chat.session.give_feedback(
            turn.id, good=is_good, correction=correction, comment=comment, audience=self.audience
        )
        # The same feedback given twice is stored once; /undo must not take it back twice.
        if receipt.is_new:
            self._given.append(receipt.feedback.id)
        report(chat.context, chat.assistant, receipt)


def _last_turn(chat: Chat) -> Turn:
    if not chat.session.history:
        raise InvalidInput("there is no answer to judge yet", hint="ask something first")
    return chat.session.history[-1]
