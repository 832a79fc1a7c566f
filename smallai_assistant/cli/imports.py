"""`smallai items import` and `smallai interactions import`: reads CSV or JSONL, all lines or none."""

from __future__ import annotations

import csv
import difflib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from smallai_assistant.cli.context import CommandContext, check_file
from smallai_assistant.cli.rating_scale import RatingScale
from smallai_assistant.errors import AssistantError, InvalidInput
from smallai_assistant.filesystem import expanded
from smallai_assistant.storage.import_lines import ImportLines, in_line, parse_object
from smallai_assistant.types import Interaction, Item
from smallai_assistant.validation import MAX_AHEAD, check_range

T = TypeVar("T")

# The names of columns in exports of shops, MovieLens, RecBole, scikit-surprise and implicit. Names are compared without
# case, `_`, `-` and spaces, and without RecBole's type suffix (`user_id:token`). Earlier names win.
_ITEM_COLUMNS = {
    "id": ("id", "itemid", "item", "movieid", "bookid", "productid", "sku", "asin", "isbn"),
    "title": ("title", "name", "itemname", "movietitle", "booktitle", "producttitle", "productname", "label"),
    "text": ("text", "description", "summary", "plot", "overview", "abstract", "body", "content", "genre", "class"),
}
_INTERACTION_COLUMNS = {
    "user": ("user", "userid", "uid", "username", "customer", "customerid", "visitorid"),
    "item": ("item", "itemid", "iid", "movieid", "bookid", "productid", "sku", "asin", "isbn"),
    "weight": ("weight", "strength", "count", "quantity"),
    "rating": ("rating", "ratings", "stars", "score"),
    "at": ("at", "timestamp", "time", "date", "datetime", "when", "createdat", "ts"),
}
_DELIMITERS = ",;\t|"
_MILLISECONDS_FROM = 1e11  # as seconds, it would be the year 5138; as milliseconds, it is 1973
_LINES_PER_TICK = 2_000  # drawing a bar takes as long as reading some hundred lines
_MAX_LINE_BYTES = 2**20  # a row is some hundred bytes; a file without line ends must not fill the memory


