"""Sorts notes into folders that it learns from your corrections: `Assistant(plugins=[smallai_notes])`.

The fast memory holds the corrected notes; a note goes to the folder of the note that is nearest in meaning. An adapter
holds the mean vector of each folder: a nearest-centroid classifier (Hastie et al. 2009, section 18.2).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import smallai_assistant as sdk

log = logging.getLogger(__name__)


class NoteFolders(sdk.LearningTask):
    """Names the folder of a note. It has no utterances, because any text may be a note; users name the task."""

    name = "note-folders"
    title = "sort notes into your folders"
    primary_metric = "share of notes in the right folder"

    def setup(self, context: sdk.TaskContext) -> None:
        super().setup(context)
        self.spec = sdk.ModelSpec(context.model_names.embedding, task="feature-extraction")
        self.rebuild([])

    def run(self, request: sdk.Request, models: sdk.ModelRuntime) -> Iterator[Any]:
        adapter = self.context.adapters.champion(self.name)  # once per answer, so that it does not change within one
        notes, vectors = dict(self._notes), self._vectors
        with models.lease(self.spec, sdk.EmbeddingModel) as model:
            if new := [note for note in notes if note not in vectors]:
                vectors |= zip(new, model.embed(new), strict=True)
            known = [(folder, vectors[note]) for note, (folder, _) in notes.items()] + _means(adapter)
            ((folder, nearness),) = _nearest([request.message.text], known, model)
        yield sdk.Details({"model": str(self.spec)} | ({"adapter": adapter.id} if adapter else {}))
        if not folder:
            yield sdk.Notice("no_folders", "There is no folder yet. Correct this answer with the name of one.")
            return
        yield sdk.TextPart(f"It goes to {folder}.")
        yield sdk.LabelPart(folder, -1, nearness)

    def learn_now(self, judged_turn: sdk.JudgedTurn) -> str:
        learned = _notes([judged_turn])
        self._notes |= learned
        return "".join(f"Notes like this one go to {folder} from now on." for folder, _ in learned.values())

    def rebuild(self, judged_turns: Sequence[sdk.JudgedTurn]) -> None:
        self._notes = _notes(judged_turns)
        self._vectors: dict[str, Any] = {}  # computed when an answer needs them, so a start loads no model

    def base(self) -> Mapping[str, Any]:
        return {"model": self.spec.name}

    def examples(self, judged_turns: Sequence[sdk.JudgedTurn]) -> list[sdk.Example]:
        return [sdk.Example(id, note, folder, note, (id,)) for note, (folder, id) in _notes(judged_turns).items()]

    def train(self, training: sdk.Training) -> str:
        examples = [*training.examples, *training.replay]
        folders = sorted({example.expected for example in examples})
        if len(folders) < 2:
            raise sdk.errors.NotEnoughData(f"{len(folders)} folders", hint="correct notes of two folders or more")
        means = []
        with training.models.lease(self.spec, sdk.EmbeddingModel) as model:
            for n, folder in enumerate(folders, 1):
                training.yield_to_serving()
                chosen = [example for example in examples if example.expected == folder]
                vectors = model.embed([example.prompt for example in chosen])
                mean = np.average(vectors, axis=0, weights=[example.weight for example in chosen])
                means.append(mean / max(np.linalg.norm(mean), 1e-9))
                training.progress(f"read the notes of {folder}", n / len(folders))
        np.save(training.folder / "means.npy", np.stack(means).astype(np.float32), allow_pickle=False)
        (training.folder / "folders.json").write_text(json.dumps(folders))
        return "centroids"

    def evaluate(
        self, examples: Sequence[sdk.Example], adapter: sdk.Adapter | None, models: sdk.ModelRuntime
    ) -> list[sdk.Score]:
        with models.lease(self.spec, sdk.EmbeddingModel) as model:
            found = _nearest([example.prompt for example in examples], _means(adapter), model)
        return [sdk.Score(float(a == e.expected), a) for e, (a, _) in zip(examples, found, strict=True)]


def _notes(judged_turns: Sequence[sdk.JudgedTurn]) -> dict[str, tuple[str, str]]:
    """Note -> folder and feedback id. The last correction of a note counts."""
    found = {}
    for judged_turn in judged_turns:
        note, folder = judged_turn.turn.request.text, " ".join((judged_turn.feedback.correction or "").split())
        if note.strip() and 0 < len(folder) <= 100:
            found[note] = (folder, judged_turn.feedback.id)
        else:
            log.info("the feedback %s names no folder", judged_turn.feedback.id)
    return found


def _means(adapter: sdk.Adapter | None) -> list[tuple[str, Any]]:
    """The folders of an adapter with their vectors, float32, of length 1."""
    if adapter is None:
        return []
    folders = json.loads((adapter.folder / "folders.json").read_text())
    return list(zip(folders, np.load(adapter.folder / "means.npy", allow_pickle=False), strict=True))


def _nearest(texts: Sequence[str], known: list[tuple[str, Any]], model: sdk.EmbeddingModel) -> list[tuple[str, float]]:
    """The folder of the nearest known vector for each text, and the cosine, cut to [0, 1]."""
    if not texts or not known:
        return [("", 0.0)] * len(texts)
    cosines = model.embed(texts) @ np.stack([vector for _, vector in known]).T
    return [(known[row.argmax()][0], float(np.clip(row.max(), 0.0, 1.0))) for row in cosines]


@sdk.hookimpl
def register_tasks(register: Callable[[sdk.Task], None]) -> None:
    register(NoteFolders())
