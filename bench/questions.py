"""The pairs of questions of `bench.scope`, and the embedding models that compare them."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from smallai_assistant import Assistant, AssistantConfig, EmbeddingModel, ModelSpec
from smallai_assistant.config import load_config
from smallai_chat.question_words import read

_FIRST_FACT_ROW = 10_000  # of `fact_pairs`, so that they share no row with the others
MODELS = ("all-minilm-l6-v2", "multilingual-e5-small")

# Questions about a word that have nothing to do with what somebody taught about one of its kind.
_GENERAL = {
    "en": (
        "What is a {}?", "Who invented the {}?", "How does a {} work?", "What do people use a {} for?",
        "Which country has most {}s?", "What does a {} do?", "Where do {}s come from?", "What is a small {} called?",
        "What do {}s need?", "How old can a {} get?", "Where do you find a {}?", "When do people need a {}?",
    ),
    "de": (
        "Was ist ein {}?", "Wer hat {} erfunden?", "Wie funktioniert ein {}?", "Woher kommt {}?",
        "Wozu braucht man {}?", "Wo findet man {}?",
    ),
    "fr": (
        "Qu'est-ce qu'un {} ?", "Qui a inventé le {} ?", "Comment marche un {} ?", "D'où vient le {} ?",
        "À quoi sert un {} ?", "Où trouve-t-on un {} ?",
    ),
    "es": (
        "¿Qué es un {}?", "¿Quién inventó el {}?", "¿Cómo funciona un {}?", "¿De dónde viene el {}?",
        "¿Para qué sirve un {}?", "¿Dónde se encuentra un {}?",
    ),
}  # fmt: skip


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


def general_pairs(taught: Sequence[Pair]) -> list[Pair]:
    """Returns the taught questions of some pairs, each with questions of general knowledge about its words.

    "What do plants need?" is not about the plant in our lobby.
    """
    out: list[Pair] = []
    for language, question, row in dict.fromkeys((pair.language, pair.stored, pair.row) for pair in taught):
        draw = random.Random(question)
        for word in read(question, language).words if language in _GENERAL else ():
            asked = [template.format(word) for template in draw.sample(_GENERAL[language], 2)]
            out += [Pair(language, "general", question, text, row) for text in asked]
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
