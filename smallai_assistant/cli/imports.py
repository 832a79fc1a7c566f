"""`smallai items import` and `smallai interactions import`: CSV or JSONL, all lines or none."""

from __future__ import annotations

import csv
import difflib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from smallai_assistant.cli.context import CommandContext, check_file
from smallai_assistant.errors import AssistantError, InvalidInput
from smallai_assistant.types import Interaction, Item

T = TypeVar("T")

# What exports call the columns: of shops, MovieLens, RecBole, scikit-surprise, implicit. Compared without case, `_`
# and spaces, and without RecBole's type suffix (`user_id:token`).
_ITEM_COLUMNS = {
    "id": ("id", "itemid", "item", "movieid", "bookid", "productid", "sku", "asin", "isbn"),
    "title": ("title", "name", "itemname", "movietitle", "booktitle", "producttitle", "productname", "label"),
    "text": ("text", "description", "summary", "plot", "overview", "abstract", "body", "content", "genre", "class"),
}
_INTERACTION_COLUMNS = {
    "user": ("user", "userid", "uid", "username", "customer", "customerid", "visitorid"),
    "item": ("item", "itemid", "iid", "movieid", "bookid", "productid", "sku", "asin", "isbn"),
    "weight": ("weight", "rating", "score", "stars", "strength", "count", "quantity"),
    "at": ("at", "timestamp", "time", "date", "datetime", "when", "createdat", "ts"),
}
_DELIMITERS = ",;\t|"
_MILLISECONDS_FROM = 1e11  # such a number of seconds is the year 5138, as milliseconds it is 1973
_LINES_PER_TICK = 2_000
_MAX_LINE_BYTES = 2**20


class InvalidFile(InvalidInput):
    """What stands in the file is wrong, not the way the command was called."""


def import_items(context: CommandContext) -> int:
    """`smallai items import FILE`."""
    rows = _read(context, _item, _ITEM_COLUMNS, required=("id", "title"))
    n_double = len(rows) - len({row.id for row in rows})
    with context.assistant() as assistant:
        n_stored = assistant.items.add_items(rows)
    if n_double:
        context.screen.note(f"note: {n_double:,} lines repeat an id; the last line of an id counts")
    return _report(context, n_stored, "item")


def import_interactions(context: CommandContext) -> int:
    """`smallai interactions import FILE`."""
    now = time.time()
    rows = _read(context, lambda row: _interaction(row, now), _INTERACTION_COLUMNS, required=("user", "item"))
    with context.assistant() as assistant:
        n_stored = assistant.items.add_interactions(rows)
        known = {item.id for item in assistant.items.items()}
    n_unknown = sum(row.item not in known for row in rows)
    if n_unknown:
        context.screen.note(
            f"note: {n_unknown:,} of them name an item that is not imported, see `smallai items import`"
        )
    return _report(context, n_stored, "interaction")


def _report(context: CommandContext, n: int, noun: str) -> int:
    if context.args.json:
        context.screen.json({"file": context.args.file, "imported": n, "kind": f"{noun}s"})
    else:
        context.screen.out(f"imported {n:,} {noun}{'' if n == 1 else 's'}")
    return 0


def _read(
    context: CommandContext,
    make: Callable[[dict[str, Any]], T],
    columns: Mapping[str, tuple[str, ...]],
    *,
    required: tuple[str, ...],
) -> list[T]:
    """Every line as a value, or an error that names the first line that is wrong."""
    path = check_file(Path(context.args.file).expanduser())
    ticker = _Ticker(context, path)
    rows = []
    with _decoded(path) as lines:
        is_jsonl = _is_jsonl(path)
        names: dict[tuple[str, ...], dict[str, str]] = {}
        for number, record in _jsonl(lines) if is_jsonl else _csv(path, lines):
            keys = tuple(record)
            if keys not in names:
                names[keys] = _named(keys, columns, required, where=f"{path}, line {number if is_jsonl else 1:,}")
            try:
                rows.append(make({names[keys][key]: value for key, value in record.items()}))
            except AssistantError as error:
                raise InvalidFile(f"{path}, line {number:,}: {error.message}", hint=error.hint) from error
            ticker.tick(number, lines.n_bytes)
    context.screen.end_progress()
    if not rows:
        raise InvalidFile(f"{path}: there is nothing in it", hint=f"give lines with {' and '.join(required)}")
    return rows


