"""What a LearningTask makes of corrections: the fast memory, the examples, the scores."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from smallai_assistant.errors import AssistantError, EvalContaminated, InvalidInput
from smallai_assistant.feedback import Adapter, Example, JudgedTurn, Score
from smallai_assistant.learning.evaluation import check_contamination
from smallai_assistant.task import LearningTask
from smallai_assistant.testing.judged_turns import JudgedTurns
from smallai_assistant.testing.report import Skip
from smallai_assistant.testing.trial import Trial, needing_models
from smallai_assistant.types import Message

REBUILD_S = 0.2  # at every start, for every task
_N_ASKED = 3  # messages that are asked again after each change: an answer may take seconds
_SURE = 1e-3  # scores that differ by less are the same: sums in another order

log = logging.getLogger(__name__)


class LearningTrial:
    """One LearningTask at work. Each method says what is wrong, nothing where all is well."""

    def __init__(self, trial: Trial, task: LearningTask, judged_turns: JudgedTurns) -> None:
        self.trial, self.task, self.judged_turns = trial, task, judged_turns
        self.assistant = trial.assistant
        self.learned: Sequence[JudgedTurn] = ()
        self.examples: list[Example] = []
        self._asked: list[tuple[Message, str]] = []  # messages and the right answers
        self._alone: list[str] = []  # what it answers to them with an empty memory
        self._taught: list[str] = []  # and after learn_now
        self._without: list[float] = []  # the scores with an empty memory

    def slow_rebuild(self) -> str:
        """Of an empty memory; the fastest of three, since others may hold the processor."""
        took_s = []
        for _ in range(3):
            begun = time.perf_counter()
            self.task.rebuild([])
            took_s.append(time.perf_counter() - begun)
        return f"rebuild([]) took {min(took_s):.2f} s, {REBUILD_S:g} s are allowed" if min(took_s) > REBUILD_S else ""

    def unstable_base(self) -> str:
        with needing_models():
            first, second = dict(self.task.base()), dict(self.task.base())
        if json.loads(json.dumps(first, allow_nan=False)) != first:
            return f"it is not what comes back from JSON: {first!r:.200}"
        if not first:
            return "it is empty: an adapter would be loaded on any model"
        return "" if first == second else f"it changes: {first!r:.100} and then {second!r:.100}"

    def odd_judged_turns(self) -> str:
        """None of them may keep the task from learning the others, or from answering."""
        odd = list(self.judged_turns.odd())
        with needing_models():
            for judged_turn in odd:
                try:
                    self.task.learn_now(judged_turn)
                except AssistantError as error:  # the user is told that it was not learned
                    log.info("learn_now: %s", error)
            self.task.rebuild(odd)
            self.task.examples(odd)
            if hasattr(self.trial, "parts"):
                self.trial.answer(self.trial.message)
        self.task.rebuild([])
        return ""

    def bad_effects(self) -> str:
        """Teaches the corrections one by one, the first as one of an answered turn."""
        if not self.judged_turns.corrections:
            why = "nothing is there to teach it"
            raise Skip(why, f'give corrections={{"{self.task.name}": [(message, what is right), ...]}}')
        if refused := self.judged_turns.refused():
            raise InvalidInput(f"a correction is of {refused}, which it does not accept", hint="give what it accepts")
        messages = self.judged_turns.corrections
        self._asked = messages[:_N_ASKED]
        with needing_models():
            self._alone = self._answers()
            for n, (message, label) in enumerate(messages):
                turn = self.assistant.ask(message, task=self.task.name).turn if n == 0 else None
                effect = self.task.learn_now(self.judged_turns.store(message, label, turn))
                if not isinstance(effect, str):
                    return f"it returns {effect!r:.60}"
            self._taught = self._answers()
        self.learned = tuple(self.judged_turns.stored)
        return ""

    def ignored_corrections(self) -> str:
        """Whether the next answer to a corrected message is another, where it was wrong."""
        same = [
            message
            for (message, label), before, after in zip(self._asked, self._alone, self._taught, strict=True)
            if before == after and label.casefold() not in after.casefold()
        ]
        return f"it answers {len(same)} of {len(self._asked)} corrected messages as before" if same else ""

    def other_rebuild(self) -> str:
        """A restart must not change what is known."""
        self._must_repeat()
        self.task.rebuild(self.learned)
        return "" if self._answers() == self._taught else "after rebuild it answers otherwise than after learn_now"

    def kept_memory(self) -> str:
        """What was undone or erased must not be known."""
        self._must_repeat()
        self.task.rebuild(self.learned)
        self.task.rebuild([])
        return (
            "" if self._answers() == self._alone else "after rebuild([]) it answers otherwise than before the lessons"
        )

    def bad_examples(self) -> str:
        with needing_models():
            self.examples, again = self.task.examples(self.learned), self.task.examples(self.learned)
        if not isinstance(self.examples, list) or not self.examples:
            return f"{len(self.learned)} corrections give no example" if not self.examples else "it gives no list"
        if problem := _misshapen(self.examples, known={each.feedback.id for each in self.learned}):
            return problem
        if [each.id for each in again] != [example.id for example in self.examples]:
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
        self.task.rebuild(self.learned)
        try:
            n_changed = self._n_changed_scores()
        finally:
            self.task.rebuild([])
        if n_changed and self._n_changed_scores():
            raise Skip("the scores change by themselves", "seed what is random")
        return f"{n_changed} of {len(self.examples)} scores change with what rebuild was given" if n_changed else ""

    def _n_changed_scores(self) -> int:
        with needing_models():
            now = self.task.evaluate(self.examples, None, self.assistant.models)
        return sum(abs(each.value - before) > _SURE for each, before in zip(now, self._without, strict=True))

    def _answers(self) -> list[str]:
        return [self.trial.answer(message) for message, _ in self._asked]

    def _must_repeat(self) -> None:
        """Skips the check where the same memory gives two answers."""
        self.task.rebuild([])
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
    ids = [example.id for example in examples]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    return f"the id {twice[0]!r} is there twice" if twice else ""
