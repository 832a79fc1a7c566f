"""`smallai feedback erase`, `turns erase` and `sessions erase`: deletes for good, and says what went with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.render import count, notices_json
from smallai_assistant.validation import described

if TYPE_CHECKING:
    from smallai_assistant.learning.eraser import Erased


def feedback(context: CommandContext) -> int:
    """`smallai feedback erase ID...`."""
    with context.assistant() as assistant:
        erased = assistant.erase_feedback(context.args.ids)
    return _report(context, erased)


def turns(context: CommandContext) -> int:
    """`smallai turns erase ID...`."""
    with context.assistant() as assistant:
        erased = assistant.erase_turns(context.args.ids)
    return _report(context, erased)


def session(context: CommandContext) -> int:
    """`smallai sessions erase ID`."""
    with context.assistant() as assistant:
        erased = assistant.erase_session(context.args.id)
    return _report(context, erased)


def user(context: CommandContext) -> int:
    """`smallai users forget ID`."""
    with context.assistant() as assistant:
        erased = assistant.forget_user(context.args.id)
    return _report(context, erased)


def _report(context: CommandContext, erased: Erased) -> int:
    screen = context.screen
    if context.args.json:
        screen.json(
            {
                "erased": list(erased.feedback_ids),
                "turns": list(erased.turn_ids),
                "media": erased.n_media,
                "interactions": erased.n_interactions,
                "adapters": list(erased.adapter_ids),
                "champions": list(erased.champions),
                "serving": erased.serving,
                "audiences": erased.audiences,
                "backups": list(erased.backups),
                "notices": notices_json(erased.notices),
            }
        )
        return 0
    found = [(len(erased.feedback_ids), "feedback row"), (len(erased.turn_ids), "turn"), (erased.n_media, "file")]
    found.append((erased.n_interactions, "interaction"))
    screen.out("erased " + (", ".join(count(n, what) for n, what in found if n) or "nothing: it was empty already"))
    for adapter_id in erased.adapter_ids:
        served = " and served until now" if adapter_id in erased.champions else ""
        whom = f" for {described(erased.audiences[adapter_id])}" if adapter_id in erased.audiences else ""
        screen.out(f"  {adapter_id}{whom} learned from it{served}: it is deleted")
    for task, serves in sorted(erased.serving.items()):
        screen.out(f"  {serves or 'the bare model'} serves {task} now; learn again with: smallai learn {task}")
    for name in erased.backups:
        screen.out(f"  the copy {name} held it too, and is deleted")
    screen.notices(erased.notices)
    return 0
