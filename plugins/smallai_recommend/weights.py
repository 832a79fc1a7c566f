"""The adapter of kind `item-weights`: item-item weights, how they were computed, and a map of the text vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smallai_assistant import errors
from smallai_recommend.ease import EaseModel, Settings
from smallai_recommend.interactions import Bools, Floats, InteractionStats

KIND = "item-weights"
FORMAT = "item-weights 1"
# Weights kept per item, the largest by absolute value: NDCG@10 over the last tenth of MovieLens 100K is 0.1217 with all
# 1,682 and with 500, 0.1211 with 200.
MAX_KEPT = 500
_TENSORS, _FACTS = "weights.safetensors", "weights.json"


@dataclass(frozen=True, slots=True)
class TextMap:
    """A linear map on top of the sentence vectors that brings items of the same users nearer to each other.

    Attributes:
        matrix: float32, shape (n_dimensions, n_dimensions): v becomes v + v @ matrix, normalized to length 1.
        maker: the model that made the vectors it is for.
        for_cold: whether it places new items better than the plain vectors do.
        for_queries: whether it finds what queries ask for better than the plain vectors do.
    """

    matrix: Floats
    maker: str
    for_cold: bool
    for_queries: bool

    def __call__(self, vectors: Floats) -> Floats:
        """Maps vectors: float32, shape (..., n_dimensions). Zero vectors stay zero."""
        mapped = vectors + vectors @ self.matrix
        length = np.linalg.norm(mapped, axis=-1, keepdims=True)
        return np.asarray(mapped / np.where(length > 0, length, 1.0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class LearnedWeights:
    """The result of a learning cycle.

    Attributes:
        item_ids: of the rows, and of the items that `columns` names.
        columns: int32, shape (n_items, n_kept): the items that each item's weights lead to.
        values: float16, shape (n_items, n_kept): the weights.
        next_columns: int32, shape (n_items, n_kept): the items that are chosen soon after each item.
        next_values: float32, shape (n_items, n_kept): how often, see `InteractionStats.counts_from`.
        sums: float64, shape (5, n_items), see `InteractionStats.sums`.
        settings: how the weights were computed and are mixed.
        is_ease: see `EaseModel`.
        n_interactions: number of choices at that time, including those held out for the evaluation.
        text_map: None if none was better than the plain vectors.
    """

    item_ids: tuple[str, ...]
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float16]
    next_columns: npt.NDArray[np.int32]
    next_values: Floats
    sums: npt.NDArray[np.float64]
    settings: Settings
    is_ease: bool
    n_interactions: int
    text_map: TextMap | None = None

    @classmethod
    def of(
        cls, stats: InteractionStats, model: EaseModel, settings: Settings, *, n_interactions: int
    ) -> LearnedWeights:
        """Keeps the strongest weights of a model and the counts of the statistics.

        Args:
            stats: the statistics that the model was computed from.
            model: the weights.
            settings: how they were computed.
            n_interactions: number of choices that count as known to them.
        """
        n = stats.n_items
        every = np.arange(n)
        columns, values = _strongest(n, lambda item: model.block(every[item : item + 1], every)[0])
        next_columns, next_values = _strongest(n, lambda item: stats.counts_from([item])[0])
        return cls(
            item_ids=tuple(stats.item_ids),
            columns=columns,
            values=values.astype(np.float16),  # three digits are enough for a weight
            next_columns=next_columns,
            next_values=next_values,
            sums=stats.sums,
            settings=settings,
            is_ease=model.is_ease,
            n_interactions=n_interactions,
        )

    def stats(self) -> InteractionStats:
        """The statistics at the time of training, without histories, for the evaluation. Serving uses newer ones."""
        from scipy import sparse

        n = len(self.item_ids)
        rows = np.repeat(np.arange(n), self.next_columns.shape[1])
        transitions = sparse.csr_matrix((self.next_values.ravel(), (rows, self.next_columns.ravel())), shape=(n, n))
        transitions.eliminate_zeros()
        return InteractionStats.of_counts(self.item_ids, self.sums, transitions)

    def model_for(self, stats: InteractionStats) -> EaseModel:
        """The weights by the item indices of `stats`; an item that one of the two does not know has no weights."""
        from scipy import sparse

        n = stats.n_items
        places = np.array(
            [-1 if (at := stats.find(item_id)) is None else at for item_id in self.item_ids], dtype=np.intp
        )
        rows = np.repeat(places, self.columns.shape[1])
        columns = places[self.columns].ravel()
        there = (rows >= 0) & (columns >= 0)
        values = self.values.ravel()[there].astype(np.float32)
        weights = sparse.csr_matrix((values, (rows[there], columns[there])), shape=(n, n))
        return EaseModel.of_weights(weights, n_interactions=self.n_interactions, is_ease=self.is_ease)

    def knows(self, stats: InteractionStats) -> Bools:
        """Which items of `stats` have weights, shape (n_items,)."""
        known = np.zeros(stats.n_items, dtype=np.bool_)
        has = np.abs(self.values).max(axis=1, initial=0) > 0
        places = [stats.find(name) for name, is_there in zip(self.item_ids, has.tolist(), strict=True) if is_there]
        known[[place for place in places if place is not None]] = True
        return known

    def save(self, folder: Path) -> None:
        """Writes the two files of the adapter into its folder."""
        from safetensors.numpy import save_file

        tensors: dict[str, Any] = {
            "columns": self.columns,
            "values": self.values,
            "next_columns": self.next_columns,
            "next_values": self.next_values,
            "sums": self.sums,
        }
        facts: dict[str, Any] = {
            "format": FORMAT,
            "item_ids": self.item_ids,
            "settings": asdict(self.settings),
            "is_ease": self.is_ease,
            "n_interactions": self.n_interactions,
        }
        if self.text_map is not None:
            tensors["text_map"] = np.ascontiguousarray(self.text_map.matrix, dtype=np.float32)
            facts["text_map"] = {
                "maker": self.text_map.maker,
                "for_cold": self.text_map.for_cold,
                "for_wishes": self.text_map.for_queries,  # the name in format 1
            }
        save_file(tensors, folder / _TENSORS)
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LearnedWeights:
        """Reads the files of an adapter.

        Raises:
            AdapterMismatch: the files are damaged, or of another format.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors, facts = load_file(folder / _TENSORS), json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            learned = cls(
                item_ids=tuple(facts["item_ids"]),
                columns=tensors["columns"],
                values=tensors["values"],
                next_columns=tensors["next_columns"],
                next_values=tensors["next_values"],
                sums=tensors["sums"],
                settings=Settings(**facts["settings"]),
                is_ease=facts["is_ease"],
                n_interactions=facts["n_interactions"],
                text_map=_text_map(tensors["text_map"], facts["text_map"]) if "text_map" in tensors else None,
            )
            is_sound = facts["format"] == FORMAT and learned._is_sound()
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise errors.AdapterMismatch(f"{folder.name} holds no item weights: {error}") from error
        if not is_sound:
            raise errors.AdapterMismatch(f"the arrays in {folder.name} do not fit each other")
        return learned

    def _is_sound(self) -> bool:
        """Whether the arrays fit each other: an index out of range would crash a query much later."""
        n = len(self.item_ids)
        is_sound = self.sums.shape == (5, n)
        for columns, values in ((self.columns, self.values), (self.next_columns, self.next_values)):
            is_sound &= columns.shape == values.shape == (n, columns.shape[1]) and columns.dtype == np.int32
            is_sound &= not columns.size or bool(columns.min() >= 0 and columns.max() < n)
        return is_sound


def _text_map(matrix: Floats, facts: Mapping[str, Any]) -> TextMap:
    return TextMap(matrix, facts["maker"], for_cold=facts["for_cold"], for_queries=facts["for_wishes"])


def _strongest(n: int, row_of: Callable[[int], Floats]) -> tuple[npt.NDArray[np.int32], Floats]:
    """The `MAX_KEPT` values of each of n rows that are farthest from 0: int32 columns, float32 values, (n, n_kept)."""
    n_kept = max(1, min(MAX_KEPT, n))
    columns, values = np.zeros((n, n_kept), dtype=np.int32), np.zeros((n, n_kept), dtype=np.float32)
    for number in range(n):
        row = row_of(number)
        kept = np.argpartition(-np.abs(row), n_kept - 1)[:n_kept] if n_kept < n else np.arange(n)
        columns[number], values[number] = kept, row[kept]
    return columns, values
