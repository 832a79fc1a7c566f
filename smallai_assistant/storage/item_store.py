"""Items and interactions, the data of the recommender."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import InvalidInput
from smallai_assistant.storage.database import Database, upsert
from smallai_assistant.storage.revisions import current, increment
from smallai_assistant.storage.row_reader import chunks, means_damage
from smallai_assistant.storage.schema import interactions, items
from smallai_assistant.types import Interaction, Item
from smallai_assistant.validation import MAX_AHEAD, fold_key

_MAX_TITLE_CHARS = 1_000  # a longer name is not looked up: SQLite refuses LIKE patterns over 50,000 bytes


class ItemStore:
    """Items and the users' interactions with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_items(self, rows: Iterable[Item]) -> int:
        """Adds items in one transaction; an item with a known id replaces the stored one. Returns the number of ids."""
        # A dict, so that the last of several items with one id counts: PostgreSQL refuses to upsert a row twice.
        values = {
            row.id: {"id": row.id, "title": row.title, "text": row.text, "metadata": _metadata_of(row)} for row in rows
        }
        if values:
            with self._database.write() as connection:
                upsert(connection, items, list(values.values()), key="id")
                increment(connection, "items_revision")
        return len(values)

    def remove_items(self, ids: Iterable[str]) -> int:
        """Removes items and returns how many were there. Their interactions stay: they tell about the users."""
        wanted = [fold_key(item_id) for item_id in ids]
        n_removed = 0
        with self._database.write() as connection:
            for chunk in chunks(wanted):
                n_removed += connection.execute(sa.delete(items).where(items.c.id.in_(chunk))).rowcount
            if n_removed:
                increment(connection, "items_revision")
        return n_removed

    def items(self) -> list[Item]:
        """All items, sorted by id."""
        reader = self._database.reader
        with self._database.read() as connection:
            rows = reader.select(connection, items, {})
        return reader.read(items, rows, _row_to_item)

    def find_item(self, name: str) -> Item | None:
        """The item with this id, otherwise one with this title: any case, with or without the year of `Heat (1995)`."""
        wanted = fold_key(name)
        # ILIKE reads % and _ as wildcards; a title that has them must match itself only.
        pattern = wanted.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        columns = (items.c.id, items.c.title, items.c.text, items.c.metadata)
        # A title is kept as it was written, with its accents composed or decomposed.
        forms = {pattern, unicodedata.normalize("NFD", pattern)}
        by_title = sa.or_(
            *(items.c.title.ilike(like, escape="!") for form in sorted(forms) for like in (form, f"{form} (____)"))
        )
        with self._database.read() as connection:
            row = connection.execute(sa.select(*columns).where(items.c.id == wanted)).first()
            if row is None and wanted and len(wanted) <= _MAX_TITLE_CHARS:
                row = connection.execute(sa.select(*columns).where(by_title).order_by(items.c.id).limit(1)).first()
        return None if row is None else _row_to_item(row)

    def add_interactions(self, rows: Iterable[Interaction]) -> int:
        """Appends interactions in one transaction. Returns their number.

        Raises:
            InvalidInput: one of them lies more than a day in the future; nothing was added.
        """
        values: list[dict[str, Any]] = [
            {"user_id": row.user, "item_id": row.item, "weight": row.weight, "at": row.at} for row in rows
        ]
        latest = max((float(row["at"]) for row in values), default=0.0)
        if latest > time.time() + MAX_AHEAD.total_seconds():
            raise InvalidInput(f"at is {latest:.0f}, which is in the future", hint="give seconds since 1970")
        if values:
            with self._database.write() as connection:
                connection.execute(sa.insert(interactions), values)
                increment(connection, "interactions_revision")
        return len(values)

    def interactions(self, *, after: int = 0) -> list[Interaction]:
        """Interactions, oldest first; those of equal time in the order in which they were added.

        Args:
            after: number of interactions to skip, in the order in which they were added: a caller that knows the first
                n reads only the new ones.
        """
        query = sa.select(interactions)
        if after:  # counted, not compared with `seq`: PostgreSQL leaves gaps in `seq` when a transaction fails
            newer = sa.select(interactions.c.seq).order_by(interactions.c.seq).offset(after)
            query = query.where(interactions.c.seq.in_(newer))
        return self._select(query, {}, after)

    def interactions_of(self, user: str) -> list[Interaction]:
        """One user's interactions, oldest first."""
        user = fold_key(user)
        return self._select(sa.select(interactions).where(interactions.c.user_id == user), {"user_id": user})

    def forget_user(self, user: str) -> int:
        """Deletes a user's interactions. Returns their number."""
        with self._database.write() as connection:
            of_user = interactions.c.user_id == fold_key(user)
            n_removed = connection.execute(sa.delete(interactions).where(of_user)).rowcount
            if n_removed:
                increment(connection, "interactions_revision")
                increment(connection, "interactions_removed")
        return n_removed

    def revision(self) -> tuple[int, int, int]:
        """A counter of the writes to items, one of those to interactions, and one of the removals of interactions."""
        with self._database.read() as connection:
            found = current(connection, ["items_revision", "interactions_revision", "interactions_removed"])
        return found[0], found[1], found[2]

    def _select(
        self, query: sa.Select[tuple[object, ...]], where: Mapping[str, str], after: int = 0
    ) -> list[Interaction]:
        reader = self._database.reader
        with self._database.read() as connection:
            try:
                rows = list(connection.execute(query.order_by(interactions.c.at, interactions.c.seq)).all())
            except sa.exc.DBAPIError as error:
                if not means_damage(error):
                    raise
                rows = reader.select(connection, interactions, where)[after:]
                rows.sort(key=lambda row: row.at)
        return reader.read(interactions, rows, lambda row: Interaction(row.user_id, row.item_id, row.weight, row.at))


def _row_to_item(row: Any) -> Item:
    return Item(row.id, row.title, row.text, json.loads(row.metadata))


def _metadata_of(item: Item) -> str:
    """The metadata as the column holds it, read back once.

    Raises:
        InvalidInput: it is nested so deep that it could not be read again, or holds itself.
    """
    try:
        text = json.dumps(dict(item.metadata))
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the metadata of {item.id!r} cannot be stored: {error}", hint="give JSON values") from error
    return text
