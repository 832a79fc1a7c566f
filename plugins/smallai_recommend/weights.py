"""An adapter of the kind `item-weights`: item-item weights, how they were made, and a map of the text vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smallai_assistant import errors
from smallai_recommend.evidence import Evidence, Floats
from smallai_recommend.model import Settings, TogetherModel

KIND = "item-weights"
FORMAT = "item-weights 1"
# Of each item, the strongest to either side: NDCG@10 over the last tenth of MovieLens 100K is 0.1217 with all 1,682
# and with 500, 0.1211 with 200.
MOST_KEPT = 500
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
        n_interactions: how many interactions there were when they were made, those held out for judging included.
    """

    item_ids: tuple[str, ...]
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float16]
    settings: Settings
    is_ease: bool
    n_interactions: int
    text_map: TextMap | None = None

    @classmethod
    def of(cls, evidence: Evidence, model: TogetherModel, settings: Settings, *, n_interactions: int) -> LearnedWeights:
        """Keeps the strongest of a model's weights."""
        n = evidence.n_items
        n_kept = max(1, min(MOST_KEPT, n))
        columns = np.zeros((n, n_kept), dtype=np.int32)
        values = np.zeros((n, n_kept), dtype=np.float16)
        for item in range(n):
            row = model.weights[item]
            row = row if isinstance(row, np.ndarray) else row.toarray()[0]
            kept = np.argpartition(-np.abs(row), n_kept - 1)[:n_kept] if n_kept < n else np.arange(n)
            columns[item], values[item] = kept, row[kept]
        return cls(tuple(evidence.item_ids), columns, values, settings, model.is_ease, n_interactions)

    def model_for(self, evidence: Evidence) -> TogetherModel:
        """The weights in the order of the evidence's items; items that one of the two does not know have none."""
        from scipy import sparse

        n = evidence.n_items
        places = np.array([-1 if (at := evidence.find(each)) is None else at for each in self.item_ids], dtype=np.intp)
        rows = np.repeat(places, self.columns.shape[1])
        columns = places[self.columns].ravel()
        there = (rows >= 0) & (columns >= 0)
        values = self.values.ravel()[there].astype(np.float32)
        weights = sparse.csr_matrix((values, (rows[there], columns[there])), shape=(n, n))
        return TogetherModel.of_weights(weights, n_interactions=self.n_interactions, is_ease=self.is_ease)

    def knows(self, evidence: Evidence) -> npt.NDArray[np.bool_]:
        """Which of the evidence's items have weights here, by index."""
        known = np.zeros(evidence.n_items, dtype=np.bool_)
        has = np.abs(self.values).max(axis=1, initial=0) > 0
        places = [evidence.find(each) for each, is_there in zip(self.item_ids, has.tolist(), strict=True) if is_there]
        known[[place for place in places if place is not None]] = True
        return known

    def save(self, folder: Path) -> None:
        """Writes its two files."""
        from safetensors.numpy import save_file

        tensors: dict[str, Any] = {"columns": self.columns, "values": self.values}
        facts: dict[str, Any] = {
            "format": FORMAT,
            "item_ids": self.item_ids,
            "ridge": self.settings.ridge,
            "half_life_s": self.settings.half_life_s,
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
            columns, values, ids = tensors["columns"], tensors["values"], tuple(facts["item_ids"])
            text_map = TextMap(tensors["text_map"], **facts["text_map"]) if "text_map" in tensors else None
            settings = Settings(facts["ridge"], facts["half_life_s"])
            is_sound = columns.shape == values.shape == (len(ids), columns.shape[1]) and facts["format"] == FORMAT
            is_sound &= columns.dtype == np.int32 and values.dtype == np.float16
            is_sound &= not columns.size or (columns.min() >= 0 and columns.max() < len(ids))
            learned = cls(ids, columns, values, settings, facts["is_ease"], facts["n_interactions"], text_map)
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise errors.AdapterMismatch(f"{folder.name}: no item weights: {error}") from error
        if not is_sound:
            raise errors.AdapterMismatch(f"{folder.name}: its arrays do not fit each other")
        return learned
