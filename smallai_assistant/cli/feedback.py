"""`smallai feedback` and `smallai teach`: gives feedback, and lists, counts and takes back what was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext, check_file
from smallai_assistant.cli.info import conversations
from smallai_assistant.cli.one_shot import IMAGE, SPEECH, lazily
from smallai_assistant.cli.render import notices_json
from smallai_assistant.cli.times import local_time
from smallai_assistant.errors import InvalidInput
from smallai_assistant.feedback import DEFAULT_SOURCE, Feedback, Receipt
from smallai_assistant.task import LearningTask
from smallai_assistant.types import AudioPart, ImagePart, Message, Turn, file_part
from smallai_assistant.validation import EVERYONE, USER

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.storage.feedback_store import FeedbackRow

LAST = "last"


def add(context: CommandContext) -> int:
    """`smallai feedback add TURN_ID`."""
    args = context.args
    given = Feedback(
        args.turn_id,
        is_good=args.is_good,
        correction=args.correction,
        comment=args.comment,
        signal=args.signal,
        value=args.value,
        item=args.item,
        source=args.source or DEFAULT_SOURCE,
        audience=args.audience,
        may_train=not args.no_training,
        key=args.key,
    )
    # Made before the assistant is opened, so that a wrong value is reported at once.
    with context.assistant() as assistant:
        turn = latest_turn(assistant) if args.turn_id == LAST else assistant.store.turn(args.turn_id)
        receipt = assistant.give_feedback(replace(given, turn_id=turn.id, source=args.source or source_of(turn)))
        report(context, assistant, receipt)
    return 0


def source_of(turn: Turn) -> str:
    """The source of feedback on a turn if none is named: the user of the turn."""
    return turn.user_id or DEFAULT_SOURCE


def report(context: CommandContext, assistant: Assistant, receipt: Receipt, *, about: str = "") -> None:
    """Prints in one line what a feedback changed.

    Args:
        about: the file that the feedback is about.
    """
    screen = context.screen
    if context.args.json:
        screen.json({**({"file": about} if about else {}), **receipt_json(receipt)})
    else:
        effect = receipt.effect or ("stored" if receipt.notices else _later(assistant, receipt.feedback))
        screen.out(f"{about}: {effect}" if about else effect)
    screen.notices(receipt.notices)


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    """The JSON object that `smallai feedback add` prints."""
    given = receipt.feedback
    return {
        "feedback_id": given.id,
        "turn_id": given.turn_id,
        "task": given.task,
        "is_new": receipt.is_new,
        "effect": receipt.effect,
        "notices": notices_json(receipt.notices),
    }


def _later(assistant: Assistant, given: Feedback) -> str:
    """Says what becomes of a feedback that changed nothing at once."""
    if not isinstance(assistant.tasks.get(given.task), LearningTask):
        # It is stored all the same: the task may learn in a later version.
        return f"noted; {given.task} does not learn"
    if not given.may_train:
        return "noted; it is kept, and no cycle learns from it"
    if given.audience not in (None, EVERYONE):
        n_people = assistant.config.learning.min_people
        return f"noted; it is not for everyone, so a cycle learns it only if {n_people} people say the same"
    return f"noted; it counts at the next `smallai learn {given.task}`"


def latest_turn(assistant: Assistant) -> Turn:
    """The latest turn that was asked.

    Raises:
        InvalidInput: there is none.
    """
    # Not simply the latest turn of the database: what was taught is stored as turns, too.
    for row in conversations(assistant, limit=1):
        return assistant.store.turns(row["id"], limit=1)[0]
    raise InvalidInput("nothing was answered yet", hint="ask something with `smallai ask`")


def list_feedback(context: CommandContext) -> int:
    """`smallai feedback list`: the latest rows, oldest first."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        rows = assistant.feedback.rows(task=args.task, limit=args.limit)
        turns = {} if args.json else assistant.store.turns_by_id([row.turn_id for row in rows])
    for row in rows:
        if args.json:
            screen.json(_row_json(row))
            continue
        when = local_time(row.created_at)
        state = "" if row.state == "active" else f"  ({'taken back' if row.state == 'retracted' else row.state})"
        screen.out(f"{row.id}  {when}  {row.task}  {row.source}{_for_whom(row.feedback)}{state}")
        said = f"{_said(row.feedback)}, of " if row.feedback is not None else "of "
        screen.out(f"    {_cut(said + _asked(turns.get(row.turn_id)), screen.width - 4)}")
    if not rows and not args.json:
        screen.out("no feedback yet: give some with /good, /bad and /correct in `smallai chat`")
    return 0


