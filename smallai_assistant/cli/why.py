"""`smallai why` and `/why`: what an answer came from, and what would have been said without it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.feedback import LAST, latest_turn
from smallai_assistant.cli.render import notices_json
from smallai_assistant.errors import InvalidInput
from smallai_assistant.validation import EVERYONE, described

if TYPE_CHECKING:
    from smallai_assistant.cli.conversation import Chat
    from smallai_assistant.cli.render import Screen
    from smallai_assistant.conversation.why import Why


def why(context: CommandContext) -> int:
    """`smallai why TURN_ID`."""
    args = context.args
    with context.assistant() as assistant:
        turn = latest_turn(assistant) if args.turn_id == LAST else assistant.store.turn(args.turn_id)
        session = assistant.session(args.user if args.user is not None else turn.user_id, groups=args.group)
        found = session.why(turn.id)
    if context.args.json:
        context.screen.json({**asdict(found), "notices": notices_json(found.notices)})
    else:
        show(context.screen, found)
    return 0


def of_last_answer(chat: Chat, _: str = "") -> None:
    """`/why`."""
    if not chat.session.history:
        raise InvalidInput("there is no answer to explain yet", hint="ask something first")
    show(chat.screen, chat.session.why(chat.session.history[-1].id))


def show(screen: Screen, found: Why) -> None:
    """Prints why an answer was given, for people."""
    if not found.causes and found.adapter is None:
        screen.out(f"Nothing that was learned was used: {found.model or 'the task'} answered by itself.")
    if found.adapter is not None:
        part = f" ({found.part})" if found.part else ""
        whom = "" if found.audience == EVERYONE else f", which learned for {described(found.audience)},"
        screen.out(f"The version {found.adapter}{part} of {found.task}{whom} answered.")
    for cause in found.causes:
        what = f"should be “{_cut(cause.right)}”" if cause.right else "judged"
        whom = "" if cause.audience == EVERYONE else f", for {cause.audience.partition(':')[2] or 'you'} only"
        state = "" if cause.counts else " (taken back since)"
        screen.out(f"“{_cut(cause.question)}” {what}: {cause.feedback_id} of {cause.source}{whom}{state}")
        measured = [f"similarity {cause.similarity:.2f}"] if cause.similarity is not None else []
        if told := "; ".join([*measured, *([cause.verdict] if cause.verdict else [])]):
            screen.out(f"    {told}")
    if found.bare_answer and found.bare_answer != found.answer:
        screen.out(f"Without what was learned: {_cut(found.bare_answer, 300)}")
    elif found.bare_answer and (found.causes or found.adapter is not None):
        screen.out("Without what was learned the answer would be the same.")
    screen.notices(found.notices)


def _cut(text: str, width: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."
