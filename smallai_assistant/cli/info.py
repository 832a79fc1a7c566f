"""`smallai plugins` and `smallai sessions list`."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.hookspecs import PROJECT

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant


def plugins(context: CommandContext) -> int:
    """`smallai plugins`: what is installed, which tasks it brings, what is broken and why."""
    with context.assistant() as assistant:
        rows = plugin_rows(assistant)
    for row in rows:
        if context.args.json:
            context.screen.json(row)
            continue
        context.screen.heading(f"{row['name']} {row['version']}".strip())
        if row["broken"] is not None:
            context.screen.out(f"  left out: {row['broken']}")
        for task in row["tasks"]:
            takes = ", ".join("+".join(each) for each in task["accepts"])
            context.screen.out(f"  {task['name']}: {task['title'] or 'no description'} (takes {takes})")
    if not rows and not context.args.json:
        context.screen.out("no plugin is installed")
    return 0


def plugin_rows(assistant: Assistant) -> list[dict[str, Any]]:
    """One row a plugin: name, version, tasks, and what is wrong with it."""
    modules = {
        entry_point.value.split(":")[0]: entry_point.name
        for entry_point in importlib.metadata.entry_points(group=PROJECT)
    }
    tasks: dict[str, list[dict[str, Any]]] = {}
    for name, task in assistant.tasks.items():
        module = type(task).__module__
        owner = next((modules[each] for each in modules if module == each or module.startswith(f"{each}.")), module)
        accepts = [sorted(accept) for accept in task.accepts]
        tasks.setdefault(owner, []).append({"name": name, "title": task.title, "accepts": accepts})
    rows = [
        {"name": name, "version": version, "tasks": tasks.pop(name, []), "broken": None}
        for name, version in assistant.plugins.items()
    ]
    rows += [{"name": name, "version": "", "tasks": each, "broken": None} for name, each in tasks.items()]
    by_name: dict[str, dict[str, Any]] = {str(row["name"]): row for row in rows}
    for name, why in assistant.broken_plugins.items():
        by_name[name] = {"name": name, "version": "", "tasks": [], **by_name.get(name, {}), "broken": why}
    return [by_name[name] for name in sorted(by_name)]


def sessions_list(context: CommandContext) -> int:
    """`smallai sessions list`: newest first."""
    with context.assistant() as assistant:
        rows = conversations(assistant, limit=context.args.limit)
    for row in rows:
        if context.args.json:
            context.screen.json(row)
            continue
        when = datetime.fromtimestamp(row["last_at"]).astimezone().strftime("%Y-%m-%d %H:%M")
        turns = f"{row['n_turns']} turn{'' if row['n_turns'] == 1 else 's'}"
        user = f"  {row['user_id']}" if row["user_id"] else ""
        context.screen.out(f"{row['id']}  {when}  {turns}{user}")
        first = " ".join(row["first_text"].split()) or "(a file)"
        context.screen.out(f"    {first[: max(16, context.screen.width - 6)]}")
    if not rows and not context.args.json:
        context.screen.out("no conversation yet: begin one with `smallai chat`")
    return 0


def conversations(assistant: Assistant, *, limit: int) -> list[dict[str, Any]]:
    """The sessions that somebody talked in, newest first: not the one that holds what was taught."""
    from smallai_assistant.learning.feedback_service import TAUGHT_SESSION

    rows = assistant.store.session_list(limit=limit + 1)
    return [row for row in rows if row["id"] != TAUGHT_SESSION][:limit]
