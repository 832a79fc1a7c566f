"""An adapter of the kind `item-weights`: item-item weights, how they were made, and a map of the text vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smallai_assistant import errors
from smallai_recommend.ease import Settings, TogetherModel
from smallai_recommend.interactions import Floats, InteractionStats

KIND = "item-weights"
FORMAT = "item-weights 1"
# Of each item, the strongest to either side: NDCG@10 over the last tenth of MovieLens 100K is 0.1217 with all 1,682
# and with 500, 0.1211 with 200.
MAX_KEPT = 500
_TENSORS, _FACTS = "weights.safetensors", "weights.json"


@dataclass(frozen=True, slots=True)
class TextMap:
    """A linear map on top of the sentence vectors: items chosen by the same users come nearer to each other.

    Attributes:
        matrix: float32, shape (n_dimensions, n_dimensions): v becomes v + v @ matrix, made length 1.
        maker: what made the vectors that it is for.
        for_cold, for_wishes: whether it placed new items, and items that were wished for, better than none.
    """

    matrix: Floats
    maker: str
    for_cold: bool
    for_wishes: bool

    def __call__(self, vectors: Floats) -> Floats:
        """Maps vectors, float32, shape (..., n_dimensions); zeros stay zeros."""
        mapped = vectors + vectors @ self.matrix
        length = np.linalg.norm(mapped, axis=-1, keepdims=True)
        return np.asarray(mapped / np.where(length > 0, length, 1.0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class LearnedWeights:
    """What a learning cycle made.

    Attributes:
        item_ids: of the rows and columns.
        columns: int32, shape (n_items, n_kept), which items each item's weights lead to.
        values: float16, the same shape, the weights.
        next_columns, next_values: the same of how often an item was chosen soon after another, float32.
        sums: the counts by item, see `Evidence.sums`.
        n_interactions: how many interactions there were when they were made, those held out for judging included.
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
        cls, stats: InteractionStats, model: TogetherModel, settings: Settings, *, n_interactions: int
    ) -> LearnedWeights:
        """Keeps the strongest of a model's weights, and the counts of the evidence."""
        n = stats.n_items
        every = np.arange(n)
        columns, values = _strongest(n, lambda item: model.block(every[item : item + 1], every)[0])
        next_columns, next_values = _strongest(n, lambda item: stats.counts_from([item])[0])
        return cls(
            tuple(stats.item_ids),
            columns,
            values.astype(np.float16),
            next_columns,
            next_values,
            stats.sums,
            settings,
            model.is_ease,
            n_interactions,
        )

    def stats(self) -> InteractionStats:
        """What had been counted when it was made; in serving, what is counted since then is counted with it anew."""
        from scipy import sparse

        n = len(self.item_ids)
        rows = np.repeat(np.arange(n), self.next_columns.shape[1])
        transitions = sparse.csr_matrix((self.next_values.ravel(), (rows, self.next_columns.ravel())), shape=(n, n))
        transitions.eliminate_zeros()
        return InteractionStats.of_counts(self.item_ids, self.sums, transitions)

    def model_for(self, stats: InteractionStats) -> TogetherModel:
        """The weights in the order of the evidence's items; items that one of the two does not know have none."""
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
        return TogetherModel.of_weights(weights, n_interactions=self.n_interactions, is_ease=self.is_ease)

    def knows(self, stats: InteractionStats) -> npt.NDArray[np.bool_]:
        """Which of the evidence's items have weights here, by index."""
        known = np.zeros(stats.n_items, dtype=np.bool_)
        has = np.abs(self.values).max(axis=1, initial=0) > 0
        places = [stats.find(each) for each, is_there in zip(self.item_ids, has.tolist(), strict=True) if is_there]
        known[[place for place in places if place is not None]] = True
        return known

    def save(self, folder: Path) -> None:
        """Writes its two files."""
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
            facts["text_map"] = {name: getattr(self.text_map, name) for name in ("maker", "for_cold", "for_wishes")}
        save_file(tensors, folder / _TENSORS)
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LearnedWeights:
        """Reads them back.

        Raises:
            AdapterMismatch: they are not what this plugin writes.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors, facts = load_file(folder / _TENSORS), json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            ids = tuple(facts["item_ids"])
            n = len(ids)
            columns, values, next_columns, next_values, sums = (
                tensors[name] for name in ("columns", "values", "next_columns", "next_values", "sums")
            )
            text_map = TextMap(tensors["text_map"], **facts["text_map"]) if "text_map" in tensors else None
            is_sound = facts["format"] == FORMAT and sums.shape == (5, n)
            for places, numbers in ((columns, values), (next_columns, next_values)):
                is_sound &= places.shape == numbers.shape == (n, places.shape[1]) and places.dtype == np.int32
                is_sound &= not places.size or bool(places.min() >= 0 and places.max() < n)
            learned = cls(
                ids, columns, values, next_columns, next_values, sums, Settings(**facts["settings"]),
                facts["is_ease"], facts["n_interactions"], text_map,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise errors.AdapterMismatch(f"{folder.name}: no item weights: {error}") from error
        if not is_sound:
            raise errors.AdapterMismatch(f"{folder.name}: its arrays do not fit each other")
        return learned


def _strongest(n: int, row_of: Callable[[int], Floats]) -> tuple[npt.NDArray[np.int32], Floats]:
    """Of each of n rows the numbers that are farthest from 0, and where they stand."""
    n_kept = max(1, min(MAX_KEPT, n))
    columns, values = np.zeros((n, n_kept), dtype=np.int32), np.zeros((n, n_kept), dtype=np.float32)
    for number in range(n):
        row = row_of(number)
        kept = np.argpartition(-np.abs(row), n_kept - 1)[:n_kept] if n_kept < n else np.arange(n)
        columns[number], values[number] = kept, row[kept]
    return columns, values
