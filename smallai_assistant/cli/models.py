"""`smallai models`: list, pull, verify, remove."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.render import Screen, size
from smallai_assistant.errors import DownloadError, InvalidInput, ModelNotFound
from smallai_assistant.models.catalog import Catalog, PulledModel
from smallai_assistant.models.entries import Entry

STARTER, SMALL = "starter", "small"


def list_models(context: CommandContext) -> int:
    """`smallai models list`: the catalogue."""
    catalog = Catalog(context.config.models_dir)
    screen = context.screen
    entries = list(catalog.entries.values())
    pulled = {entry.name for entry in entries if catalog.is_pulled(entry.name)}
    if context.args.json:
        for entry in entries:
            screen.json(_entry_row(entry, is_pulled=entry.name in pulled))
        return 0
    column = max(len(entry.name) for entry in entries)
    for entry in entries:
        state = "here" if entry.name in pulled else "-"
        line = f"{entry.name:<{column}}  {state:<5} {size(entry.n_bytes):>7}  {entry.title}, {entry.licence}"
        screen.out(f"{line}  [{STARTER}]" if STARTER in entry.sets else line)
    if any(entry.name not in pulled for entry in entries if STARTER in entry.sets):
        screen.note("get one for each task with: smallai models pull starter")
    return 0


def pull(context: CommandContext) -> int:
    """`smallai models pull NAME...`: one line for each model, with the source of its bytes."""
    args = context.args
    if args.small and STARTER not in args.names:
        raise InvalidInput("--small goes with starter", hint="smallai models pull starter --small")
    if args.source is not None and not args.source.exists():
        raise InvalidInput(f"{args.source}: there is no such file", hint="give a file or folder with the model's files")
    names = [SMALL if args.small and name == STARTER else name for name in args.names]
    catalog = Catalog(context.config.models_dir)
    fetched = {model.name: model for model in pull_models(context.screen, catalog, names, local=args.source)}
    # Sets are written out as their models; hub ids are in no set.
    all_names = [name for name in names if "/" in name] + catalog.names_of(name for name in names if "/" not in name)
    column = max(map(len, all_names))
    for name in all_names:
        model = fetched.get(name)
        if args.json:
            context.screen.json(_pulled_row(name, model))
            continue
        context.screen.out(f"{name:<{column}}  {_describe(model) if model else 'here already'}")
        for file in model.refused if model else ():
            pinned = f"the catalogue pins {file.pinned_sha256[:16]}…"
            context.screen.note(f"{name}: {file}, {pinned}: refused, and fetched from the next source")
    return 0


def pull_models(
    screen: Screen, catalog: Catalog, names: Sequence[str], *, local: Path | None = None
) -> list[PulledModel]:
    """Pulls models with a progress bar for each.

    Args:
        local: a file or folder of the user's to take instead of downloading.

    Raises:
        KeyboardInterrupt: after Ctrl-C. The download has stopped, and complete files are kept.
    """
    announced: set[str] = set()

    def progress(name: str, what: str, fraction: float) -> None:
        if name not in announced:  # a note stays on the screen; the bar is erased when it is full
            announced.add(name)
            entry = catalog.entries.get(name)
            screen.note(f"getting {name}" + (f", {size(entry.n_bytes)}" if entry else ""))
        screen.progress(name, fraction, label=f"{name}: {what}")

    try:
        return catalog.pull(names, progress=progress, local=local)
    except DownloadError as error:
        # pip's reasons end with a full stop, and the hint follows in brackets.
        raise type(error)(error.message.rstrip("."), hint=error.hint) from error
    except KeyboardInterrupt:
        screen.end_progress()
        screen.note("stopped; finished files are kept, pull again to continue")
        raise
    finally:
        screen.end_progress()


def verify(context: CommandContext) -> int:
    """`smallai models verify [NAME...]`: without names, all models that are pulled."""
    catalog = Catalog(context.config.models_dir)
    sets = {set_name for entry in catalog.entries.values() for set_name in entry.sets}
    # `names_of` knows catalogue names only; hub ids and converted GGUF files can be verified too.
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


def _entry_row(entry: Entry, *, is_pulled: bool) -> dict[str, Any]:
    return {
        "name": entry.name,
        "task": entry.task,
        "title": entry.title,
        "licence": entry.licence,
        "n_bytes": entry.n_bytes,
        "sets": list(entry.sets),
        "is_pulled": is_pulled,
    }


def _pulled_row(name: str, model: PulledModel | None) -> dict[str, Any]:
    """A row for programs; `model` is None if it was here already, and then nothing was fetched or compared."""
    row: dict[str, Any] = {"name": name, "is_pulled": True, "was_fetched": model is not None}
    if model is None:
        return row | {"source": None, "is_verified": None}
    # One word for the usual case of one source; the numbers tell the others.
    source = next(iter(model.sources)).value if len(model.sources) == 1 else "mixed"
    return row | {
        "source": source,
        "is_verified": model.is_verified,
        "n_files": model.n_files,
        "n_bytes": model.n_bytes,
        "n_files_by_source": {kind.value: n for kind, n in model.sources.items()},
        "refused": [
            {"path": file.path, "source": file.source.value, "sha256": file.sha256, "pinned_sha256": file.pinned_sha256}
            for file in model.refused
        ],
    }


def _describe(model: PulledModel) -> str:
    """Size, source and check of a model: `92 MB  from the package index, 10 of 10 files match their sha256`."""
    if len(model.sources) == 1:
        origin = next(iter(model.sources)).phrase
    else:
        origin = " and ".join(f"{kind.phrase} ({_files(n)})" for kind, n in model.sources.items())
    if not model.is_verified:
        check = f"commit {model.revision[:12]}, which the catalogue does not pin"
    # All files match: a pull with a file that does not match fails.
    elif model.n_files == 1:
        check = "1 of 1 file matches its sha256"
    else:
        check = f"{model.n_files} of {model.n_files} files match their sha256"
    return f"{size(model.n_bytes)}  from {origin}, {check}"


def _files(n: int) -> str:
    return f"{n} file" if n == 1 else f"{n} files"
