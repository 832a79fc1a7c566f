"""Which questions an adapter answers: those near to the ones it was taught. The base answers the others, as it was.

Short taught answers spread in a small network: one everyday question in twenty got one, however much was kept beside
them (docs/decisions.md, 17). So what corrections taught has a scope, found by meaning (SERAC, Mitchell et al. 2022).
Ratings teach how to answer whatever is asked. Where both were learned, the adapter holds two sets of weights: one for
the scope, and in the folder `elsewhere` what the ratings alone made. Without a scope it answers everything.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from smallai_assistant import Adapter, EmbeddingModel, errors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# For all-MiniLM-L6-v2: the paraphrases of `bench.facts` lie above it, the 24 everyday questions of the gate and all
# 504 of the benches' canary below. A model that finds all texts alike makes the scope wide, and the gate sees that.
NEAR = 0.5
FILE, ELSEWHERE = "scope.safetensors", "elsewhere"
MAX_CHARS = 500
_MAX_KEPT = 4

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]
Base = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Scope:
    """Taught questions, and what their vectors were made with.

    Attributes:
        vectors: float32, shape (n_questions, n_dimensions), each of length 1.
        embedding: the embedding model's name and hashes.
    """

    vectors: FloatArray
    embedding: Mapping[str, Any]

    def nearness(self, vectors: FloatArray) -> FloatArray:
        """The cosine of each question, shape (n, n_dimensions), with the nearest taught one: shape (n,)."""
        nearest: FloatArray = (vectors @ self.vectors.T).max(axis=1)
        return nearest

    def covers(self, vectors: FloatArray) -> list[bool]:
        """Whether each question, shape (n, n_dimensions), is near to a taught one."""
        return [bool(each >= NEAR) for each in self.nearness(vectors)]

    def save(self, folder: Path) -> None:
        """Writes it beside the weights."""
        from safetensors.numpy import save_file

        save_file({"questions": self.vectors}, folder / FILE, {"embedding": json.dumps(dict(self.embedding))})

    @classmethod
    def load(cls, folder: Path) -> Scope | None:
        """Reads it again; None where the adapter answers everything.

        Raises:
            AdapterMismatch: the file is not of a scope.
        """
        from safetensors import SafetensorError, safe_open

        if not (folder / FILE).exists():
            return None
        try:
            with safe_open(folder / FILE, framework="numpy") as opened:
                vectors = opened.get_tensor("questions")
                embedding = json.loads(opened.metadata()["embedding"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise errors.AdapterMismatch(f"{folder.name}: not a scope: {error}") from error
        if vectors.ndim != 2 or not len(vectors) or not isinstance(embedding, dict):
            raise errors.AdapterMismatch(f"{folder.name}: a scope of the shape {vectors.shape}")
        return cls(vectors, embedding)


class Scopes:
    """The scopes of the adapters that serve or are judged. Any thread may ask.

    Args:
        lease: lends the embedding model.
        base: its name and hashes.
    """

    def __init__(self, lease: Lease, base: Base) -> None:
        self._lease = lease
        self._base = base
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Scope | None] = OrderedDict()

    def of_questions(self, questions: Sequence[str]) -> Scope:
        """The scope of an adapter that was taught these.

        Raises:
            ModelError: the embedding model cannot be had.
        """
        return Scope(self.vectors(questions), dict(self._base()))

    def vectors(self, questions: Sequence[str]) -> FloatArray:
        """What questions mean: float32, shape (n_questions, n_dimensions).

        Raises:
            ModelError: the embedding model cannot be had.
        """
        with self._lease() as model:
            return model.embed([question[:MAX_CHARS] for question in questions])

    def answering(self, adapter: Adapter | None, questions: Sequence[str]) -> list[Adapter | None]:
        """Who answers each question: the adapter, what it has for elsewhere, or None for the base.

        Raises:
            AdapterMismatch: its scope was made with another embedding model.
            ModelError: the embedding model cannot be had.
        """
        scope = self._scope(adapter) if adapter is not None else None
        if adapter is None or scope is None:
            return [adapter] * len(questions)
        base = dict(self._base())
        if dict(scope.embedding) != base:
            raise errors.AdapterMismatch(
                f"it was made for the embedding model {scope.embedding.get('model')!r}, and {base.get('model')!r} is "
                "configured, or its files have changed",
                hint="learn again",
            )
        folder = adapter.folder / ELSEWHERE
        elsewhere = replace(adapter, id=f"{adapter.id}/{ELSEWHERE}", folder=folder) if folder.is_dir() else None
        covered = scope.covers(self.vectors(questions)) if questions else []
        return [adapter if each else elsewhere for each in covered]

    def _scope(self, adapter: Adapter) -> Scope | None:
        key = str(adapter.folder)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Scope.load(adapter.folder)
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]