class InvalidFile(InvalidInput):
    """The content of a file is wrong. The command was called correctly, so the exit code is 1 and not 2."""


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
    screen = context.screen
    # One time for all lines without a time, so that their order does not matter.
    now = time.time()
    scale = None if context.args.scale is None else RatingScale.parse(context.args.scale)
    lines = _read(context, lambda row: _interaction(row, now, scale), _INTERACTION_COLUMNS, required=("user", "item"))
    ratings = {line.rating for line in lines if line.rating is not None}
    if ratings:
        try:
            scale = scale or RatingScale.recognize(ratings)
        except InvalidInput as error:
            raise InvalidFile(f"{context.args.file}: {error.message}", hint=error.hint) from error
        lines = [line.rated(scale) for line in lines]
    with context.assistant() as assistant:
        new = _without_known(lines, assistant.items.interactions())
        n_stored = assistant.items.add_interactions(new)
        known = {item.id for item in assistant.items.items()}
    if len(new) < len(lines):
        screen.note(f"note: {len(lines) - len(new):,} lines are there already and are left out")
    n_ahead = sum(line.is_ahead for line in lines)
    if n_ahead:
        screen.note(f"note: lines with a date in the future: {n_ahead:,}; they count as of now")
    n_against = sum(line.interaction.weight < 0 for line in lines)
    n_for = len(lines) - n_against
    if ratings:
        screen.note(f"note: ratings are read as {scale} (see --scale): {n_for:,} for, {n_against:,} against their item")
    n_unknown = sum(row.item not in known for row in new)
    if n_unknown:
        screen.note(f"note: {n_unknown:,} of them name an item that is not imported, see `smallai items import`")
    read_as = [scale.low, scale.high] if ratings and scale is not None else None
    return _report(context, n_stored, "interaction", {"scale": read_as, "for": n_for, "against": n_against})


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a log.

    Attributes:
        interaction: with the weight of the line, as long as the scale of its rating is not known.
        rating: None if the line has none.
        is_dated: whether the line says when it was, and not a time in the future.
        is_ahead: whether it says a time in the future.
    """

    interaction: Interaction
    rating: float | None
    is_dated: bool
    is_ahead: bool

    def rated(self, scale: RatingScale) -> _Line:
        if self.rating is None:
            return self
        return replace(self, interaction=replace(self.interaction, weight=scale.weight(self.rating)))


def _without_known(lines: Sequence[_Line], stored: Sequence[Interaction]) -> list[Interaction]:
    """The interactions that are not stored yet, so that the same file again changes nothing.

    A line that the file has twice may be stored twice. A line without a date is known if the store has it at any time.
    """
    dated = Counter(stored)
    undated = Counter(replace(row, at=0.0) for row in stored)
    new = []
    for line in lines:
        row = line.interaction
        left, key = (dated, row) if line.is_dated else (undated, replace(row, at=0.0))
        if left[key] > 0:
            left[key] -= 1
        else:
            new.append(row)
    return new


def _report(context: CommandContext, n: int, noun: str, more: Mapping[str, Any] | None = None) -> int:
    if context.args.json:
        context.screen.json({"file": context.args.file, "imported": n, "kind": f"{noun}s", **(more or {})})
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
    """Reads every line into a value.

    Args:
        make: makes a value from the cells of a line by our names.
        columns: the names that a column may have in the file, by our name.
        required: our names of the columns that must be there.

    Raises:
        InvalidFile: a line is wrong; the message names the first one.
    """
    path = check_file(expanded(context.args.file))
    rows = []
    with _opened(path) as lines:
        ticker = _Ticker(context, lines)
        is_jsonl = _is_jsonl(lines)
        # The lines of a JSONL file may have different keys; the names are looked up once for each set of keys.
        names: dict[tuple[str, ...], dict[str, str]] = {}
        for number, record in _jsonl(lines) if is_jsonl else _csv(lines):
            keys = tuple(record)
            if keys not in names:
                names[keys] = _named(keys, columns, required, place=f"{path}, line {number if is_jsonl else 1:,}")
            try:
                rows.append(make({names[keys][key]: value for key, value in record.items()}))
            except AssistantError as error:
                raise InvalidFile(
                    f"{path}, line {number:,}: {error.message}", hint=error.hint, suggestion=error.suggestion
                ) from error
            ticker.tick(number, lines.n_bytes)
    context.screen.end_progress()
    if not rows:
        raise InvalidFile(f"{path}: there is nothing in it", hint=f"give lines with {' and '.join(required)}")
    return rows


@contextmanager
def _opened(path: Path) -> Iterator[ImportLines]:
    """Opens a file for reading; what is wrong with its lines is wrong with the file, and not with the call."""
    try:
        with ImportLines(path) as lines:
            yield lines
    except InvalidFile:
        raise
    except InvalidInput as error:
        raise InvalidFile(error.message, hint=error.hint, suggestion=error.suggestion) from error


class _Ticker:
    """Shows how much of a large file was read."""

    def __init__(self, context: CommandContext, lines: ImportLines) -> None:
        self._screen = context.screen
        self._what = f"reading {lines.path.name}"
        self._n_bytes = max(1, lines.size)

    def tick(self, number: int, n_bytes: int) -> None:
        if number % _LINES_PER_TICK == 0:
            # Below 1, since at 1 the bar would be removed while the rows are stored.
            self._screen.progress(self._what, min(0.99, n_bytes / self._n_bytes))


def _is_jsonl(lines: ImportLines) -> bool:
    """Whether a file is JSONL; the suffix tells, or else the first character."""
    if lines.path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return True
    # Only the beginning of the first line counts, so a long one is no error here. A pipe keeps what was read of it.
    return lines.first_bytes().lstrip().startswith(b"{")


def _jsonl(lines: ImportLines) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        for line in lines.full(_MAX_LINE_BYTES):
            yield lines.number, parse_object(line)
    except InvalidFile:
        raise
    except InvalidInput as error:
        raise in_line(lines, error) from error


def _csv(lines: ImportLines) -> Iterator[tuple[int, dict[str, Any]]]:
    path = lines.path
    source = _decoded(lines)
    header_line = next(source, "")
    # The separator that the header has most of: the lines below it may hold commas in every text.
    delimiter = max(_DELIMITERS, key=header_line.count)
    names: list[str] = []

    def all_lines() -> Iterator[str]:
        yield header_line
        yield from source

    # RecBole's atomic files have no quotes: a quotation mark is part of the text.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if path.suffix in (".inter", ".item") else csv.QUOTE_MINIMAL
    reader = csv.reader(all_lines(), delimiter=delimiter, strict=True, quoting=quoting)
    begins = 1  # a quoted cell may hold line ends, so a row may begin some lines above the reader's line
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
        raise InvalidFile(f"{path}, line {begins:,}: not CSV: {error}", hint="check the quotes") from error


def _decoded(lines: ImportLines) -> Iterator[str]:
    """The lines as text, blank ones too: a quoted cell may hold them."""
    try:
        for line in lines.all(_MAX_LINE_BYTES):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InvalidInput("not UTF-8", hint="save the file as UTF-8") from error
    except InvalidInput as error:
        raise in_line(lines, error) from error


def _named(
    keys: tuple[str, ...], columns: Mapping[str, tuple[str, ...]], required: tuple[str, ...], *, place: str
) -> dict[str, str]:
    """Our name for each column of a file. A column that we have no name for keeps its own.

    Args:
        place: the file and the line, for the error.

    Raises:
        InvalidFile: a required column is missing.
    """
    # Reversed, so that of two columns with the same plain name the first one counts.
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
        raise InvalidFile(f"{place}: there is no column {wanted}", hint=hint)
    return {key: found.get(key, key) for key in keys}


def _nearest(aliases: Sequence[str], columns: Mapping[str, str]) -> str | None:
    """The column whose name is most similar to one of `aliases`; None if no column is similar.

    Args:
        columns: the names as the file writes them, by plain name.
    """
    # difflib's own 0.6 would ask whether "time" is the title, and whether "publisher" is the user.
    near = [(match, alias) for alias in aliases for match in difflib.get_close_matches(alias, columns, n=1, cutoff=0.7)]
    best = max(near, key=lambda pair: difflib.SequenceMatcher(None, *pair).ratio(), default=None)
    return columns[best[0]] if best is not None else None


def _plain(name: str) -> str:
    """The form in which names of columns are compared."""
    return name.split(":")[0].strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def _item(row: dict[str, Any]) -> Item:
    fields = {name: _text(name, row.pop(name, "")) for name in ("id", "title", "text")}
    # A column named `metadata` may hold an object, as in our own JSONL; its keys are merged with the other columns.
    metadata = row.pop("metadata", None)
    extra = dict(metadata) if isinstance(metadata, dict) else {} if metadata in (None, "") else {"metadata": metadata}
    if not fields["title"].strip():
        raise InvalidInput("the title is empty")
    return Item(**fields, metadata={**extra, **row})


def _interaction(row: Mapping[str, Any], now: float, scale: RatingScale | None) -> _Line:
    at, rating = row.get("at"), row.get("rating")
    seconds = _seconds(at, now)
    # A wrong clock must not make a choice the latest one for years.
    is_ahead = seconds > now + MAX_AHEAD.total_seconds()
    stars = None if rating is None or rating == "" else _number("rating", rating, 0.0)
    if stars is not None:
        check_range("rating", stars, -1e6, 1e6)
        if scale is not None:
            scale.check(stars)
    interaction = Interaction(
        user=_text("user", row["user"]),
        item=_text("item", row["item"]),
        weight=_number("weight", row.get("weight"), 1.0) if stars is None else 1.0,
        at=seconds,
    )
    if is_ahead:
        interaction = replace(interaction, at=now)
    return _Line(interaction, stars, is_dated=at not in (None, "") and not is_ahead, is_ahead=is_ahead)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.strip() if name != "text" else value  # the text is shown as it was written
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # JSONL files have numbers as ids; a bool is an int in Python, but not an id
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
    """Seconds since 1970, from a number of seconds or milliseconds, or from an ISO 8601 date (UTC by default)."""
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
