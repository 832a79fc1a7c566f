"""`smallai adapters`: what was learned, which version serves, and back again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.learn import show_figures
from smallai_assistant.cli.render import count, size
from smallai_assistant.config import nearest
from smallai_assistant.errors import InvalidInput
from smallai_assistant.learning.evaluation import SliceReport

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.feedback import Adapter

_SLICE_FIELDS = ("name", "kind", "n", "before", "after", "low", "high")


def list_adapters(context: CommandContext) -> int:
    """`smallai adapters list`: oldest first."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        versions = assistant.adapters.versions(args.task)
        serving = {task: assistant.adapters.champion_id(task) for task in {version.task for version in versions}}
        damaged = set(_all_ids(assistant, args.task)) - {version.id for version in versions}
    for each in versions:
        is_serving = serving[each.task] == each.id
        if args.json:
            screen.json(_head(each, is_serving=is_serving))
            continue
        points = [f", {100 * found.change:+.1f} points" for found in _slices(each) if found.kind == "target"]
        judged_turns = count(len(each.feedback_ids), "lesson")
        screen.out(f"{'*' if is_serving else ' '} {each.id}")
        when = f"{each.created_at.astimezone():%Y-%m-%d %H:%M}"
        screen.out(f"    {when}  {each.kind}, {each.status}, {judged_turns}{''.join(points)}")
    if not versions and not args.json:
        screen.out("nothing was learned yet: `smallai learn` makes the first version")
    if damaged:
        screen.note(f"{count(len(damaged), 'damaged version')} left out, see `smallai adapters verify`")
    return 0


def show(context: CommandContext) -> int:
    """`smallai adapters show ID`: lineage, figures, and where it served."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        adapter = assistant.adapters.get(args.id)
        is_serving = assistant.adapters.champion_id(adapter.task) == adapter.id
        log = [
            entry
            for entry in assistant.adapters.log(adapter.task)
            if adapter.id in (entry["adapter_id"], entry["previous_id"])
        ]
        gone = [row.id for row in assistant.feedback.rows(task=adapter.task) if row.state != "active"]
    sizes = {name: _size_of(adapter, name) for name in adapter.files}
    gone = [each for each in gone if each in adapter.feedback_ids]
    if args.json:
        more = {
            "base": dict(adapter.base),
            "files": {name: {"sha256": digest, "n_bytes": sizes[name]} for name, digest in adapter.files.items()},
            "feedback_ids": list(adapter.feedback_ids),
            "retired_ids": list(adapter.retired_ids),
            "gone_ids": gone,
            "report": dict(adapter.report),
            "log": log,
        }
        screen.json({**_head(adapter, is_serving=is_serving), **more})
        return 0
    screen.heading(adapter.id)
    for name, value in (
        ("task", adapter.task),
        ("kind", adapter.kind),
        ("gate", adapter.status + (", serves now" if is_serving else "")),
        ("made", f"{adapter.created_at.astimezone():%Y-%m-%d %H:%M}"),
        ("after", adapter.parent or "the bare model"),
        ("from", count(len(adapter.feedback_ids), "lesson") + (f", {len(gone)} of them gone since" if gone else "")),
        *((f"base {key}", str(value)) for key, value in adapter.base.items()),
        *((f"file {name}", f"{size(n_bytes)}") for name, n_bytes in sizes.items()),
    ):
        screen.out(f"  {name}: {value}")
    show_figures(screen, str(adapter.report.get("metric", "")), _slices(adapter))
    for reason in adapter.report.get("reasons", ()):
        screen.out(f"  {reason}")
    for entry in log:
        screen.out(f"  {_moved(entry)}")
    return 0


def diff(context: CommandContext) -> int:
    """`smallai adapters diff A B`: lineage, base, files, feedback and figures."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        first, second = assistant.adapters.get(args.first), assistant.adapters.get(args.second)
    if first.task != second.task:
        raise InvalidInput(f"{first.id} is of {first.task}, {second.id} of {second.task}", hint="compare two of a task")
    fields = {name: [getattr(first, name), getattr(second, name)] for name in ("kind", "status", "parent")}
    fields |= {
        f"base {key}": [first.base.get(key), second.base.get(key)] for key in sorted({*first.base, *second.base})
    }
    fields |= {
        f"file {key}": [first.files.get(key), second.files.get(key)] for key in sorted({*first.files, *second.files})
    }
    changed = {name: pair for name, pair in fields.items() if pair[0] != pair[1]}
    only_first = [feedback_id for feedback_id in first.feedback_ids if feedback_id not in set(second.feedback_ids)]
    only_second = [feedback_id for feedback_id in second.feedback_ids if feedback_id not in set(first.feedback_ids)]
    after = [{each.name: each.after for each in _slices(adapter)} for adapter in (first, second)]
    figures = {name: [side.get(name) for side in after] for name in dict.fromkeys([*after[0], *after[1]])}
    if args.json:
        screen.json(
            {
                "task": first.task,
                "ids": [first.id, second.id],
                "changed": changed,
                "feedback_ids_only": [only_first, only_second],
                "figures": figures,
            }
        )
        return 0
    for name, (old, new) in changed.items():
        screen.out(f"{name}: {_brief(old)} -> {_brief(new)}")
    changes = f"{len(only_first)} left, {len(only_second)} new"
    screen.out(f"lessons: {len(first.feedback_ids)} -> {len(second.feedback_ids)}, {changes}")
    if figures:
        rows = [[name, *("-" if value is None else f"{value:.1%}" for value in pair)] for name, pair in figures.items()]
        screen.table(["right after it was made", "A", "B"], rows, indent="")
        screen.note("each was judged by the feedback of its day; the rows compare only where that is the same")
    return 0


