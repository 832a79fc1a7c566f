"""What a LearningTask makes of corrections: the fast memory, the examples, the scores."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from smallai_assistant.errors import AssistantError, EvalContaminated, InvalidInput
from smallai_assistant.evaluation import check_contamination
from smallai_assistant.feedback import Adapter, Example, Lesson, Score
from smallai_assistant.task import LearningTask
from smallai_assistant.testing.lessons import Lessons
from smallai_assistant.testing.report import Skip
from smallai_assistant.testing.trial import Trial, needing_models
from smallai_assistant.types import Message

RECALL_S = 0.2  # at every start, for every task
_N_ASKED = 3  # messages that are asked again after each change: an answer may take seconds
_SURE = 1e-3  # scores that differ by less are the same: sums in another order

log = logging.getLogger(__name__)


class LearningTrial:
    """One LearningTask at work. Each method says what is wrong, nothing where all is well."""

    def __init__(self, trial: Trial, task: LearningTask, lessons: Lessons) -> None:
        self.trial, self.task, self.lessons = trial, task, lessons
        self.assistant = trial.assistant
        self.learned: Sequence[Lesson] = ()
        self.examples: list[Example] = []
        self._asked: list[tuple[Message, str]] = []  # messages and the right answers
        self._alone: list[str] = []  # what it answers to them with an empty memory
        self._taught: list[str] = []  # and after learn_now
        self._without: list[float] = []  # the scores with an empty memory

    def slow_recall(self) -> str:
        """Of an empty memory; the fastest of three, since others may hold the processor."""
        took_s = []
        for _ in range(3):
            begun = time.perf_counter()
            self.task.recall([])
            took_s.append(time.perf_counter() - begun)
        return f"recall([]) took {min(took_s):.2f} s, {RECALL_S:g} s are allowed" if min(took_s) > RECALL_S else ""

    def unstable_base(self) -> str:
        with needing_models():
            first, second = dict(self.task.base()), dict(self.task.base())
        if json.loads(json.dumps(first, allow_nan=False)) != first:
            return f"it is not what comes back from JSON: {first!r:.200}"
        if not first:
            return "it is empty: an adapter would be loaded on any model"
        return "" if first == second else f"it changes: {first!r:.100} and then {second!r:.100}"

    def odd_lessons(self) -> str:
        """None of them may keep the task from learning the others, or from answering."""
        odd = list(self.lessons.odd())
        with needing_models():
            for lesson in odd:
                try:
                    self.task.learn_now(lesson)
                except AssistantError as error:  # the user is told that it was not learned
                    log.info("learn_now: %s", error)
            self.task.recall(odd)
            self.task.examples(odd)
            if hasattr(self.trial, "parts"):
                self.trial.answer(self.trial.message)
        self.task.recall([])
        return ""

    def bad_effects(self) -> str:
        """Teaches the corrections one by one, the first as one of an answered turn."""
        if not self.lessons.corrections:
            why = "nothing is there to teach it"
            raise Skip(why, f'give corrections={{"{self.task.name}": [(message, what is right), ...]}}')
        if refused := self.lessons.refused():
            raise InvalidInput(f"a correction is of {refused}, which it does not accept", hint="give what it accepts")
        messages = self.lessons.corrections
        self._asked = messages[:_N_ASKED]
        with needing_models():
            self._alone = self._answers()
            for n, (message, label) in enumerate(messages):
                turn = self.assistant.ask(message, task=self.task.name).turn if n == 0 else None
                effect = self.task.learn_now(self.lessons.store(message, label, turn))
                if not isinstance(effect, str):
                    return f"it returns {effect!r:.60}"
            self._taught = self._answers()
        self.learned = tuple(self.lessons.stored)
        return ""

    def ignored_corrections(self) -> str:
        """Whether the next answer to a corrected message is another, where it was wrong."""
        same = [
            message
            for (message, label), before, after in zip(self._asked, self._alone, self._taught, strict=True)
            if before == after and label.casefold() not in after.casefold()
        ]
        return f"it answers {len(same)} of {len(self._asked)} corrected messages as before" if same else ""

    def other_recall(self) -> str:
        """A restart must not change what is known."""
        self._must_repeat()
        self.task.recall(self.learned)
        return "" if self._answers() == self._taught else "after recall it answers otherwise than after learn_now"

    def kept_memory(self) -> str:
        """What was undone or erased must not be known."""
        self._must_repeat()
        self.task.recall(self.learned)
        self.task.recall([])
        return "" if self._answers() == self._alone else "after recall([]) it answers otherwise than before the lessons"

    def bad_examples(self) -> str:
        with needing_models():
            self.examples, again = self.task.examples(self.learned), self.task.examples(self.learned)
        if not isinstance(self.examples, list) or not self.examples:
            return f"{len(self.learned)} corrections give no example" if not self.examples else "it gives no list"
        if problem := _misshapen(self.examples, known={each.feedback.id for each in self.learned}):
            return problem
        if [each.id for each in again] != [each.id for each in self.examples]:
            return "the ids are others each time: a training that was stopped could not go on"
        return ""

    def bad_protected(self) -> str:
        with needing_models():
            slices = self.task.protected(self.learned)
        if not isinstance(slices, Mapping):
            return f"it returns a {type(slices).__name__}"
        for name, examples in slices.items():
            if problem := _misshapen(examples):
                return f"{name}: {problem}"
        try:
            check_contamination(self.examples, slices)
        except EvalContaminated as error:
            return error.message
        return ""

    def bad_labelled(self) -> str:
        import numpy as np

        with needing_models():
            found = self.task.labelled(self.learned)
        if not isinstance(found, Mapping):
            return f"it returns a {type(found).__name__}"
        known = {each.feedback.id for each in self.learned}
        shapes = set()
        for key, entry in found.items():
            if key not in known:
                return f"{key!r:.60} is no feedback of the lessons"
            if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[0], str):
                return f"{entry!r:.60} is no label and vector"
            vector = np.asarray(entry[1])
            shapes.add(vector.shape)
            length = float(np.linalg.norm(vector)) if vector.ndim == 1 and vector.dtype == np.float32 else 0.0
            if abs(length - 1) > _SURE:
                return f"a vector of {vector.dtype}, shape {vector.shape} and length {length:.3g}"
        return f"vectors of the shapes {sorted(shapes)}" if len(shapes) > 1 else ""

    def bad_scores(self, adapter: Adapter | None = None) -> str:
        with needing_models():
            scores = self.task.evaluate(self.examples, adapter, self.assistant.models)
            none = self.task.evaluate([], adapter, self.assistant.models)
        if list(none):
            return f"{len(none)} scores for no example"
        if not isinstance(scores, list) or len(scores) != len(self.examples):
            return f"{scores!r:.60} for {len(self.examples)} examples"
        for score in scores:
            if not isinstance(score, Score) or not isinstance(score.answer, str):
                return f"{score!r:.60} is no Score"
            if isinstance(score.value, bool) or not isinstance(score.value, int | float) or not 0 <= score.value <= 1:
                return f"the value {score.value!r} is no number in [0, 1]"
        if adapter is None:
            self._without = [score.value for score in scores]
        return ""

    def leaked_scores(self) -> str:
        """The same scores as before, when nothing was remembered."""
        self.task.recall(self.learned)
        try:
            n_changed = self._n_changed_scores()
        finally:
            self.task.recall([])
        if n_changed and self._n_changed_scores():
            raise Skip("the scores change by themselves", "seed what is random")
        return f"{n_changed} of {len(self.examples)} scores change with what recall was given" if n_changed else ""

    def _n_changed_scores(self) -> int:
        with needing_models():
            now = self.task.evaluate(self.examples, None, self.assistant.models)
        return sum(abs(each.value - before) > _SURE for each, before in zip(now, self._without, strict=True))

    def _answers(self) -> list[str]:
        return [self.trial.answer(message) for message, _ in self._asked]

    def _must_repeat(self) -> None:
        """Skips the check where the same memory gives two answers."""
        self.task.recall([])
        if self._answers() != self._answers():
            raise Skip("the same message got two answers", "unless it samples, it keeps state on self")


def _misshapen(examples: Sequence[Any], known: set[str] | None = None) -> str:
    """What is wrong with the examples.

    Args:
        known: the feedback they may be made from; None does not look.
    """
    for each in examples:
        if not isinstance(each, Example):
            return f"{each!r:.60} is no Example"
        if not isinstance(each.prompt, str) or not each.prompt.strip():
            return f"the prompt of {each.id!r} is empty"
        if not isinstance(each.split_key, str) or not each.split_key:
            return f"the split_key of {each.id!r} is empty"
        if not 0 < each.weight <= 1:
            return f"the weight of {each.id!r} is {each.weight!r}, not in (0, 1]"
        if known is not None and not (each.feedback_ids and known.issuperset(each.feedback_ids)):
            return f"the feedback_ids of {each.id!r} are {each.feedback_ids!r:.80}, not those of its lessons"
    ids = [each.id for each in examples]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    return f"the id {twice[0]!r} is there twice" if twice else ""
