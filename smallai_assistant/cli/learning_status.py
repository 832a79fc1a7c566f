"""`smallai learn --status`: what each task waits for, and how its last cycle ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.render import count
from smallai_assistant.cli.times import local_time
from smallai_assistant.errors import InvalidInput, nearest
from smallai_assistant.learning.audience_words import below, for_whom, option_for
from smallai_assistant.learning.schedule import learners

if TYPE_CHECKING:
    from smallai_assistant.learning.cycle_history import CycleRecord
    from smallai_assistant.learning.schedule import TaskStatus

_MAX_NAMED = 3  # persons and groups
_OUTCOMES = {"too_little": "too little feedback", "nothing_new": "nothing new to learn"}


def status(context: CommandContext) -> int:
    """`smallai learn [TASK] --status`."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        known = learners(assistant.tasks)
        if args.task is not None and args.task not in known:
            raise InvalidInput(f"no task {args.task!r} learns", hint=nearest(args.task, known))
        found = assistant.schedule.status(args.task, audience=args.audience)
    for task in found:
        if args.json:
            screen.json(task.to_json())
            continue
        screen.heading(f"{task.task}{for_whom(task.audience)}")
        screen.out(f"  serves: {task.serves or below(task.audience)}")
        screen.out(f"  new feedback: {count(task.n_new, 'row')}; {task.n_wanted:,} start a cycle")
        screen.out(f"  last cycle: {_ended(task.last)}")
        screen.out(f"  next cycle: {_next(task)}")
        if task.due:
            names = ", ".join(task.due[:_MAX_NAMED]) + (" and others" if len(task.due) > _MAX_NAMED else "")
            screen.out(f"  enough for a cycle of their own: {len(task.due):,} ({names})")
    if not found and not args.json:
        screen.out("no task learns")
    return 0


def _ended(last: CycleRecord | None) -> str:
    if last is None:
        return "none yet"
    why = "; ".join(last.reasons) or last.failure
    version = f", {last.adapter_id}" if last.adapter_id else ""
    head = f"{local_time(last.at)}, {_OUTCOMES.get(last.outcome, last.outcome)}{version}, {last.seconds:.1f} s"
    return f"{head}: {why}" if why else head


def _next(task: TaskStatus) -> str:
    if task.running is not None:
        doing = "" if task.progress is None else f": {task.progress[0]}, {task.progress[1]:.0%}"
        return f"runs since {local_time(task.running.at)}{doing}"
    if task.next_at is None:
        return f"when somebody starts it: smallai learn {task.task}{option_for(task.audience)}"
    if task.waits_for == "feedback":
        return f"after {count(task.n_wanted - task.n_new, 'more row')}, not before {local_time(task.next_at)}"
    if task.waits_for == "running":
        return "after the cycle of another task"
    if task.waits_for == "nothing":
        return "within a minute while an assistant is open"
    quiet = "if nobody asks anything until then, " if task.waits_for == "quiet" else ""
    return f"{local_time(task.next_at)}, {quiet}while an assistant is open"
