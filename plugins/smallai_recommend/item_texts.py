"""The text vectors of the catalogue, by item index."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smallai_assistant import AssistantError, Item, Notice
from smallai_recommend.interactions import Bools, Floats, InteractionStats, Ints
from smallai_recommend.text_index import Lease, TextIndex

EMBED_BUDGET_S = 20.0  # the first request after a large import waits at most this long for the texts


@dataclass(frozen=True, slots=True)
class TextVectors:
    """Vectors of the catalogue's texts, float32, shape (n_items, n_dimensions); rows are zero if there is none.

    Attributes:
        whole: of title and text.
        about: of the text alone, or of the title if there is no text. Titles mislead: "Kids" is not for children.
        has: which items have both, shape (n_items,).
    """

    whole: Floats
    about: Floats
    has: Bools

    def grown_to(self, n_items: int) -> TextVectors:
        """The same vectors with room for items that came later."""
        if len(self.has) >= n_items:
            return self
        known = np.arange(len(self.has))
        return TextVectors(*(_placed(array, known, n_items) for array in (self.whole, self.about, self.has)))


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """How far the texts of the catalogue have been read.

    Attributes:
        vectors: None if no text has been read.
        maker: the model that made the vectors; empty if none were asked for.
        is_complete: whether every text has its vector.
    """

    vectors: TextVectors | None = None
    maker: str = ""
    is_complete: bool = False


class TextReader:
    """Reads the texts of a catalogue.

    Args:
        text_index: the vectors that are known.
        lease: lends the embedding model.
        stop: ends the reading early.
    """

    def __init__(self, text_index: TextIndex, lease: Lease, stop: threading.Event) -> None:
        self._text_index, self._lease, self._stop = text_index, lease, stop

    def read(self, known: ReadTexts, items: Sequence[Item], stats: InteractionStats) -> tuple[ReadTexts, list[Notice]]:
        """Reads the texts that are missing, in the order of `items`, as far as `EMBED_BUDGET_S` allows.

        Args:
            known: what has been read before.
            items: the items of the catalogue.
            stats: gives the item indices.

        Returns:
            What has been read now, and notices about what is missing and why.

        Raises:
            AssistantError: with the code "cancelled", if the request was cancelled.
        """
        if known.maker != self._text_index.maker:  # vectors of two models cannot be compared
            known = ReadTexts()
        if known.is_complete:
            return known, []
        whole, about = [_whole(item) for item in items], [item.text or item.title for item in items]
        wanted = [text for both in zip(whole, about, strict=True) for text in both]
        is_complete, notices = self._update(wanted)
        vectors = known.vectors
        whole_vectors, has_whole = self._text_index.matrix(whole)
        about_vectors, has_about = self._text_index.matrix(about)
        if has_whole.any():
            places = np.array([stats.index_of(item.id) for item in items], dtype=np.intp)
            arrays = (whole_vectors, about_vectors, has_whole & has_about)
            vectors = TextVectors(*(_placed(array, places, stats.n_items) for array in arrays))
        return ReadTexts(vectors, self._text_index.maker, is_complete), notices

    def _update(self, wanted: Sequence[str]) -> tuple[bool, list[Notice]]:
        try:
            n_missing = self._text_index.update(wanted, self._lease, budget_s=EMBED_BUDGET_S, stop=self._stop)
        except AssistantError as error:
            if error.code == "cancelled":
                raise
            return False, [Notice("text_unavailable", f"Titles and texts could not be compared: {error}.")]
        if n_missing:
            text = f"{n_missing:,} of {len(wanted):,} texts have yet to be read; ask again."
            return False, [Notice("text_partial", text)]
        return True, []


def _whole(item: Item) -> str:
    return f"{item.title}. {item.text}" if item.text else item.title


def _placed(rows: npt.NDArray[Any], places: Ints, n: int) -> npt.NDArray[Any]:
    """An array of n rows with `rows` at `places` and zeros elsewhere."""
    placed = np.zeros((n, *rows.shape[1:]), dtype=rows.dtype)
    placed[places] = rows
    return placed