def promote(context: CommandContext) -> int:
    """`smallai adapters promote ID`."""
    args = context.args
    with context.assistant() as assistant:
        before = assistant.adapters.champion_id(assistant.adapters.get(args.id).task)
        adapter = assistant.promote(args.id, force=args.force)
    _tell_move(context, adapter.task, before, adapter)
    return 0


def rollback(context: CommandContext) -> int:
    """`smallai adapters rollback TASK`."""
    args = context.args
    with context.assistant() as assistant:
        known = {*assistant.tasks, *(version.task for version in assistant.adapters.versions())}
        if args.task not in known:
            raise InvalidInput(f"there is no task {args.task!r}", hint=nearest(args.task, sorted(known)))
        before = assistant.adapters.champion_id(args.task)
        adapter = assistant.rollback(args.task, to=args.to)
    _tell_move(context, args.task, before, adapter)
    return 0


def _tell_move(context: CommandContext, task: str, before: str | None, now: Adapter | None) -> None:
    if context.args.json:
        context.screen.json({"task": task, "before": before, "serves": now.id if now else None})
    else:
        context.screen.out(f"{task}: {now.id if now else 'the bare model'} serves now")


def verify(context: CommandContext) -> int:
    """`smallai adapters verify [ID...]`: all where none is named."""
    with context.assistant() as assistant:
        ids = context.args.ids or _all_ids(assistant)
        if not ids and not context.args.json:
            context.screen.out("nothing was learned yet")

        def work(adapter_id: str) -> None:
            assistant.adapters.verify(adapter_id)
            if context.args.json:
                context.screen.json({"id": adapter_id, "is_intact": True})
            else:
                context.screen.out(f"{adapter_id}: intact")

        return context.for_each("id", ids, work)


def remove(context: CommandContext) -> int:
    """`smallai adapters remove ID...`."""
    with context.assistant() as assistant:

        def work(adapter_id: str) -> None:
            n_bytes = assistant.adapters.remove(adapter_id)
            if context.args.json:
                context.screen.json({"id": adapter_id, "n_bytes_freed": n_bytes})
            else:
                context.screen.out(f"{adapter_id}: removed, {size(n_bytes)} freed")

        return context.for_each("id", context.args.ids, work)


def _all_ids(assistant: Assistant, task: str | None = None) -> list[str]:
    """Damaged ones too, which the registry leaves out of its versions."""
    import sqlalchemy as sa

    from smallai_assistant.storage.schema import adapters

    query = sa.select(adapters.c.id).order_by(adapters.c.seq)
    with assistant.database.read() as connection:
        return list(connection.scalars(query if task is None else query.where(adapters.c.task == task)))


def _head(adapter: Adapter, *, is_serving: bool) -> dict[str, Any]:
    return {
        "id": adapter.id,
        "task": adapter.task,
        "kind": adapter.kind,
        "status": adapter.status,
        "is_serving": is_serving,
        "created_at": adapter.created_at.isoformat(),
        "parent": adapter.parent,
        "n_lessons": len(adapter.feedback_ids),
    }


def _slices(adapter: Adapter) -> list[SliceReport]:
    """The gate's figures; none where it has not spoken."""
    found = adapter.report.get("slices", ())
    return [SliceReport(**{name: each[name] for name in _SLICE_FIELDS}) for each in found]


def _size_of(adapter: Adapter, name: str) -> int:
    try:
        return (adapter.folder / name).stat().st_size
    except OSError:  # `verify` says what is wrong
        return 0


def _moved(entry: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(entry["at"], UTC).astimezone()
    now = entry["adapter_id"] or "the bare model"
    return f"{when:%Y-%m-%d %H:%M}  {now} serves: {entry['reason']}"


def _brief(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
