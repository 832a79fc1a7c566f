"""`smallai models`: list, pull, verify, remove."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.render import Screen, size
from smallai_assistant.errors import DownloadError, InvalidInput, ModelNotFound
from smallai_assistant.models.catalog import Catalog

STARTER, SMALL = "starter", "small"


def list_models(context: CommandContext) -> int:
    """`smallai models list`: the catalogue."""
    catalog = Catalog(context.config.models_dir)
    screen = context.screen
    rows = []
    for entry in catalog.entries.values():
        rows.append(
            {
                "name": entry.name,
                "task": entry.task,
                "title": entry.title,
                "licence": entry.licence,
                "n_bytes": entry.n_bytes,
                "sets": list(entry.sets),
                "is_pulled": catalog.is_pulled(entry.name),
            }
        )
    if context.args.json:
        for row in rows:
            screen.json(row)
        return 0
    column = max(len(str(row["name"])) for row in rows)
    for row, entry in zip(rows, catalog.entries.values(), strict=True):
        state = "here" if row["is_pulled"] else "-"
        line = f"{entry.name:<{column}}  {state:<5} {size(entry.n_bytes):>7}  {entry.title}, {entry.licence}"
        screen.out(f"{line}  [{STARTER}]" if STARTER in entry.sets else line)
    if not all(row["is_pulled"] for row in rows if STARTER in row["sets"]):  # type: ignore[operator]
        screen.note("get one for each task with: smallai models pull starter")
    return 0


def pull(context: CommandContext) -> int:
    """`smallai models pull NAME...`."""
    args = context.args
    if args.small and STARTER not in args.names:
        raise InvalidInput("--small goes with starter", hint="smallai models pull starter --small")
    if args.source is not None and not args.source.exists():
        raise InvalidInput(f"{args.source}: there is no such file", hint="give a file or folder with the model's files")
    names = [SMALL if args.small and name == STARTER else name for name in args.names]
    catalog = Catalog(context.config.models_dir)
    fetched = pull_models(context.screen, catalog, names, local=args.source)
    for name in [name for name in names if "/" in name] + catalog.names_of(name for name in names if "/" not in name):
        if args.json:
            context.screen.json({"name": name, "is_pulled": True, "was_fetched": name in fetched})
        elif name in fetched:
            context.screen.out(f"{name}: ready")
        else:
            context.screen.out(f"{name}: here already")
    return 0


def pull_models(screen: Screen, catalog: Catalog, names: Sequence[str], *, local: Path | None = None) -> list[str]:
    """Pulls models with a progress bar for each; Ctrl-C keeps what is complete.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the download stopped.
    """
    told: set[str] = set()

    def progress(name: str, what: str, fraction: float) -> None:
        if name not in told:
            told.add(name)
            entry = catalog.entries.get(name)
            screen.note(f"getting {name}" + (f", {size(entry.n_bytes)}" if entry else ""))
        screen.progress(name, fraction, label=f"{name}: {what}")

    try:
        return catalog.pull(names, progress=progress, local=local)
    except DownloadError as error:
        raise type(error)(error.message.rstrip("."), hint=error.hint) from error
    except KeyboardInterrupt:
        screen.end_progress()
        screen.note("stopped; what is complete is kept, pull again to go on")
        raise
    finally:
        screen.end_progress()


def verify(context: CommandContext) -> int:
    """`smallai models verify [NAME...]`: all that are pulled where none is named."""
    catalog = Catalog(context.config.models_dir)
    sets = {each for entry in catalog.entries.values() for each in entry.sets}
    names = [name for name in context.args.names if name not in sets]
    if len(names) < len(context.args.names):
        names += catalog.names_of(name for name in context.args.names if name in sets)
    names = names or [name for name in catalog.entries if catalog.is_pulled(name)]
    if not names:
        raise ModelNotFound("no model is pulled", hint="get the starter models with `smallai models pull starter`")

    def work(name: str) -> None:
        context.screen.progress(name, 0.0, label=f"verifying {name}")
        try:
            catalog.verify(name)
        finally:
            context.screen.end_progress()
        if context.args.json:
            context.screen.json({"name": name, "is_intact": True})
        else:
            context.screen.out(f"{name}: intact")

    return context.for_each("name", names, work)


def remove(context: CommandContext) -> int:
    """`smallai models remove NAME...`."""
    catalog = Catalog(context.config.models_dir)

    def work(name: str) -> None:
        n_bytes = catalog.remove(name)
        if context.args.json:
            context.screen.json({"name": name, "n_bytes_freed": n_bytes})
        else:
            context.screen.out(f"{name}: removed, {size(n_bytes)} freed")

    return context.for_each("name", context.args.names, work)
