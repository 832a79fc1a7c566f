"""The scope of an adapter: it answers questions with the answers of its training questions, the base answers the rest.

In a small network short taught answers leak into other questions. One everyday question in twenty got a taught answer,
even when training kept hundreds of other questions close to the base (docs/decisions.md, 17). Weights that were trained
on corrections are therefore used only inside a scope (SERAC, Mitchell et al. 2022): for questions that `same_question`
finds to have the same answer as a training question. Scopes of older adapters know only sentence vectors and go by
similarity.

A question inside the scope is put to the weights in the words of the training question that it was found to be. These
are what the weights know best: in other words of the same question a small network gets one fact in five wrong.

Ratings teach style, which applies to every question. So an adapter has up to two sets of weights, its components: those
of corrections, with the scope, and those of ratings, which answer all other questions. Each was trained without the
other. An adapter of an older version has its main weights instead, for questions inside its scope, and weights in the
folder `elsewhere` for the others; without a scope, its main weights answer every question.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smallai_assistant import Adapter, EmbeddingModel, errors
from smallai_chat.calibration import Calibration, Embed
from smallai_chat.examples import CORRECTIONS, RATINGS
from smallai_chat.question_words import language_of
from smallai_chat.same_question import MIN_LIKELIHOOD, likelihoods

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

# For scopes without texts. Chosen for all-MiniLM-L6-v2: the paraphrases of `bench.facts` score above it, the gate's 24
# everyday questions and all 504 questions of the benches' canary below it. An embedding model that finds all texts
# similar makes such a scope too wide; the gate then measures the leak and refuses the adapter.
MIN_SIMILARITY = 0.5
FILE, ELSEWHERE = "scope.safetensors", "elsewhere"
# A question is cut here before it is embedded: the embedding model reads 256 tokens, and the subject comes early.
MAX_CHARS = 500
# Scopes in memory, those of the people who asked last: thirty questions take 50 KB.
_MAX_CACHED = 64

Lease = Callable[[], AbstractContextManager[EmbeddingModel]]
Base = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Scope:
    """An adapter's training questions and their sentence vectors.

    Attributes:
        vectors: float32, shape (n_questions, n_dimensions), unit length.
        embedding: name and file hashes of the embedding model that made the vectors.
        questions: the texts; empty in the scope of an older adapter.
        calibration: what the similarities of that embedding model mean, as far as measured.
    """

    vectors: FloatArray
    embedding: Mapping[str, Any]
    questions: tuple[str, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)

    def similarity(self, vectors: FloatArray) -> FloatArray:
        """Returns each question's cosine similarity with its most similar training question.

        Args:
            vectors: float32, shape (n, n_dimensions), unit length.

        Returns:
            float32, shape (n,).
        """
        nearest: FloatArray = (vectors @ self.vectors.T).max(axis=1)
        return nearest

    def trained(self, questions: Sequence[str], vectors: FloatArray, embed: Embed) -> list[str | None]:
        """Returns, for each question, the training question that has the same answer; None outside the scope.

        A scope without texts gives the question itself.

        Args:
            vectors: of the questions, float32, shape (n, n_dimensions), unit length.
        """
        if not self.questions:
            inside = self.similarity(vectors) >= MIN_SIMILARITY
            return [asked if is_inside else None for asked, is_inside in zip(questions, inside, strict=True)]
        found: list[str | None] = []
        for asked, cosines in zip(questions, (vectors @ self.vectors.T).tolist(), strict=True):
            likely = likelihoods(asked, self.questions, cosines, self.calibration, embed)
            best = max(range(len(likely)), key=likely.__getitem__)
            found.append(self.questions[best] if likely[best] >= MIN_LIKELIHOOD else None)
        return found

    def save(self, folder: Path) -> None:
        """Writes the scope file into the adapter's folder."""
        from safetensors.numpy import save_file

        about = {
            "embedding": json.dumps(dict(self.embedding)),
            "questions": json.dumps(self.questions),
            "calibration": json.dumps(self.calibration.as_json()),
        }
        save_file({"questions": self.vectors}, folder / FILE, about)

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
                about = opened.metadata()
                embedding = json.loads(about["embedding"])
                questions = tuple(json.loads(about.get("questions", "[]")))
                calibration = Calibration.from_json(json.loads(about.get("calibration", "{}")))
        except (AttributeError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise errors.AdapterMismatch(f"{folder.name}: not a scope: {error}") from error
        if vectors.ndim != 2 or not len(vectors) or not isinstance(embedding, dict):
            raise errors.AdapterMismatch(f"{folder.name}: a scope of the shape {vectors.shape}")
        if questions and (len(questions) != len(vectors) or not all(isinstance(text, str) for text in questions)):
            raise errors.AdapterMismatch(f"{folder.name}: a scope of {len(questions)} texts and {len(vectors)} vectors")
        return cls(vectors, embedding, questions, calibration)


@dataclass(frozen=True, slots=True)
class Route:
    """How a question is answered.

    Attributes:
        adapter: the weights that answer it; None for the base.
        question: the words in which they are asked.
    """

    adapter: Adapter | None
    question: str


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
        texts = tuple(question[:MAX_CHARS] for question in questions)
        calibration = Calibration()
        with self._lease() as model:
            vectors = model.embed(texts)
            for language in {language_of(text) for text in texts}:
                calibration.of(language, model.embed)
        return Scope(vectors, dict(self._base()), texts, calibration)

    def vectors(self, questions: Sequence[str]) -> FloatArray:
        """Returns the questions' sentence vectors: float32, shape (n_questions, n_dimensions), unit length.

        Raises:
            ModelError: the embedding model is not available.
        """
        with self._lease() as model:
            return model.embed([question[:MAX_CHARS] for question in questions])

    def routes(self, adapter: Adapter | None, questions: Sequence[str]) -> list[Route]:
        """Returns, for each question, the weights that answer it and the words in which they are asked.

        The first adapter of the chain (`Adapter.over`) whose scope covers the question answers with what corrections
        taught. A question outside all scopes gets the first weights of the chain that answer every question: those that
        ratings taught. So what is known comes before how it is said, and of both the more personal first.

        Raises:
            AdapterMismatch: a scope was made with another embedding model, so that its vectors cannot be compared.
            ModelError: the embedding model is not available.
        """
        chain = adapter.chain if adapter is not None else ()
        scoped = [(found, scope) for found in chain if (scope := self._scope(found)) is not None]
        everywhere = [self._elsewhere(found) for found in chain]
        default = next((found for found in everywhere if found is not None), None)
        routes = [Route(default, question) for question in questions]
        if not scoped or not questions:
            return routes
        for found, _ in scoped:
            self.check(found)
        asked = [question[:MAX_CHARS] for question in questions]
        open_ones = list(range(len(asked)))
        with self._lease() as model:
            vectors = model.embed(asked)
            for found, scope in scoped:
                trained = scope.trained([asked[n] for n in open_ones], vectors[open_ones], model.embed)
                for n, question in zip(open_ones, trained, strict=True):
                    if question is not None:
                        # A text that was cut is not what was trained.
                        is_cut = len(question) == MAX_CHARS
                        routes[n] = Route(found.with_part(CORRECTIONS) or found, questions[n] if is_cut else question)
                open_ones = [n for n, question in zip(open_ones, trained, strict=True) if question is None]
                if not open_ones:
                    break
        return routes

    def check(self, adapter: Adapter) -> None:
        """Checks that an adapter's scope, if it has one, can be compared with questions.

        Raises:
            AdapterMismatch: it was made with another embedding model, or its file is not a scope.
        """
        scope = self._scope(adapter)
        if scope is not None and dict(scope.embedding) != (base := dict(self._base())):
            raise errors.AdapterMismatch(
                f"it was made for the embedding model {scope.embedding.get('model')!r}, and {base.get('model')!r} is "
                "configured, or its files have changed",
                hint="learn again",
            )

    def _elsewhere(self, adapter: Adapter) -> Adapter | None:
        """Returns the weights that answer outside the adapter's scope; None for those of the base."""
        if adapter.with_part(CORRECTIONS) is not None or adapter.with_part(RATINGS) is not None:
            return adapter.with_part(RATINGS)
        return adapter if self._scope(adapter) is None else adapter.with_part(ELSEWHERE)

    def has_scope(self, adapter: Adapter) -> bool:
        """Whether the adapter's main weights are used for some questions only."""
        return self._scope(adapter) is not None

    def _scope(self, adapter: Adapter) -> Scope | None:
        # An adapter's folder never changes after training, so a cached scope never goes stale.
        key = str(adapter.folder)
        with self._lock:
            if key not in self._cached:
                of_component = adapter.folder / CORRECTIONS
                self._cached[key] = Scope.load(of_component if of_component.is_dir() else adapter.folder)
            self._cached.move_to_end(key)
            while len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
            return self._cached[key]
