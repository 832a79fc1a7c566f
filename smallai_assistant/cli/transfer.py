"""`smallai feedback export` and `smallai feedback import`: moves feedback, turns and media by a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext, check_file, check_writable
from smallai_assistant.cli.imports import InvalidFile
from smallai_assistant.cli.render import count
from smallai_assistant.cli.streams import write
from smallai_assistant.errors import InvalidInput
from smallai_assistant.storage.feedback_transfer import FeedbackTransfer, Transfer

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant


def export_feedback(context: CommandContext) -> int:
    """`smallai feedback export FILE`."""
    args, screen = context.args, context.screen
    is_piped = str(args.file) == "-"
    if not is_piped:
        check_writable(args.file)
    with context.assistant() as assistant:
        transfer, done = _transfer(assistant), Transfer()
        if is_piped:
            for line in transfer.lines(done, task=args.task, with_media=not args.no_media):
                # Not through `screen.out`, which removes control characters: an import must read the same bytes. The
                # lines are ASCII, so a terminal is safe.
                write(line, flush=False)
        else:
            done = transfer.export_to(args.file, task=args.task, with_media=not args.no_media)
    text = f"exported {_told(done)}"
    if is_piped:  # standard output has the rows
        screen.note(text)
    elif args.json:
        screen.json(_json(args.file, done))
    else:
        screen.out(text)
    if done.n_erased:
        screen.note(f"note: {count(done.n_erased, 'erased row')} left out")
    if done.n_unreadable:
        screen.note(f"note: {count(done.n_unreadable, 'row')} cannot be read and left out, see `smallai doctor`")
    return 0


def import_feedback(context: CommandContext) -> int:
    """`smallai feedback import FILE`."""
    args, screen = context.args, context.screen
    path = check_file(args.file)
    with context.assistant() as assistant:
        try:
            done = assistant.import_feedback(path)
        except InvalidInput as error:
            # The content of the file is wrong, not the call of the command: exit code 1.
            raise InvalidFile(error.message, hint=error.hint, suggestion=error.suggestion) from error
    if args.json:
        screen.json(_json(path, done))
        return 0
    screen.out(f"imported {_told(done)}" + (f"; {done.n_known:,} known already" if done.n_known else ""))
    if done.n_erased:
        screen.note(f"note: {count(done.n_erased, 'row')} left out: what they are about was erased here")
    if done.n_ahead:
        screen.note(f"note: {count(done.n_ahead, 'row')} with a date in the future; said now, as far as it counts")
    for task in sorted(done.tasks):
        screen.note(f"train on it with: smallai learn {task}")
    return 0


def _transfer(assistant: Assistant) -> FeedbackTransfer:
    return FeedbackTransfer(assistant.database, assistant.config.data_dir / "media")


def _told(done: Transfer) -> str:
    parts = [count(done.n_feedback, "feedback row"), count(done.n_turns, "turn")]
    return ", ".join([*parts, count(done.n_media, "file")])


def _json(path: Path, done: Transfer) -> dict[str, Any]:
    return {
        "file": str(path),
        "feedback": done.n_feedback,
        "turns": done.n_turns,
        "media": done.n_media,
        "known": done.n_known,
        "erased": done.n_erased,
        "unreadable": done.n_unreadable,
        "ahead": done.n_ahead,
        "without_media": done.n_without_media,
        "tasks": sorted(done.tasks),
    }
