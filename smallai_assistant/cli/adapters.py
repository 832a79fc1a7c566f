"""`smallai adapters`: lists, shows, compares, promotes, rolls back, verifies, prunes and removes what was learned."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext, check_writable
from smallai_assistant.cli.learn import show_figures, write_report_page
from smallai_assistant.cli.render import count, size
from smallai_assistant.errors import InvalidInput, nearest
from smallai_assistant.learning.audience_words import below, for_whom
from smallai_assistant.learning.pruning import Limits
from smallai_assistant.learning.report import CycleReport
from smallai_assistant.validation import EVERYONE, described

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.feedback import Adapter, Component

# Hashes are 64 characters long; their beginning is enough to see that two differ.
_MAX_VALUE_CHARS, _N_SHOWN = 40, 12


def list_adapters(context: CommandContext) -> int:
    """`smallai adapters list`: prints the versions, oldest first."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        versions = assistant.adapters.versions(args.task, args.audience)
        places = {(version.task, version.audience) for version in versions}
        serving = {place: assistant.adapters.champion_id(*place) for place in places}
        # A person must hear of versions whose files have changed; those without a manifest are not even listed.
        damaged = assistant.adapters.damaged(args.task, args.audience)
        moves = {place: assistant.adapters.last_move(*place) for place in serving}
    for version in versions:
        is_serving = serving[version.task, version.audience] == version.id
        if args.json:
            screen.json({**_head(version, is_serving=is_serving), "damage": damaged.get(version.id)})
            continue
        report = CycleReport.from_json(version.report)
        # Protected slices are left out: of an approved version they say only that little was lost.
        points = [
            f", {100 * found.change:+.1f} points{found.component and f' of {found.component}'}"
            for found in report.slices
            if found.kind == "target"
        ]
        judged_turns = count(len(version.feedback_ids), "judged turn")
        screen.out(f"{'*' if is_serving else ' '} {version.id}")
        when = f"{version.created_at.astimezone():%Y-%m-%d %H:%M}"
        whom = "" if version.audience == EVERYONE else f", for {described(version.audience)}"
        screen.out(f"    {when}  {version.kind}, {_decision(version, report)}, {judged_turns}{''.join(points)}{whom}")
        if version.id in damaged:
            screen.out(f"    damaged: {damaged[version.id]}")
    if not versions and not args.json:
        screen.out("nothing was learned yet: `smallai learn` makes the first version")
    for (task, audience), last in moves.items():
        if last is not None and last["kind"] == "damaged":
            now = serving[task, audience] or below(audience)
            screen.note(f"note: {now} serves {task}{for_whom(audience)} because a version is damaged")
    if left_out := damaged.keys() - {version.id for version in versions}:
        screen.note(f"{count(len(left_out), 'damaged version')} left out; see `smallai adapters verify`")
    return 0


def show(context: CommandContext) -> int:
    """`smallai adapters show ID`: prints lineage, files, figures, and when it began and ceased to serve.

    With `--report FILE.html` it also writes the report page. The page shows what the database still holds: answers,
    words, pictures and recordings of erased feedback are not in it.
    """
    args, screen = context.args, context.screen
    # Checked before a database is opened, so that a typing error costs nothing.
    if args.report is not None:
        check_writable(args.report)
    with context.assistant() as assistant:
        adapter = assistant.adapters.get(args.id)
        is_serving = assistant.adapters.champion_id(adapter.task, adapter.audience) == adapter.id
        # The moves by which it came to serve, and those by which another took its place.
        log = [
            entry
            for entry in assistant.adapters.log(adapter.task, adapter.audience)
            if adapter.id in (entry["adapter_id"], entry["previous_id"])
        ]
        inactive = {row.id for row in assistant.feedback.rows(task=adapter.task) if row.state != "active"}
        report = CycleReport.from_json(adapter.report)
        if args.report is not None:
            if not adapter.report:
                raise InvalidInput(f"{adapter.id} has no report", hint="no gate has judged it yet")
            write_report_page(assistant, report, args.report)
    sizes = {name: _size_of(adapter, name) for name in adapter.files}
    # Erased or taken back since: the weights still hold what these rows taught.
    gone = [feedback_id for feedback_id in adapter.feedback_ids if feedback_id in inactive]
    if args.json:
        more = {
            "base": dict(adapter.base),
            "files": {name: {"sha256": digest, "n_bytes": sizes[name]} for name, digest in adapter.files.items()},
            "feedback_ids": list(adapter.feedback_ids),
            "retired_ids": list(adapter.retired_ids),
            "gone_ids": gone,
            "components": [asdict(component) for component in adapter.components],
            "report": dict(adapter.report),
            "log": log,
        }
        screen.json({**_head(adapter, is_serving=is_serving), **more})
        return 0
    screen.heading(adapter.id)
    for name, value in (
        ("task", adapter.task),
        ("for", described(adapter.audience)),
        ("kind", adapter.kind),
        ("gate", _decision(adapter, report) + (", serves now" if is_serving else "")),
        ("made", f"{adapter.created_at.astimezone():%Y-%m-%d %H:%M}"),
        ("after", adapter.parent or below(adapter.audience)),
        ("from", count(len(adapter.feedback_ids), "judged turn") + (f", {len(gone)} gone since" if gone else "")),
        *((f"component {component.name}", _learned(component)) for component in adapter.components),
        *((f"base {key}", str(value)) for key, value in adapter.base.items()),
        *((f"file {name}", f"{size(n_bytes)}") for name, n_bytes in sizes.items()),
    ):
        screen.out(f"  {name}: {value}")
    show_figures(screen, report.metric, report.slices)
    for line in (*(f"  {reason}" for reason in report.reasons), *report.component_lines()):
        screen.out(line)
    for entry in log:
        screen.out(f"  {_moved(entry)}")
    return 0


