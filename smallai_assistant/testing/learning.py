"""Checks of what a LearningTask makes of corrections: the fast memory, the examples, the scores."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
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

REBUILD_S = 0.2  # it is spent at every start, for every task
_N_REBUILDS = 5
_N_ASKED = 3  # messages that are asked again after each change; few, because an answer may take seconds
_TOLERANCE = 1e-3  # two scores that differ by less count as equal, because sums in another order differ slightly

log = logging.getLogger(__name__)


class LearningTrial:
    """Teaches one LearningTask. Each check returns what is wrong, one sentence for people, or an empty text.

    The checks depend on each other and run in the order of the kit: `bad_effects` teaches, the next ones compare the
    answers with those before, and `bad_examples` makes the examples for the evaluation.
    """

    def __init__(self, trial: Trial, task: LearningTask, judged_turns: JudgedTurns) -> None:
        self.trial, self.task, self.judged_turns = trial, task, judged_turns
        self.assistant = trial.assistant
        self.learned: Sequence[JudgedTurn] = ()
        self.examples: list[Example] = []
        self._asked: list[tuple[Message, str]] = []  # messages and the right answers
        self._untaught: list[str] = []  # the answers to them with an empty memory
        self._taught: list[str] = []  # the answers to them after learn_now
        self._scores: list[float] = []  # the scores of the examples with an empty memory

    def slow_rebuild(self) -> str:
        """Measures the rebuild of an empty memory: the fastest of five, because other work may hold the processor."""
        took_s: list[float] = []
        while not took_s or (min(took_s) > REBUILD_S and len(took_s) < _N_REBUILDS):
            begun = time.perf_counter()
            self.task.rebuild([])
            took_s.append(time.perf_counter() - begun)
        return f"rebuild([]) took {min(took_s):.2f} s, {REBUILD_S:g} s are allowed" if min(took_s) > REBUILD_S else ""

    def unstable_base(self) -> str:
        """Checks that the base is JSON, is not empty, and stays the same."""
        with needing_models():
            first, second = dict(self.task.base()), dict(self.task.base())
        if json.loads(json.dumps(first, allow_nan=False)) != first:
            return f"it comes back from JSON in another form: {first!r:.200}"
        if not first:
            return "it is empty, so an adapter would be used with any model"
        return "" if first == second else f"it changes: {first!r:.100} and then {second!r:.100}"

    def odd_judged_turns(self) -> str:
        """Checks that odd feedback does not keep the task from learning other feedback, or from answering."""
        odd = list(self.judged_turns.odd())
        with needing_models():
            for judged_turn in odd:
                try:
                    self.task.learn_now(judged_turn)
                except AssistantError as error:  # allowed: the host tells the user that it was not learned
                    log.info("learn_now: %s", error)
            self.task.rebuild(odd)
            self.task.examples(odd)
            if hasattr(self.trial, "parts"):
                self.trial.answer(self.trial.message)
        self.task.rebuild([])
        return ""

    def bad_effects(self) -> str:
        """Teaches the corrections one by one. The first corrects an answer; the others were never asked."""
        if not self.judged_turns.corrections:
            hint = f'give corrections={{"{self.task.name}": [(message, right answer), ...]}}'
            raise Skip("there is nothing to teach it", hint)
        if refused := self.judged_turns.refused():
            raise InvalidInput(f"a correction is of {refused}, which it does not accept", hint="give what it accepts")
        messages = self.judged_turns.corrections
        self._asked = messages[:_N_ASKED]
        with needing_models():
            self._untaught = self._answers()
            for n, (message, label) in enumerate(messages):
                turn = self.assistant.ask(message, task=self.task.name).turn if n == 0 else None
                effect = self.task.learn_now(self.judged_turns.store(message, label, turn))
                if not isinstance(effect, str):
                    return f"it returns {effect!r:.60}"
            self._taught = self._answers()
        self.learned = tuple(self.judged_turns.stored)
        return ""

    def ignored_corrections(self) -> str:
        """Checks that the next answer to a corrected message differs, unless it was right before."""
        same = [
            message
            for (message, label), before, after in zip(self._asked, self._untaught, self._taught, strict=True)
            if before == after and label.casefold() not in after.casefold()
        ]
        return f"it answers {len(same)} of {len(self._asked)} corrected messages as before" if same else ""

    def different_rebuild(self) -> str:
        """Checks that a rebuild knows what learn_now taught, because a restart must not change answers."""
        self._must_repeat()
        self.task.rebuild(self.learned)
        return "" if self._answers() == self._taught else "after rebuild the answers differ from those after learn_now"

    def remaining_memory(self) -> str:
        """Checks that a rebuild without feedback knows nothing, because erased feedback must not be known."""
        self._must_repeat()
        self.task.rebuild(self.learned)
        self.task.rebuild([])
        is_same = self._answers() == self._untaught
        return "" if is_same else "after rebuild([]) the answers differ from those before it was taught"

    def bad_examples(self) -> str:
        """Makes the examples and checks them."""
        with needing_models():
            self.examples, again = self.task.examples(self.learned), self.task.examples(self.learned)
        if not isinstance(self.examples, list) or not self.examples:
            return f"{len(self.learned)} corrections give no example" if not self.examples else "it returns no list"
        if problem := _malformed(self.examples, known=self._feedback_ids()):
            return problem
        # The checkpoint of a stopped training is found by the ids of its examples.
        if [example.id for example in again] != [example.id for example in self.examples]:
            return "the ids differ each time, so a training that was stopped could not continue"
        return ""

    def bad_protected(self) -> str:
        """Checks the protected slices, and that none of their prompts is trained on."""
        with needing_models():
            slices = self.task.protected(self.learned)
        if not isinstance(slices, Mapping):
            return f"it returns a {type(slices).__name__}"
        for name, examples in slices.items():
            if problem := _malformed(examples):
                return f"{name}: {problem}"
        try:
            check_contamination(self.examples, slices)
        except EvalContaminated as error:
            return error.message
        return ""

    def bad_labelled(self) -> str:
        """Checks the labels and vectors for screening."""
        import numpy as np

        with needing_models():
            found = self.task.labelled(self.learned)
        if not isinstance(found, Mapping):
            return f"it returns a {type(found).__name__}"
        known = self._feedback_ids()
        shapes = set()
        for key, entry in found.items():
            if key not in known:
                return f"{key!r:.60} is not the id of the feedback that it was given"
            if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[0], str):
                return f"{entry!r:.60} is not a label and a vector"
            vector = np.asarray(entry[1])
            shapes.add(vector.shape)
            length = float(np.linalg.norm(vector)) if vector.ndim == 1 and vector.dtype == np.float32 else 0.0
            if abs(length - 1) > _TOLERANCE:
                return f"a vector has dtype {vector.dtype}, shape {vector.shape} and length {length:.3g}"
        return f"the vectors have several shapes: {sorted(shapes)}" if len(shapes) > 1 else ""

    def bad_scores(self, adapter: Adapter | None = None) -> str:
        """Evaluates the examples, and none, and checks the scores."""
        with needing_models():
            scores = self.task.evaluate(self.examples, adapter, self.assistant.models)
            none = self.task.evaluate([], adapter, self.assistant.models)
        if list(none):
            return f"{len(none)} scores for no example"
        if not isinstance(scores, list) or len(scores) != len(self.examples):
            return f"{scores!r:.60} for {len(self.examples)} examples"
        for score in scores:
            if not isinstance(score, Score) or not isinstance(score.answer, str):
                return f"{score!r:.60} is not a Score"
            if isinstance(score.value, bool) or not isinstance(score.value, int | float) or not 0 <= score.value <= 1:
                return f"the value {score.value!r} is not a number in [0, 1]"
        if adapter is None:
            self._scores = [score.value for score in scores]
        return ""

    def leaked_scores(self) -> str:
        """Checks that the scores with a full fast memory equal those with an empty one."""
        self.task.rebuild(self.learned)
        try:
            n_changed = self._n_changed_scores()
        finally:
            self.task.rebuild([])
        # The memory is empty again. Scores that still differ do not depend on it.
        if n_changed and self._n_changed_scores():
            raise Skip("the scores change by themselves", "seed what is random")
        return f"{n_changed} of {len(self.examples)} scores change with what rebuild was given" if n_changed else ""

    def _n_changed_scores(self) -> int:
        with needing_models():
            now = self.task.evaluate(self.examples, None, self.assistant.models)
        return sum(abs(score.value - before) > _TOLERANCE for score, before in zip(now, self._scores, strict=True))

    def _feedback_ids(self) -> set[str]:
        return {judged_turn.feedback.id for judged_turn in self.learned}

    def _answers(self) -> list[str]:
        return [self.trial.answer(message) for message, _ in self._asked]

    def _must_repeat(self) -> None:
        """Skips the check if the task answers the same message differently with the same memory."""
        self.task.rebuild([])
        if self._answers() != self._answers():
            raise Skip("the same message got two different answers", "unless it samples, it keeps state on self")


def _malformed(examples: Sequence[Any], known: set[str] | None = None) -> str:
    """What is wrong with the examples, or an empty text.

    Args:
        known: the ids of the feedback that they are made from; None does not check them.
    """
    for example in examples:
        if not isinstance(example, Example):
            return f"{example!r:.60} is not an Example"
        if not isinstance(example.prompt, str) or not example.prompt.strip():
            return f"the prompt of {example.id!r} is empty"
        if not isinstance(example.split_key, str) or not example.split_key:
            return f"the split_key of {example.id!r} is empty"
        if not 0 < example.weight <= 1:
            return f"the weight of {example.id!r} is {example.weight!r}, not in (0, 1]"
        # Without them, an erasure would not find the adapters that were trained on a feedback.
        if known is not None and not (example.feedback_ids and known.issuperset(example.feedback_ids)):
            ids = f"{example.feedback_ids!r:.80}"
            return f"the feedback_ids of {example.id!r} are {ids}, not those of the feedback it is made from"
    counts = Counter(example.id for example in examples)
    repeated = sorted(example_id for example_id, n in counts.items() if n > 1)
    return f"two examples have the id {repeated[0]!r}" if repeated else ""
