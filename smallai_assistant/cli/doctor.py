"""`smallai doctor`: checks the installation, and says what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.models import STARTER
from smallai_assistant.cli.render import size
from smallai_assistant.engines.llama_library import PACKAGE
from smallai_assistant.errors import AssistantError

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.storage.database import Database
    from smallai_assistant.storage.row_reader import UnreadableRow

# Without one of these, some task does not work.
_PACKAGES = (
    "smallai-assistant",
    "torch",
    "transformers",
    "bitsandbytes",
    "sentence-transformers",
    "openai-whisper",
    "pluggy",
    "sqlalchemy",
    "accelerate",
    "numpy",
    "scipy",
    "pillow",
    "av",
    "soundfile",
    "rich",
    "prompt_toolkit",
)
_TRAIN_PACKAGES = ("peft", "trl", "datasets", "matplotlib")  # the extra [train]
_MAX_ROWS, _MAX_REASON_CHARS = 20, 200  # that are shown: a damaged page may hold hundreds
_ENOUGH_DISK_BYTES = 2e9  # what the starter models take while they are converted


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        status: `ok`; `note`: it works, but the text is worth knowing; `missing`: something will not work.
        hint: what to do about it; empty if there is nothing to do.
    """

    name: str
    status: str
    text: str
    hint: str = ""


def doctor(context: CommandContext) -> int:
    """`smallai doctor`: exit code 1 if something is missing."""
    checks = []
    if context.args.repair:
        for check in _guarded(_repair, context):
            checks.append(check)
            _print(context, check)
    # From the general to the particular: what is missing first is often the reason for what is missing later.
    for find in (_python, _packages, _device, _memory, _models, _database_and_plugins, _disk):
        for check in _guarded(find, context):
            checks.append(check)
            _print(context, check)  # at once, because importing torch takes seconds
    n_missing = sum(check.status == "missing" for check in checks)
    if not context.args.json:
        context.screen.out("")
        context.screen.out(f"{n_missing} missing" if n_missing else "all is well")
    return 1 if n_missing else 0


def _guarded(find: Callable[[CommandContext], Iterator[Check]], context: CommandContext) -> Iterator[Check]:
    """The results of a check. An error that it raises is a result, too, so that the other checks still run."""
    name = find.__name__.strip("_")
    try:
        yield from find(context)
    except AssistantError as error:
        yield Check(name, "missing", error.message, error.hint)
    except Exception as error:
        yield Check(name, "missing", f"{type(error).__name__}: {error}")


def _print(context: CommandContext, check: Check) -> None:
    if context.args.json:
        context.screen.json(asdict(check))
        return
    mark = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}[check.status]
    context.screen.out(f"{mark} {check.name}: {check.text}")
    if check.hint:
        context.screen.out(f"        {check.hint}")


def _repair(context: CommandContext) -> Iterator[Check]:
    """Takes out of the database what cannot be read, before anything opens it."""
    from smallai_assistant.storage.repair import repair

    done = repair(context.config.data_dir, context.config.database_url)
    if not done.moved and not done.files:
        yield Check("repair", "ok", "everything in the database can be read")
        return
    for name in done.files:
        yield Check("repair", "note", f"moved to {done.folder / name}")
    for row in done.moved:
        yield Check("repair", "note", f"took out {_row_named(row)}")


def _row_named(row: UnreadableRow) -> str:
    return f"row {row.key} of {row.table}{f' ({row.id})' if row.id else ''}: {row.reason[:_MAX_REASON_CHARS]}"


