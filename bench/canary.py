"""General knowledge that no feedback is about, asked before and after a cycle, by the weights alone.

A question is right where the model finds its right choice likeliest, by mean log probability a character. Two sets:
questions of MMLU (Hendrycks et al. 2021), at which the smallest models guess, so that right ones come and go by chance;
and easy ones on countries, which they know, so that a loss shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.data import Question, country_questions, mmlu_questions
from smallai_assistant import Adapter, Assistant, Example, LearningTask, Score
from smallai_assistant.learning.evaluation import compare
from smallai_chat.examples import Choice, watching

TASK = "text-generation"
SYSTEM = "You are a helpful assistant. Answer briefly."
MAX_CHARS = 600  # of a question
Answers = dict[str, list[bool]]


def by_weights(assistant: Assistant, examples: Sequence[Example], adapter: Adapter | None) -> list[Score]:
    """What the weights alone make of the examples, by the task's own evaluation: the fast memory is off."""
    task = assistant.tasks[TASK]
    assert isinstance(task, LearningTask)
    return task.evaluate(examples, adapter, assistant.models)


def ask(assistant: Assistant, n: int) -> Answers:
    """Which questions the champion answers rightly, by set; at most `n` of a set."""
    sets = {"MMLU": mmlu_questions(), "countries": country_questions()}
    return {name: _right(assistant, _some(questions, n)) for name, questions in sets.items()}


def drop(before: Answers, after: Answers) -> float:
    """By how much the mean over all questions fell, 0 to 1."""
    first, second = _joined(before), _joined(after)
    return (sum(first) - sum(second)) / len(first)


def figures(before: Answers, after: Answers) -> dict[str, Any]:
    """Shares before and after, the change, and its 95 % interval in points, by set and in all."""
    pairs = {name: (before[name], after[name]) for name in before} | {"all": (_joined(before), _joined(after))}
    out = {}
    for name, (first, second) in pairs.items():
        report = compare(name, "protected", _scores(first), _scores(second))
        out[name] = {
            "n": report.n,
            "before": round(report.before, 4),
            "after": round(report.after, 4),
            "change": round(100 * report.change, 1),
            "low": round(100 * report.low, 1),
            "high": round(100 * report.high, 1),
        }
    return out


def show(found: dict[str, Any]) -> None:
    """A line a set."""
    for name, row in found.items():
        print(
            f"    canary, {name:10} {row['before']:6.1%} -> {row['after']:6.1%}, change {row['change']:+.1f} points "
            f"({row['low']:+.1f} to {row['high']:+.1f}), n = {row['n']}",
            flush=True,
        )


def _right(assistant: Assistant, questions: Sequence[Question]) -> list[bool]:
    examples = [_example(number, each) for number, each in enumerate(questions)]
    scores = by_weights(assistant, examples, assistant.adapters.champion(TASK))
    return [score.answer == each.expected for score, each in zip(scores, examples, strict=True)]


def _example(number: int, question: Question) -> Example:
    """The question with its right choice first."""
    right, wrong = question.choices[question.answer], list(question.choices)
    del wrong[question.answer]
    return watching(f"canary/{number}", right, Choice(question.question, (right, *wrong)))


def _some(questions: Sequence[Question], n: int) -> list[Question]:
    """At most `n`, evenly over the list."""
    short = [question for question in questions if len(question.question) < MAX_CHARS]
    n = min(n, len(short))
    return [short[i * len(short) // n] for i in range(n)]


def _joined(answers: Answers) -> list[bool]:
    return [each for rows in answers.values() for each in rows]


def _scores(right: Sequence[bool]) -> list[Score]:
    return [Score(float(each)) for each in right]
