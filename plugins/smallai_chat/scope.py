"""The scope of an adapter: it answers questions that are similar to its training questions, the base answers the rest.

In a small network short taught answers leak into other questions. One everyday question in twenty got a taught answer,
even when training kept hundreds of other questions close to the base (docs/decisions.md, 17). Weights that were trained
on corrections are therefore used only inside a scope, defined by sentence similarity (SERAC, Mitchell et al. 2022).

Ratings teach style, which applies to every question. An adapter that was trained on both holds two sets of weights: the
main one for questions inside the scope, and one in the folder `elsewhere`, trained on ratings alone, for the others. An
adapter without a scope file answers every question.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallai_assistant import Adapter, EmbeddingModel, errors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# Chosen for all-MiniLM-L6-v2: the paraphrases of `bench.facts` score above it, the gate's 24 everyday questions and all
# 504 questions of the benches' canary below it. An embedding model that finds all texts similar makes the scope too
# wide; the gate then measures the leak and refuses the adapter.
MIN_SIMILARITY = 0.5
FILE, ELSEWHERE = "scope.safetensors", "elsewhere"
# A question is cut here before it is embedded: the embedding model reads 256 tokens, and the subject comes early.
MAX_CHARS = 500
# Scopes in memory. A cycle needs two, the serving adapter's and the candidate's; a rollback may need one more.
_MAX_CACHED = 4

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]
Base = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Scope:
    """The sentence vectors of an adapter's training questions.

    Attributes:
        vectors: float32, shape (n_questions, n_dimensions), unit length.
        embedding: name and file hashes of the embedding model that made the vectors.
    """

    vectors: FloatArray
    embedding: Mapping[str, Any]

    def similarity(self, vectors: FloatArray) -> FloatArray:
        """Returns each question's cosine similarity with its most similar training question.

        Args:
            vectors: float32, shape (n, n_dimensions), unit length.

        Returns:
            float32, shape (n,).
        """
        nearest: FloatArray = (vectors @ self.vectors.T).max(axis=1)
        return nearest

    def covers(self, vectors: FloatArray) -> list[bool]:
        """Whether each question, given as vectors of shape (n, n_dimensions), lies inside the scope."""
        return [bool(similarity >= MIN_SIMILARITY) for similarity in self.similarity(vectors)]

    def save(self, folder: Path) -> None:
        """Writes the scope file into the adapter's folder."""
        from safetensors.numpy import save_file

        save_file({"questions": self.vectors}, folder / FILE, {"embedding": json.dumps(dict(self.embedding))})

    @classmethod
    def load(cls, folder: Path) -> Scope | None:
        """Reads the scope of the adapter in the folder; None if the adapter answers every question.

        Raises:
            AdapterMismatch: the file is not a scope.
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
    """Loads the scopes of adapters and decides which weights answer a question. Thread-safe.

    Args:
        lease: lends the embedding model.
        base: returns the embedding model's name and file hashes.
    """

    def __init__(self, lease: Lease, base: Base) -> None:
        self._lease = lease
        self._base = base
        self._lock = threading.Lock()
        self._cached: OrderedDict[str, Scope | None] = OrderedDict()

    def of_questions(self, questions: Sequence[str]) -> Scope:
        """Returns the scope of an adapter that is trained on these questions.

        Raises:
            ModelError: the embedding model is not available.
        """
        return Scope(self.vectors(questions), dict(self._base()))

    def vectors(self, questions: Sequence[str]) -> FloatArray:
        """Returns the questions' sentence vectors: float32, shape (n_questions, n_dimensions), unit length.

        Raises:
            ModelError: the embedding model is not available.
        """
        with self._lease() as model:
            return model.embed([question[:MAX_CHARS] for question in questions])

    def adapters_for(self, adapter: Adapter | None, questions: Sequence[str]) -> list[Adapter | None]:
        """Returns, for each question, the adapter's main weights, its weights for elsewhere, or None for the base.

        Raises:
            AdapterMismatch: the scope was made with another embedding model, so that its vectors cannot be compared.
            ModelError: the embedding model is not available.
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
        elsewhere = adapter.with_part(ELSEWHERE)
        covered = scope.covers(self.vectors(questions)) if questions else []
        return [adapter if is_covered else elsewhere for is_covered in covered]

    def _scope(self, adapter: Adapter) -> Scope | None:
        # An adapter's folder never changes after training, so a cached scope never goes stale.
        key = str(adapter.folder)
        with self._lock:
            if key not in self._cached:
                self._cached[key] = Scope.load(adapter.folder)
            self._cached.move_to_end(key)
            while len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
            return self._cached[key]
