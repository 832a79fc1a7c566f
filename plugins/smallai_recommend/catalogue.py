"""The items of the store, by the indices that the statistics give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smallai_assistant import Item
from smallai_recommend.interactions import Bools, InteractionStats
from smallai_recommend.query import TitleFinder
from smallai_recommend.wish_language import words_of


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A snapshot of the catalogue. A new one is made if the items or the number of indices change.

    Attributes:
        items: the items of the store.
        ids: their ids.
        titles: their titles by item index; the id if an item has no title.
        is_item: whether an index belongs to an item of the store, shape (n_items,). The others are known from
            interactions only.
        stats: the statistics that gave the indices.
    """

    items: tuple[Item, ...]
    ids: frozenset[str]
    titles: Mapping[int, str]
    is_item: Bools
    stats: InteractionStats

    @classmethod
    def of(cls, items: Iterable[Item], stats: InteractionStats) -> Catalogue:
        """Makes a snapshot; items without an index get one in `stats`."""
        items = tuple(items)
        places = [stats.index_of(item.id) for item in items]
        is_item = np.zeros(stats.n_items, dtype=np.bool_)
        is_item[places] = True
        titles = {place: item.title or item.id for place, item in zip(places, items, strict=True)}
        return cls(items, frozenset(item.id for item in items), titles, is_item, stats)

    @cached_property  # not for every snapshot: an import makes many, and only requests need it
    def finder(self) -> TitleFinder:
        """Finds the titles in a text; of equal titles the most popular item is meant."""
        return TitleFinder(self.titles, self.stats.popularity.tolist())

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The words of all titles and texts, folded."""
        return frozenset(word for item in self.items for word in words_of(f"{item.title} {item.text}"))
