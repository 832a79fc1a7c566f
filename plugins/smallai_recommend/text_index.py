"""Sentence vectors of the items' texts, computed once and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from smallai_assistant import EmbeddingModel
from smallai_recommend.interactions import Bools, Floats

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]

_BATCH = 128  # texts between two looks at the clock: about a second on two cores
_FILE = "text-vectors.npz"
_KEY_BYTES = 16  # of the text's SHA-256; no two texts of a catalogue collide by chance


class TextIndex:
    """Vectors by the hash of their text, all made by the same model. Thread-safe.

    Args:
        folder: holds the file of vectors. The file is a cache and may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._lock = threading.Lock()  # held by the thread that embeds; others go on with the vectors there are
        self._model = ""
        self._vectors: dict[bytes, Floats] = {}
        self._is_loaded = False

    @property
    def maker(self) -> str:
        """The name, revision and dimensions of the model that made the vectors; empty if there are none."""
        return self._model

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors; empty if there are none."""
        return self._model.partition("@")[0]

    def embed(self, text: str, lease: Lease) -> Floats:
        """Embeds a text without keeping its vector: float32, shape (n_dimensions,), length 1.

        If the model is not the one that made the kept vectors, these are dropped: the two cannot be compared.

        Args:
            text: the text.
            lease: lends the model.

        Raises:
            AssistantError: the model is not available.
        """
        with lease() as model:
            with self._lock:
                self._load()
                self._make_with(model)
            vector: Floats = model.embed([text])[0]
            return vector

    def update(self, texts: Sequence[str], lease: Lease, *, budget_s: float, stop: threading.Event) -> int:
        """Computes the missing vectors, those of the first texts first.

        Args:
            texts: all texts of the catalogue; vectors of other texts are not kept in the file.
            lease: lends the model; called only if a vector is missing.
            budget_s: no batch begins after this many seconds; the rest waits for the next call.
            stop: ends the computation early.

        Returns:
            How many of `texts` have no vector yet.

        Raises:
            AssistantError: the model is not available.
        """
        if not self._lock.acquire(blocking=False):
            return self._count_missing(texts)
        try:
            self._load()
            wanted = {_key(text): text for text in texts}
            if any(key not in self._vectors for key in wanted):
                self._embed_missing(wanted, lease, time.monotonic() + budget_s, stop)
                with contextlib.suppress(OSError):  # a full disk costs time at the next start, not this answer
                    self._save(wanted)
            return self._count_missing(texts)
        finally:
            self._lock.release()

    def matrix(self, texts: Sequence[str]) -> tuple[Floats, Bools]:
        """The vectors of texts, float32, shape (n_texts, n_dimensions), and which texts have one, shape (n_texts,).

        Rows without a vector are zero.
        """
        vectors = self._vectors  # one reading: another thread may replace the dictionary meanwhile
        rows = [vectors.get(_key(text)) for text in texts]
        has = np.array([row is not None for row in rows], dtype=np.bool_)
        n_dimensions = next((len(row) for row in rows if row is not None), 0)
        matrix = np.zeros((len(texts), n_dimensions), dtype=np.float32)
        for place, row in enumerate(rows):
            if row is not None:
                matrix[place] = row
        return matrix, has

    def _count_missing(self, texts: Sequence[str]) -> int:
        return sum(_key(text) not in self._vectors for text in texts)

    def _embed_missing(self, wanted: dict[bytes, str], lease: Lease, until: float, stop: threading.Event) -> None:
        with lease() as model:
            self._make_with(model)
            missing = [key for key in wanted if key not in self._vectors]
            for start in range(0, len(missing), _BATCH):
                if stop.is_set() or (start and time.monotonic() > until):
                    return
                keys = missing[start : start + _BATCH]
                rows = model.embed([wanted[key] for key in keys])
                # A new dictionary, because other threads read the old one without the lock.
                self._vectors = self._vectors | dict(zip(keys, rows, strict=True))

    def _make_with(self, model: EmbeddingModel) -> None:
        name = f"{model.spec}@{model.spec.revision}/{model.n_dimensions}"
        if name != self._model:
            self._vectors, self._model = {}, name

    def _load(self) -> None:
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            with np.load(self._path, allow_pickle=False) as file:
                keys, rows, model = file["keys"], file["vectors"], str(file["model"])
        except Exception:  # a damaged archive raises a dozen kinds of errors
            return  # missing, cut short or of another program: the vectors are computed again
        shapes_fit = keys.ndim == rows.ndim == 2 and keys.shape == (len(rows), _KEY_BYTES)
        if shapes_fit and keys.dtype == np.uint8 and rows.dtype == np.float32 and np.isfinite(rows).all():
            self._vectors = {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}
            self._model = model

    def _save(self, wanted: dict[bytes, str]) -> None:
        """Writes the vectors that are wanted now; those of removed items are dropped."""
        kept = [key for key in wanted if key in self._vectors]
        if not kept:
            return
        keys = np.frombuffer(b"".join(kept), dtype=np.uint8).reshape(len(kept), _KEY_BYTES)
        rows = np.stack([self._vectors[key] for key in kept])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside the file and moved into its place, so that a crash leaves the old file or the new one.
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, keys=keys, vectors=rows, model=np.array(self._model))
            os.replace(temporary, self._path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:_KEY_BYTES]