def _row_json(row: FeedbackRow) -> dict[str, Any]:
    from smallai_assistant.storage.feedback_store import feedback_to_json

    if row.feedback is not None:  # erased rows have no content
        return {**feedback_to_json(row.feedback), "state": row.state}
    head = {"id": row.id, "turn_id": row.turn_id, "task": row.task, "source": row.source}
    return {**head, "created_at": row.created_at.isoformat(), "state": row.state}


def _for_whom(given: Feedback | None) -> str:
    if given is None or given.audience in (None, EVERYONE):
        return ""
    return f"  for {given.source if given.audience == USER else given.audience} only"


def _said(given: Feedback) -> str:
    words = [] if given.is_good is None else ["good" if given.is_good else "bad"]
    if given.correction is not None:
        words.append(f"should be “{_cut(given.correction, 60)}”")
    if given.signal is not None:
        value = "" if given.value is None else f" {given.value:g}"
        words.append(f"{given.signal}{value}" + (f" {given.item}" if given.item else ""))
    if given.comment:
        words.append(f"“{_cut(given.comment, 60)}”")
    return " ".join(words)


def _asked(turn: Turn | None) -> str:
    if turn is None:
        return "a turn that is gone"
    files = [f"[{Path(part.name).name}]" for part in turn.request.parts if isinstance(part, (ImagePart, AudioPart))]
    return " ".join([*files, turn.request.text]).strip()


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max(16, width) else f"{text[: max(13, width - 3)]}..."


def stats(context: CommandContext) -> int:
    """`smallai feedback stats`: one row for each task and source."""
    with context.assistant() as assistant:
        rows = assistant.feedback.stats()
    if context.args.json:
        for row in rows:
            context.screen.json(row)
    elif rows:
        context.screen.table(list(rows[0]), [[str(value) for value in row.values()] for row in rows], indent="")
    else:
        context.screen.out("no feedback yet")
    return 0


def undo(context: CommandContext) -> int:
    """`smallai feedback undo ID`."""
    with context.assistant() as assistant:
        report(context, assistant, assistant.undo_feedback(context.args.id))
    return 0


def teach(context: CommandContext) -> int:
    """`smallai teach LABEL FILE...`."""
    args = context.args
    # A bad label raises here: once, and before the assistant is opened.
    Feedback(LAST, correction=args.label, source=args.source, audience=args.audience)
    with lazily(context) as assistant:

        def work(path: Path) -> None:
            part = file_part(check_file(path))
            task = args.task or task_to_teach(assistant(), part)
            receipt = assistant().teach(task, part, args.label, source=args.source, audience=args.audience)
            report(context, assistant(), receipt, about=str(path))

        return context.for_each("file", args.files, work)


def task_to_teach(assistant: Assistant, part: ImagePart | AudioPart) -> str:
    """The task that learns from a picture or a recording.

    Raises:
        InvalidInput: no task does.
    """
    modalities = Message((part,)).modalities
    learners = [
        name for name, task in assistant.tasks.items() if isinstance(task, LearningTask) and modalities in task.accepts
    ]
    # The built-in tasks come first: a plugin gets the files only if it is named, or if it alone takes them.
    for name in (IMAGE, SPEECH, *learners):
        if name in learners:
            return name
    what = "a picture" if isinstance(part, ImagePart) else "a recording"
    raise InvalidInput(f"no task learns from {what}", hint="see `smallai plugins`")