def _python(_: CommandContext) -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages(_: CommandContext) -> Iterator[Check]:
    for name in _PACKAGES:
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "missing", "not installed", f"pip install {name}")
    absent = [name for name in _TRAIN_PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        why = f"{', '.join(absent)} not installed: `smallai learn` needs them for some tasks"
        yield Check("extra [train]", "note", why, "pip install 'smallai-assistant[train]'")
    else:
        yield Check("extra [train]", "ok", "installed")
    try:
        yield Check("extra [llamacpp]", "ok", f"{PACKAGE} {importlib.metadata.version(PACKAGE)}")
    except importlib.metadata.PackageNotFoundError:
        why = "not installed: the setting chat_engine = 'llama.cpp' needs it"
        yield Check("extra [llamacpp]", "note", why, "pip install 'smallai-assistant[llamacpp]'")


def _device(context: CommandContext) -> Iterator[Check]:
    import torch  # takes seconds

    wanted = context.config.device
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Check(f"cuda:{number}", "ok", f"{name}, {size(free)} of {size(total)} free")
    elif wanted.startswith("cuda"):
        yield Check("device", "missing", f"device is {wanted}, and torch finds no CUDA", "set device to auto or cpu")
    threads = torch.get_num_threads()
    yield Check("cpu", "ok", f"{threads} thread{'' if threads == 1 else 's'}; device is {wanted}")


def _memory(context: CommandContext) -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    budget = context.config.memory_budget_mb
    limit = f"{budget:,} MB for models" if budget else "60 % of the device for models"
    yield Check("memory", "ok", f"{size(memory.available)} of {size(memory.total)} free; {limit}")


def _models(context: CommandContext) -> Iterator[Check]:
    from smallai_assistant.models.catalog import Catalog

    config = context.config
    catalog = Catalog(config.models_dir)
    here = [name for name in catalog.entries if catalog.is_pulled(name)]
    yield Check("models_dir", "ok", str(config.models_dir))
    yield Check("pulled", "ok" if here else "note", ", ".join(here) or "none")
    roles = (
        ("text-generation", config.models.chat),
        ("feature-extraction", config.models.embedding),
        ("image-classification", config.models.image),
        ("automatic-speech-recognition", config.models.speech),
    )
    for task, name in roles:
        try:
            catalog.resolve(name, task=task)
            yield Check(f"model for {task}", "ok", catalog.name_for(name, task))
        except AssistantError as error:
            # With `auto`, no particular model was asked for.
            hint = error.hint if name != "auto" else f"smallai models pull {STARTER}"
            yield Check(f"model for {task}", "missing", error.message, hint)
    if config.models.zero_shot_image:
        catalog.resolve(config.models.zero_shot_image, task="zero-shot-image-classification")
        yield Check("model for your own labels", "ok", config.models.zero_shot_image)
    else:
        yield Check("model for your own labels", "ok", "none set: words are compared instead (ConSE)")


def _database_and_plugins(context: CommandContext) -> Iterator[Check]:
    from smallai_assistant.cli.info import plugin_rows
    from smallai_assistant.storage.database import has_wal_reset_bug

    with context.assistant() as assistant:
        database = assistant.database
        yield Check("database", "ok", str(database.path) if database.path else database.engine.url.render_as_string())
        yield Check("schema", "ok", f"version {database.schema_version}")
        if database.is_sqlite:
            affected = has_wal_reset_bug(sqlite3.sqlite_version_info)
            reason = " (WAL is unsafe in this version)" if affected else ""
            yield Check("sqlite", "ok", f"{sqlite3.sqlite_version}, journal mode {database.journal_mode}{reason}")
        yield from _rights_and_rows(database)
        for row in plugin_rows(assistant):
            tasks = ", ".join(task["name"] for task in row["tasks"]) or "no task"
            if row["broken"] is None:
                yield Check(f"plugin {row['name']}", "ok", f"{tasks} {row['version']}".strip())
            else:
                hint = f"reinstall or update it, or add {row['name']!r} to disabled_plugins"
                yield Check(f"plugin {row['name']}", "missing", row["broken"], hint)
        if not assistant.tasks:
            yield Check("plugins", "missing", "no task is installed", "pip install smallai-assistant")
        yield from _learning(assistant)  # while the assistant is open


def _rights_and_rows(database: Database) -> Iterator[Check]:
    """Who may read the data, and which rows nobody can read."""
    from smallai_assistant.storage.repair import find_unreadable

    if database.tightened:
        names = ", ".join(path.name for path in database.tightened)
        yield Check("rights", "note", f"others could read {names}; now only you can")
    elif database.data_dir.stat().st_mode & 0o077:
        hint = f"chmod 700 {database.data_dir}"
        yield Check("rights", "note", f"others can look into {database.data_dir}, which holds other files, too", hint)
    else:
        yield Check("rights", "ok", "only you can read the data")
    rows = find_unreadable(database)
    for row in rows[:_MAX_ROWS]:
        yield Check("row", "missing", f"cannot be read: {_row_named(row)}", "smallai doctor --repair")
    if len(rows) > _MAX_ROWS:
        yield Check("row", "missing", f"{len(rows) - _MAX_ROWS:,} more cannot be read", "smallai doctor --repair")
    if not rows:
        yield Check("rows", "ok", "all can be read")


def _learning(assistant: Assistant) -> Iterator[Check]:
    """How much feedback there is, and which adapter serves each task."""
    rows = assistant.feedback.stats()
    by_task: dict[str, int] = {}
    for row in rows:
        by_task[row["task"]] = by_task.get(row["task"], 0) + row["rows"] - row["retracted"] - row["erased"]
    told = ", ".join(f"{n:,} of {task}" for task, n in by_task.items())
    yield Check("feedback", "ok", told or "none yet")
    damaged = assistant.adapters.damaged()
    for task in sorted({version.task for version in assistant.adapters.versions()}):
        name, log = f"champion of {task}", assistant.adapters.log(task)
        adapter_id = assistant.adapters.champion_id(task)
        why = f" ({log[-1]['reason']})" if log else ""
        # Opening the assistant has moved a damaged champion away already: what serves now is not what was promoted.
        if log and log[-1]["kind"] == "damaged":
            hint = f"train again with `smallai learn {task}`, or accept it: smallai adapters rollback {task} --to "
            hint += adapter_id or "none"
            yield Check(name, "missing", f"{adapter_id or 'the bare model'}{why}", hint)
        elif adapter_id in damaged:
            yield Check(name, "missing", f"{adapter_id}: {damaged[adapter_id]}", f"smallai adapters rollback {task}")
        else:
            yield Check(name, "ok", f"{adapter_id or 'the bare model'}{why}")
    for damaged_id, reason in damaged.items():
        yield Check(f"adapter {damaged_id}", "missing", reason, f"smallai adapters remove {damaged_id}")


def _disk(context: CommandContext) -> Iterator[Check]:
    for name, folder in (("data_dir", context.config.data_dir), ("models_dir", context.config.models_dir)):
        free = shutil.disk_usage(_nearest_existing(folder)).free
        tight = free < _ENOUGH_DISK_BYTES
        hint = "pulling the starter models needs about 2 GB" if tight else ""
        yield Check(f"disk of {name}", "note" if tight else "ok", f"{size(free)} free at {folder}", hint)


def _nearest_existing(folder: Path) -> Path:
    """The folder itself, or the first folder above it that exists: on that disk it will be made."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