def diff(context: CommandContext) -> int:
    """`smallai adapters diff A B`: prints in what two versions differ: lineage, base, files, feedback and figures."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        first, second = assistant.adapters.get(args.first), assistant.adapters.get(args.second)
    if first.task != second.task:
        raise InvalidInput(
            f"{first.id} belongs to {first.task}, {second.id} to {second.task}", hint="compare two of one task"
        )
    fields = {name: [getattr(first, name), getattr(second, name)] for name in ("audience", "kind", "status", "parent")}
    fields |= {
        f"base {key}": [first.base.get(key), second.base.get(key)] for key in sorted({*first.base, *second.base})
    }
    fields |= {
        f"file {key}": [first.files.get(key), second.files.get(key)] for key in sorted({*first.files, *second.files})
    }
    changed = {name: pair for name, pair in fields.items() if pair[0] != pair[1]}
    ids_of_first, ids_of_second = set(first.feedback_ids), set(second.feedback_ids)
    only_first = [feedback_id for feedback_id in first.feedback_ids if feedback_id not in ids_of_second]
    only_second = [feedback_id for feedback_id in second.feedback_ids if feedback_id not in ids_of_first]
    reports = [CycleReport.from_json(adapter.report) for adapter in (first, second)]
    after = [{found.title: found.after for found in report.slices} for report in reports]
    # The slices of A in their order, then those that only B has.
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
        screen.out(f"{name}: {_shortened(old)} -> {_shortened(new)}")
    changes = f"{len(only_first)} left, {len(only_second)} new"
    screen.out(f"judged turns: {len(first.feedback_ids)} -> {len(second.feedback_ids)}, {changes}")
    if figures:
        rows = [[name, *("-" if value is None else f"{value:.1%}" for value in pair)] for name, pair in figures.items()]
        screen.table(["right after it was made", "A", "B"], rows, indent="")
        # The held-out feedback grows with time, so the same slice may have asked other questions.
        screen.note("each version was judged by the feedback of its day: compare the figures only if that was the same")
    return 0


def promote(context: CommandContext) -> int:
    """`smallai adapters promote ID`: lets a version serve."""
    args = context.args
    with context.assistant() as assistant:
        found = assistant.adapters.get(args.id)
        before = assistant.adapters.champion_id(found.task, found.audience)
        adapter = assistant.promote(args.id, force=args.force)
    _tell_move(context, (adapter.task, adapter.audience), before, adapter)
    return 0


def rollback(context: CommandContext) -> int:
    """`smallai adapters rollback TASK`: lets an earlier version serve again."""
    args = context.args
    with context.assistant() as assistant:
        # A task whose plugin is gone may still have versions.
        known = {*assistant.tasks, *(version.task for version in assistant.adapters.versions())}
        if args.task not in known:
            raise InvalidInput(f"there is no task {args.task!r}", hint=nearest(args.task, sorted(known)))
        before = assistant.adapters.champion_id(args.task, args.audience)
        adapter = assistant.rollback(args.task, to=args.to, audience=args.audience)
    _tell_move(context, (args.task, args.audience), before, adapter)
    return 0


def _tell_move(context: CommandContext, place: tuple[str, str], before: str | None, now: Adapter | None) -> None:
    task, audience = place
    if context.args.json:
        moved = {"before": before, "serves": now.id if now else None}
        context.screen.json({"task": task, "audience": audience, **moved})
    else:
        context.screen.out(f"{task}{for_whom(audience)}: {now.id if now else below(audience)} serves now")


def verify(context: CommandContext) -> int:
    """`smallai adapters verify [ID...]`: compares files and hashes; of all versions if no id is given."""
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
    """`smallai adapters remove ID...`: deletes versions that do not serve."""
    with context.assistant() as assistant:

        def work(adapter_id: str) -> None:
            n_bytes = assistant.adapters.remove(adapter_id)
            if context.args.json:
                context.screen.json({"id": adapter_id, "n_bytes_freed": n_bytes})
            else:
                context.screen.out(f"{adapter_id}: removed, {size(n_bytes)} freed")

        return context.for_each("id", context.args.ids, work)


def prune(context: CommandContext) -> int:
    """`smallai adapters prune [TASK]`: deletes old versions beyond the limits."""
    args, screen = context.args, context.screen
    with context.assistant() as assistant:
        versions = assistant.adapters.versions()
        tasks = {*(version.task for version in versions), *assistant.tasks}
        if args.task is not None and args.task not in tasks:
            raise InvalidInput(f"there is no task {args.task!r}", hint=nearest(args.task, tasks))
        limits = Limits.of(assistant.config.learning, keep=args.keep, max_mb=args.max_mb)
        places = sorted({(found.task, found.audience) for found in versions if args.task in (None, found.task)})
        done = {place: assistant.adapters.prune(place[0], limits, audience=place[1]) for place in places}
    for (task, audience), pruned in done.items():
        if args.json:
            figures = {"n_bytes_freed": pruned.n_bytes, "n_kept": pruned.n_kept, "n_bytes_kept": pruned.n_bytes_kept}
            screen.json({"task": task, "audience": audience, "removed": list(pruned.ids), **figures})
            continue
        kept = f"{count(pruned.n_kept, 'version')} with {size(pruned.n_bytes_kept)} kept"
        screen.out(f"{task}{for_whom(audience)}: {len(pruned.ids):,} removed, {size(pruned.n_bytes)} freed; {kept}")
    if not done and not args.json:
        screen.out("nothing was learned yet")
    return 0


def _all_ids(assistant: Assistant, task: str | None = None) -> list[str]:
    """Returns the ids of all versions, also of damaged ones, which `AdapterStore.versions` leaves out."""
    import sqlalchemy as sa

    from smallai_assistant.storage.schema import adapters

    query = sa.select(adapters.c.id).order_by(adapters.c.seq)
    with assistant.database.read() as connection:
        return list(connection.scalars(query if task is None else query.where(adapters.c.task == task)))


def _head(adapter: Adapter, *, is_serving: bool) -> dict[str, Any]:
    return {
        "id": adapter.id,
        "task": adapter.task,
        "audience": adapter.audience,
        "kind": adapter.kind,
        "status": adapter.status,
        "is_serving": is_serving,
        "created_at": adapter.created_at.isoformat(),
        "parent": adapter.parent,
        "n_judged_turns": len(adapter.feedback_ids),
    }


def _learned(component: Component) -> str:
    rows = count(len(component.feedback_ids), "judged turn")
    return rows if component.taken_from is None else f"{rows}, as {component.taken_from} learned them"


def _decision(adapter: Adapter, report: CycleReport) -> str:
    """The gate's decision in words."""
    return "nothing new" if report.outcome == "nothing_new" and adapter.status == "refused" else adapter.status


def _size_of(adapter: Adapter, name: str) -> int:
    try:
        return (adapter.folder / name).stat().st_size
    except OSError:  # a missing file is told by `verify`, and must not hide the rest here
        return 0


def _moved(entry: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(entry["at"], UTC).astimezone()
    now = entry["adapter_id"] or "the bare model"
    return f"{when:%Y-%m-%d %H:%M}  {now} serves: {entry['reason']}"


def _shortened(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_N_SHOWN]}..."
