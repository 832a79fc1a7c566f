"""`smallai plugins`, `sessions list` and `turns list`: what is installed, and the conversations so far."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.render import count
from smallai_assistant.cli.times import local_time
from smallai_assistant.foreign.installed import installed_plugins

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant


def plugins(context: CommandContext) -> int:
    """`smallai plugins`: the installed plugins with their tasks, and why a broken one was left out."""
    with context.assistant(names_faults=False) as assistant:
        rows = plugin_rows(assistant)
    for row in rows:
        if context.args.json:
            context.screen.json(row)
            continue
        context.screen.heading(f"{row['name']} {row['version']}".strip())
        if row["broken"] is not None:
            # One that has a version or tasks is used, and failed later.
            what = "failed" if row["version"] or row["tasks"] else "left out"
            context.screen.out(f"  {what}: {row['broken']}")
        for task in row["tasks"]:
            takes = ", ".join("+".join(modalities) for modalities in task["accepts"])
            context.screen.out(f"  {task['name']}: {task['title'] or 'no description'} (takes {takes})")
    if not rows and not context.args.json:
        context.screen.out("no plugin is installed")
    return 0


def plugin_rows(assistant: Assistant) -> list[dict[str, Any]]:
    """One row for each plugin, sorted by name: `name`, `version`, `tasks`, and `broken`, the reason or None."""
    # A task does not know its plugin; its module tells the package, and the entry point the plugin's name.
    modules = {plugin.module: plugin.label for plugin in installed_plugins() if not plugin.unusable}
    tasks: dict[str, list[dict[str, Any]]] = {}
    for name, task in assistant.tasks.items():
        module = type(task).__module__
        owners = (name for package, name in modules.items() if module == package or module.startswith(f"{package}."))
        # A plugin without an entry point, as in a test, goes by the name of its module.
        owner = next(owners, module)
        accepts = [sorted(accept) for accept in task.accepts]
        tasks.setdefault(owner, []).append({"name": name, "title": task.title, "accepts": accepts})
    rows = [
        {"name": name, "version": version, "tasks": tasks.pop(name, []), "broken": None}
        for name, version in assistant.plugins.items()
    ]
    rows += [{"name": name, "version": "", "tasks": rest, "broken": None} for name, rest in tasks.items()]
    by_name: dict[str, dict[str, Any]] = {str(row["name"]): row for row in rows}
    # A plugin may have registered a task before another one broke the contract.
    for name, why in assistant.broken_plugins.items():
        by_name[name] = {"name": name, "version": "", "tasks": [], **by_name.get(name, {}), "broken": why}
    return [by_name[name] for name in sorted(by_name)]


def users_list(context: CommandContext) -> int:
    """`smallai users list`."""
    with context.assistant() as assistant:
        rows = assistant.store.users()
    for row in rows:
        when = datetime.fromtimestamp(row["last_at"], UTC)
        if context.args.json:
            context.screen.json({**row, "last_at": when.isoformat()})
        else:
            context.screen.out(f"{row['id']}  {count(row['n_turns'], 'turn')}, the last {local_time(when)}")
    if not rows and not context.args.json:
        context.screen.out("nobody was named yet: name who talks with --user")
    return 0


def sessions_list(context: CommandContext) -> int:
    """`smallai sessions list`: the conversations, latest first."""
    with context.assistant() as assistant:
        rows = conversations(assistant, limit=context.args.limit)
    for row in rows:
        if context.args.json:
            context.screen.json(row)
            continue
        when = local_time(row["last_at"])
        turns = f"{row['n_turns']} turn{'' if row['n_turns'] == 1 else 's'}"
        user = f"  {row['user_id']}" if row["user_id"] else ""
        context.screen.out(f"{row['id']}  {when}  {turns}{user}")
        first = " ".join(row["first_text"].split()) or "(a file)"
        context.screen.out(f"    {first[: max(16, context.screen.width - 6)]}")
    if not rows and not context.args.json:
        context.screen.out("no conversation yet: begin one with `smallai chat`")
    return 0


def turns_list(context: CommandContext) -> int:
    """`smallai turns list`: the latest turns, oldest first; an erasure needs their ids."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        if args.session is not None:
            assistant.store.user_of_session(args.session)  # a wrong id is told, and not taken for an empty session
        turns = assistant.store.turns(args.session, limit=args.limit)
    for turn in turns:
        if args.json:
            head = {"id": turn.id, "session_id": turn.session_id, "user_id": turn.user_id, "task": turn.task}
            screen.json(
                {**head, "created_at": turn.created_at.isoformat(), "text": turn.request.text, "answer": turn.text}
            )
            continue
        screen.out(f"{turn.id}  {local_time(turn.created_at)}  {turn.task}")
        said = " ".join(turn.request.text.split()) or "(a file)"
        screen.out(f"    {said[: max(16, screen.width - 6)]}")
    if not turns and not args.json:
        screen.out("no turn yet: ask something with `smallai ask`")
    return 0


def conversations(assistant: Assistant, *, limit: int) -> list[dict[str, Any]]:
    """The sessions in which somebody talked, latest first. The session that holds what was taught is left out."""
    from smallai_assistant.learning.feedback_service import TAUGHT_SESSION

    # One more than asked for, in case that session is among them.
    rows = assistant.store.session_list(limit=limit + 1)
    return [row for row in rows if row["id"] != TAUGHT_SESSION][:limit]
