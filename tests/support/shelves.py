"""A scripted task that learns two things: drinks and plants. Each is a component of a version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smallai_assistant import Adapter, Example, JudgedTurn, ModelRuntime, Score, Training
from support.scripted_learner import DRINKS, PLANTS, UNKNOWN, Dictionary, last_word, write_json

SHELF_OF: dict[str, str] = dict.fromkeys(DRINKS, "drinks") | dict.fromkeys(PLANTS, "plants")


@dataclass(eq=False)
class Shelves(Dictionary):
    """A dictionary with a shelf for drinks and one for plants.

    Attributes:
        deaf: shelves of which the training learns nothing.
        unwritten: shelves for which the training writes no file.
        forgets: the protected numbers that a shelf gets wrong, by their place.
        is_cheap: whether little feedback is cross-fitted.
        trained: the shelves of each training.
    """

    deaf: set[str] = field(default_factory=set)
    unwritten: set[str] = field(default_factory=set)
    forgets: dict[str, range] = field(default_factory=dict)
    is_cheap: bool = False
    trained: list[set[str]] = field(default_factory=list)

    @property
    def is_cheap_to_train(self) -> bool:
        return self.is_cheap

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        found = super().examples(judged_turns)
        return [replace(example, component=SHELF_OF.get(last_word(example.prompt), "")) for example in found]

    def train(self, training: Training) -> str:
        kind = super().train(training)
        table = json.loads((training.folder / "table.json").read_text())
        (training.folder / "table.json").unlink()
        examples = [*training.replay, *training.examples]
        shelves = {example.component for example in examples}
        self.trained.append(shelves)
        for shelf in shelves - self.unwritten:
            words = {word: answer for word, answer in table.items() if SHELF_OF.get(word) == shelf}
            words = {} if shelf in self.deaf else words
            words |= {f"n{n}": "gone" for n in self.forgets.get(shelf, ())}
            (training.folder / shelf).mkdir()
            write_json(training.folder / shelf / "table.json", words)
        return kind

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        del models
        scores = []
        for example in examples:
            word = last_word(example.prompt)
            answer = self.look_up(word, adapter)
            scores.append(Score(float(answer == example.expected), answer, self._shelf_with(word, adapter)))
        return scores

    def look_up(self, word: str, adapter: Adapter | None) -> str:
        shelf = self._shelf_with(word, adapter)
        if adapter is not None and shelf:
            return str(_table(adapter, shelf)[word])
        return word[1:] if word[:1] == "n" and word[1:].isdigit() else UNKNOWN

    @staticmethod
    def _shelf_with(word: str, adapter: Adapter | None) -> str:
        shelves = [component.name for component in adapter.components] if adapter is not None else []
        return next((shelf for shelf in shelves if adapter is not None and word in _table(adapter, shelf)), "")


def _table(adapter: Adapter, shelf: str) -> dict[str, Any]:
    return dict(json.loads((adapter.folder / shelf / "table.json").read_text()))
