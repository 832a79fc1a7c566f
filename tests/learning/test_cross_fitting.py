"""Little feedback of a task that trains cheaply: every row judges a candidate that did not learn it, and is learned."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.scripted_learner import (
    DRINKS,
    NAME,
    PLANTS,
    Dictionary,
    last_word,
    open_assistant,
    questions,
    served_by,
    teach,
)

from smallai_assistant import Adapter, Assistant, Example, ModelRuntime, Score, Training, errors
from smallai_assistant.feedback import is_held_out
from smallai_assistant.learning.cross_fitting import MAX_SUBJECTS, N_FOLDS, folds_of
from smallai_assistant.learning.learner import CycleOptions
from smallai_assistant.learning.report import CycleReport


@dataclass(eq=False)
class CheapDictionary(Dictionary):
    """A dictionary that says that its training is cheap, and remembers who learned and who was asked what.

    Attributes:
        learned: prompts that each adapter learned, by its folder's name.
        asked: for each evaluation the name of the adapter's folder, empty for the base, and the prompts.
        n_needed: number of examples below which the training raises.
    """

    is_cheap_to_train = True
    learned: dict[str, set[str]] = field(default_factory=dict)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    n_needed: int = 0

    def train(self, training: Training) -> str:
        examples = [*training.examples, *training.replay]
        if len(examples) < self.n_needed:
            raise errors.NotEnoughData("too little")
        kind = super().train(training)
        (training.folder / "prompts.json").write_text(json.dumps([example.prompt for example in examples]))
        return kind

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        # A plain dictionary's adapter has no such file.
        if adapter is not None and (file := adapter.folder / "prompts.json").is_file():
            self.learned[adapter.id] = set(json.loads(file.read_bytes()))
        self.asked.append((adapter.id if adapter is not None else "", [example.prompt for example in examples]))
        return super().evaluate(examples, adapter, models)


@pytest.fixture
def task() -> CheapDictionary:
    return CheapDictionary()


@pytest.fixture
def opened(tmp_path: Path, task: CheapDictionary) -> Iterator[Assistant]:
    with open_assistant(tmp_path, task) as assistant:
        yield assistant


def cycle(assistant: Assistant, words: dict[str, str]) -> CycleReport:
    """Teaches the words and runs a cycle that must be promoted."""
    teach(assistant, words)
    report = assistant.learn(NAME)
    assert report.is_promoted, report.summary()
    return report


def example(name: str, *, expected: str = "a", prompt: str = "", key: str = "", subject: str = "") -> Example:
    return Example(name, prompt or f"what is {name}", expected, key or name, subject=subject)


# -- the folds --


def test_twins_are_in_one_fold() -> None:
    examples = [
        *(example(f"e{n}") for n in range(20)),
        example("prompt 1", prompt="What IS it?"),
        example("prompt 2", prompt="what is it"),
        example("key 1", key="same"),
        example("key 2", key="same", subject="tea"),
        example("subject", subject="tea"),
    ]
    folds = folds_of(examples)
    assert folds == folds_of(examples)
    assert sorted(index for fold in folds for index in fold) == list(range(len(examples)))
    by_name = {found.id: number for number, fold in enumerate(folds) for found in (examples[i] for i in fold)}
    assert by_name["prompt 1"] == by_name["prompt 2"]
    assert by_name["key 1"] == by_name["key 2"] == by_name["subject"]


def test_every_answer_is_in_every_fold() -> None:
    examples = [example(f"{kind} {n}", expected=kind) for kind in "abcde" for n in range(N_FOLDS)]
    for fold in folds_of(examples):
        assert sorted(examples[index].expected for index in fold) == list("abcde")
    assert [len(fold) for fold in folds_of(examples[:3])] == [1, 1, 1]
    assert folds_of([]) == []


# -- the cycle --


def test_every_row_judges_and_every_row_teaches(opened: Assistant, task: CheapDictionary) -> None:
    ids = teach(opened, DRINKS)
    told: list[tuple[str, float]] = []
    report = opened.learn(NAME, on_progress=lambda what, share: told.append((what, share)))
    assert report.is_promoted
    assert report.slices[0].n == report.training.n_new == len(report.training.losses) == len(ids)
    assert [share for _, share in told] == sorted(share for _, share in told)
    adapter = opened.adapters.get(report.adapter_id)
    assert set(adapter.feedback_ids) == set(adapter.retired_ids) == set(ids)
    assert report.held_out_ids == ()
    assert set(report.cross_fitted_ids) == {
        row.feedback.id for row in opened.feedback.judged_turns(NAME) if is_held_out(row.turn.request.text)
    }
    assert CycleReport.from_json(json.loads(json.dumps(report.to_json()))).cross_fitted_ids == report.cross_fitted_ids
    judging = [(name, prompts) for name, prompts in task.asked if name and name != report.adapter_id]
    assert sorted(prompt for _, prompts in judging for prompt in prompts) == sorted(
        question for word in DRINKS for question in questions(word)
    )
    for name, prompts in judging:
        assert not task.learned[name] & set(prompts)
    # Folds are neither versions nor files.
    assert [version.id for version in opened.adapters.versions(NAME)] == [report.adapter_id]


def test_plenty_of_feedback_is_split_as_before(opened: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = teach(opened, DRINKS)
    n_held_out = sum(is_held_out(question) for word in DRINKS for question in questions(word))
    assert n_held_out < MAX_SUBJECTS
    monkeypatch.setattr("smallai_assistant.learning.preparation.MAX_SUBJECTS", n_held_out)
    report = opened.learn(NAME)
    assert report.slices[0].n == len(report.held_out_ids) == n_held_out
    assert report.training.n_new == len(ids) - n_held_out
    assert report.cross_fitted_ids == ()


@pytest.mark.parametrize("is_split", [False, True])
def test_next_cycle_asks_nothing_the_champion_learned(
    opened: Assistant, task: CheapDictionary, is_split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cycle(opened, DRINKS)
    if is_split:
        monkeypatch.setattr("smallai_assistant.learning.preparation.MAX_SUBJECTS", 0)
    task.asked.clear()
    second = cycle(opened, PLANTS)
    by_name = {found.name: found for found in second.slices}
    assert set(by_name) == {"new feedback", "learned feedback", "numbers"}
    # What both learned is kept; what is new is asked of candidates that did not learn it.
    assert by_name["learned feedback"].n == len(first.cross_fitted_ids)
    assert by_name["learned feedback"].kind == "protected"
    assert second.training.n_replay == first.training.n_new
    assert set(first.cross_fitted_ids) <= set(second.cross_fitted_ids)
    asked = {prompt for name, prompts in task.asked if name == first.adapter_id for prompt in prompts}
    kept = {prompt for prompt in task.learned[first.adapter_id] if is_held_out(prompt)}
    assert asked & task.learned[first.adapter_id] == kept


def test_relabelled_row_is_learned_and_not_asked(opened: Assistant, task: CheapDictionary) -> None:
    cycle(opened, DRINKS)
    known = next(question for question in questions("tea") if is_held_out(question))
    again = opened.teach(NAME, known, "a cold drink").feedback.id
    teach(opened, PLANTS)
    task.asked.clear()
    report = opened.learn(NAME, CycleOptions(promote=False))
    champion = served_by(opened)
    target = next(prompts for name, prompts in task.asked if name == champion)
    assert known not in target
    assert again in opened.adapters.get(report.adapter_id).feedback_ids
    assert again in report.cross_fitted_ids  # no later cycle may ask it


def test_earlier_held_out_rows_become_learned(tmp_path: Path) -> None:
    with open_assistant(tmp_path) as assistant:
        teach(assistant, DRINKS)
        held_out = assistant.learn(NAME).held_out_ids
    with open_assistant(tmp_path, CheapDictionary()) as assistant:
        report = cycle(assistant, PLANTS)
        by_name = {found.name: found for found in report.slices}
        assert by_name["earlier feedback"].n == len(held_out)
        assert set(held_out) <= set(report.cross_fitted_ids)
        assert set(held_out) <= set(assistant.adapters.get(report.adapter_id).feedback_ids)


def test_five_subjects_are_enough(opened: Assistant) -> None:
    words = ("tea", "milk")
    for question in [question for word in words for question in questions(word)[:2]]:
        opened.teach(NAME, question, DRINKS[last_word(question)])
    with pytest.raises(errors.NotEnoughData) as caught:
        opened.learn(NAME)
    assert caught.value.n_missing == 1
    opened.teach(NAME, questions("tea")[2], DRINKS["tea"])
    report = opened.learn(NAME)
    assert (report.slices[0].n, report.training.n_new) == (5, 5)


def test_fold_that_cannot_train_counts_for_neither_side(opened: Assistant, task: CheapDictionary) -> None:
    ids = teach(opened, DRINKS)
    task.n_needed = len(ids)  # enough for the candidate alone
    report = opened.learn(NAME)
    assert report.outcome == "refused"
    assert (report.slices[0].before, report.slices[0].after) == (0.0, 0.0)


# -- interruptions --


def test_erasure_between_folds_ends_the_cycle(opened: Assistant, task: CheapDictionary, tmp_path: Path) -> None:
    ids = teach(opened, DRINKS)
    erased: list[object] = []

    def erase(what: str, _: float) -> None:
        if what == "training without what judges" and not erased:
            erased.append(opened.erase_feedback(ids[:1]))

    with pytest.raises(errors.TrainingFailed, match="were erased while the cycle ran"):
        opened.learn(NAME, on_progress=erase)
    assert opened.adapters.versions(NAME) == []
    assert not list((tmp_path / "data").rglob("fold-*"))
    assert opened.learn(NAME).is_promoted
    assert served_by(opened)


def test_cancelled_fold_leaves_no_version(opened: Assistant, task: CheapDictionary) -> None:
    teach(opened, DRINKS)
    cancel = threading.Event()

    def stop(what: str, _: float) -> None:
        if what == "training without what judges":
            cancel.set()

    with pytest.raises(errors.Cancelled):
        opened.learn(NAME, cancel=cancel, on_progress=stop)
    assert opened.adapters.versions(NAME) == []
    assert opened.learn(NAME).is_promoted
    assert task.steps  # the last fold's candidate


def test_budget_is_shared_by_all_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    from smallai_assistant.learning.candidates import Deadline

    now = [100.0]
    monkeypatch.setattr("smallai_assistant.learning.candidates.time.monotonic", lambda: now[0])
    deadline = Deadline(60.0, 3)
    assert deadline.next() == 120.0
    now[0] = 110.0  # it took half of its share
    assert deadline.next() == 135.0
    now[0] = 135.0
    assert deadline.next() == 160.0
    assert Deadline(None, 3).next() is None
