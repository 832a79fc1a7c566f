"""The pairs of questions of `bench.scope`, and the embedding models that compare them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from smallai_assistant import Assistant, AssistantConfig, EmbeddingModel, ModelSpec
from smallai_assistant.config import load_config

_FIRST_FACT_ROW = 10_000  # of `fact_pairs`, so that they share no row with the others
MODELS = ("all-minilm-l6-v2", "multilingual-e5-small")


class Pair(NamedTuple):
    """Two questions.

    Attributes:
        kind: "same", or what tells the second question from the first.
        row: number of the row that both come from.
    """

    language: str
    kind: str
    stored: str
    asked: str
    row: int


def rows(half: str) -> list[dict[str, Any]]:
    """Returns the rows of `scope_tune.jsonl` or `scope_unseen.jsonl`."""
    lines = Path(__file__).with_name(f"scope_{half}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pairs(half: str) -> list[Pair]:
    """Returns each taught question with its paraphrases, its near misses, and a paraphrase of another row."""
    found = rows(half)
    out: list[Pair] = []
    for number, row in enumerate(found):
        language, taught = row["language"], row["taught"]
        out += [Pair(language, "same", taught, asked, number) for asked in row["same"]]
        out += [
            Pair(language, kind, taught, asked, number) for asked, kind in zip(row["other"], row["kinds"], strict=True)
        ]
        out += [
            Pair(language, "another row", taught, other["same"][0], number)
            for other in found
            if other is not row and other["language"] == language
        ][:3]
    return out


def fact_pairs() -> list[Pair]:
    """Returns the facts of `bench.facts` with their paraphrases, and with paraphrases of the facts before and after."""
    lines = Path(__file__).with_name("facts.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines]
    out: list[Pair] = []
    for number, fact in enumerate(facts):
        row = _FIRST_FACT_ROW + number
        out += [Pair("en", "same", fact["question"], asked, row) for asked in fact["paraphrases"]]
        for other in (facts[number - 1], facts[(number + 1) % len(facts)]):
            out += [Pair("en", "another row", fact["question"], asked, row) for asked in other["paraphrases"]]
    return out


@contextmanager
def embedding_model(name: str) -> Iterator[EmbeddingModel | None]:
    """Lends an embedding model from the configured folder of models; None if it is not there."""
    config = load_config()
    if not (config.models_dir / name).is_dir():
        print(f"{name} is not in the folder of models", flush=True)
        yield None
        return
    # A model outside the catalogue is named by its folder.
    where = name if name == MODELS[0] else str(config.models_dir / name)
    with tempfile.TemporaryDirectory() as folder:
        opened = AssistantConfig(data_dir=Path(folder), models_dir=config.models_dir, device="cpu")
        with (
            Assistant(opened) as assistant,
            assistant.models.lease(ModelSpec(where, task="feature-extraction"), EmbeddingModel) as model,
        ):
            yield model


class CachedModel:
    """Keeps the vectors of a model, so that a text is embedded once."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self._vectors: dict[str, Any] = {}

    def embed(self, texts: Sequence[str]) -> Any:
        """Returns the texts' vectors, shape (n_texts, n_dimensions)."""
        import numpy as np

        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if missing:
            self._vectors |= dict(zip(missing, self._model.embed(missing), strict=True))
        return np.stack([self._vectors[text] for text in texts])
