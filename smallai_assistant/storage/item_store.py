"""Items and interactions, the data of the recommender."""

from __future__ import annotations

import json
from collections.abc import Iterable

import sqlalchemy as sa

from smallai_assistant.storage.database import Database, upsert
from smallai_assistant.storage.schema import interactions, items, meta
from smallai_assistant.types import Interaction, Item

_MAX_TITLE_CHARS = 1_000  # a longer name is not looked up: SQLite refuses LIKE patterns over 50,000 bytes
_IDS_PER_STATEMENT = 500  # SQLite's default limit is 32,766 bound values; older builds allow 999


class ItemStore:
    """Items and the users' interactions with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_items(self, rows: Iterable[Item]) -> int:
        """Adds items in one transaction; an item with a known id replaces the stored one. Returns the number of ids."""
        # A dict, so that the last of several items with one id counts: PostgreSQL refuses to upsert a row twice.
        values = {
            row.id: {"id": row.id, "title": row.title, "text": row.text, "metadata": json.dumps(dict(row.metadata))}
            for row in rows
        }
        if values:
            with self._database.write() as connection:
                upsert(connection, items, list(values.values()), key="id")
                _increment(connection, "items_revision")
        return len(values)

    def remove_items(self, ids: Iterable[str]) -> int:
        """Removes items and returns how many were there. Their interactions stay: they tell about the users."""
        wanted = list(ids)
        n_removed = 0
        with self._database.write() as connection:
            for start in range(0, len(wanted), _IDS_PER_STATEMENT):
                chunk = wanted[start : start + _IDS_PER_STATEMENT]
                n_removed += connection.execute(sa.delete(items).where(items.c.id.in_(chunk))).rowcount
            if n_removed:
                _increment(connection, "items_revision")
        return n_removed

    def items(self) -> list[Item]:
        """All items, sorted by id."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(items).order_by(items.c.id)).all()
        return [Item(row.id, row.title, row.text, json.loads(row.metadata)) for row in rows]

    def find_item(self, name: str) -> Item | None:
        """The item with this id, otherwise one with this title: any case, with or without the year of `Heat (1995)`."""
        wanted = name.strip()
        # ILIKE reads % and _ as wildcards; a title that has them must match itself only.
        pattern = wanted.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        columns = (items.c.id, items.c.title, items.c.text, items.c.metadata)
        by_title = sa.or_(
            items.c.title.ilike(pattern, escape="!"), items.c.title.ilike(f"{pattern} (____)", escape="!")
        )
        with self._database.read() as connection:
            row = connection.execute(sa.select(*columns).where(items.c.id == name)).first()
            if row is None and wanted and len(wanted) <= _MAX_TITLE_CHARS:
                row = connection.execute(sa.select(*columns).where(by_title).order_by(items.c.id).limit(1)).first()
        return None if row is None else Item(row.id, row.title, row.text, json.loads(row.metadata))

    def add_interactions(self, rows: Iterable[Interaction]) -> int:
        """Appends interactions in one transaction. Returns their number."""
        values = [{"user_id": row.user, "item_id": row.item, "weight": row.weight, "at": row.at} for row in rows]
        if values:
            with self._database.write() as connection:
                connection.execute(sa.insert(interactions), values)
                _increment(connection, "interactions_revision")
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
        return self._select(query)

    def interactions_of(self, user: str) -> list[Interaction]:
        """One user's interactions, oldest first."""
        return self._select(sa.select(interactions).where(interactions.c.user_id == user))

    def revision(self) -> tuple[int, int]:
        """A counter for items and one for interactions; each changes with every write to its table."""
        keys = ("items_revision", "interactions_revision")
        with self._database.read() as connection:
            rows = connection.execute(sa.select(meta.c.key, meta.c.value).where(meta.c.key.in_(keys))).all()
        found = {row.key: int(row.value) for row in rows}
        return found.get(keys[0], 0), found.get(keys[1], 0)

    def _select(self, query: sa.Select[tuple[object, ...]]) -> list[Interaction]:
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(interactions.c.at, interactions.c.seq)).all()
        return [Interaction(row.user_id, row.item_id, row.weight, row.at) for row in rows]


def _increment(connection: sa.Connection, key: str) -> None:
    """Adds one to a counter in `meta`. It is read and then written: only one transaction writes at a time."""
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == key))
    upsert(connection, meta, [{"key": key, "value": str(int(value or 0) + 1)}], key="key")