class _decoded:  # noqa: N801  (reads as a statement)
    """The lines of a UTF-8 file; counts the bytes read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.n_bytes = 0

    def __enter__(self) -> _decoded:
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise InvalidFile(f"{self._path}: {error.strerror}", hint="give a file you may read") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(iter(lambda: self._file.readline(_MAX_LINE_BYTES + 1), b""), 1):
            self.n_bytes += len(line)
            if len(line) > _MAX_LINE_BYTES:
                raise InvalidFile(
                    f"{self._path}, line {number:,}: longer than {_MAX_LINE_BYTES:,} bytes", hint="shorten the text"
                )
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InvalidFile(f"{self._path}, line {number:,}: not UTF-8", hint="save the file as UTF-8") from error


class _Ticker:
    """Shows how much of a large file is read."""

    def __init__(self, context: CommandContext, path: Path) -> None:
        self._screen = context.screen
        self._what = f"reading {path.name}"
        self._n_bytes = max(1, path.stat().st_size)

    def tick(self, number: int, n_bytes: int) -> None:
        if number % _LINES_PER_TICK == 0:
            self._screen.progress(self._what, min(0.99, n_bytes / self._n_bytes))


def _is_jsonl(path: Path) -> bool:
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return True
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _jsonl(lines: _decoded) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise InvalidFile(
                f"{lines._path}, line {number:,}: no JSON: {reason}", hint="give one JSON object a line"
            ) from error
        if not isinstance(value, dict):
            raise InvalidFile(f"{lines._path}, line {number:,}: no JSON object", hint="give one JSON object a line")
        yield number, value


def _csv(path: Path, lines: _decoded) -> Iterator[tuple[int, dict[str, Any]]]:
    source = iter(lines)
    header_line = next(source, "")
    delimiter = max(_DELIMITERS, key=header_line.count)
    names: list[str] = []

    def all_lines() -> Iterator[str]:
        yield header_line
        yield from source

    # RecBole's atomic files know no quotes.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if path.suffix in (".inter", ".item") else csv.QUOTE_MINIMAL
    reader = csv.reader(all_lines(), delimiter=delimiter, strict=True, quoting=quoting)
    begins = 1
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                pass
            elif not names:
                names = [cell.strip() for cell in cells]
            elif len(cells) != len(names):
                raise InvalidFile(
                    f"{path}, line {begins:,}: {len(cells)} columns, the header has {len(names)}",
                    hint='put a cell that holds the separator into "quotes"',
                )
            else:
                yield begins, dict(zip(names, cells, strict=True))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise InvalidFile(f"{path}, line {begins:,}: no CSV: {error}", hint="check the quotes") from error


def _named(
    keys: tuple[str, ...], columns: Mapping[str, tuple[str, ...]], required: tuple[str, ...], *, where: str
) -> dict[str, str]:
    """What each column of the file is to us; a column that is nothing to us keeps its name.

    Raises:
        InvalidFile: a column that is needed is missing.
    """
    by_plain = {_plain(key): key for key in reversed(keys)}
    found: dict[str, str] = {}
    for ours, aliases in columns.items():
        match = next((by_plain[alias] for alias in aliases if alias in by_plain and by_plain[alias] not in found), None)
        if match is not None:
            found[match] = ours
    missing = [name for name in required if name not in found.values()]
    if missing:
        wanted = " and no column ".join(map(repr, missing))
        left = {plain: key for plain, key in by_plain.items() if key not in found}
        near = [f"is {key!r} the {name}?" for name in missing if (key := _nearest(columns[name], left)) is not None]
        hint = " ".join([*near, f"its columns are: {', '.join(keys)[:200]}"])
        raise InvalidFile(f"{where}: there is no column {wanted}", hint=hint)
    return {key: found.get(key, key) for key in keys}


def _nearest(aliases: Sequence[str], columns: Mapping[str, str]) -> str | None:
    """The column whose plain name is nearest to one of `aliases`, as the file writes it; None where none is near."""
    near = [(match, alias) for alias in aliases for match in difflib.get_close_matches(alias, columns, n=1, cutoff=0.7)]
    best = max(near, key=lambda pair: difflib.SequenceMatcher(None, *pair).ratio(), default=None)
    return columns[best[0]] if best is not None else None


def _plain(name: str) -> str:
    return name.split(":")[0].strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def _item(row: dict[str, Any]) -> Item:
    fields = {name: _text(name, row.pop(name, "")) for name in ("id", "title", "text")}
    metadata = row.pop("metadata", None)
    extra = dict(metadata) if isinstance(metadata, dict) else {} if metadata in (None, "") else {"metadata": metadata}
    if not fields["title"].strip():
        raise InvalidInput("the title is empty")
    return Item(**fields, metadata={**extra, **row})


def _interaction(row: Mapping[str, Any], now: float) -> Interaction:
    return Interaction(
        user=_text("user", row["user"]),
        item=_text("item", row["item"]),
        weight=_number("weight", row.get("weight"), 1.0),
        at=_seconds(row.get("at"), now),
    )


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.strip() if name != "text" else value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(f"{name} must be text, not {json.dumps(value)[:60]}")


def _number(name: str, value: Any, default: float) -> float:
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        raise InvalidInput(f"{name} must be a number, not {json.dumps(value)}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{name} must be a number, not {str(value)[:60]!r}") from None


def _seconds(value: Any, now: float) -> float:
    """Seconds since 1970 of such a number, of milliseconds, or of an ISO 8601 date; without a zone it is UTC."""
    if isinstance(value, str) and value.strip() and not _is_number(value):
        try:
            date = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidInput(
                f"at is {value[:60]!r}", hint="give seconds since 1970, or a date such as 2026-01-31T18:00:00"
            ) from None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    number = _number("at", value, now)
    return number / 1000 if _MILLISECONDS_FROM <= number < 1000 * _MILLISECONDS_FROM else number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
