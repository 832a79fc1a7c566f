"""The canary: general knowledge that no feedback is about, evaluated before and after a learning cycle.

A question counts as right if the model finds its right choice likeliest, by the mean log probability of its characters.
The fast memory is off. There are two sets, because each shows something else:

- MMLU (Hendrycks et al. 2021): the smallest models guess here, so right answers come and go by chance.
- Easy questions on countries: the models know most of them, so a loss shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.data import Question, country_questions, mmlu_questions
from smallai_assistant import Adapter, Assistant, Example, LearningTask, Score
from smallai_assistant.learning.evaluation import compare
from smallai_chat.examples import Choice, held_out_example

TASK = "text-generation"
# The default of `ChatOptions`, so that the canary is asked as a user asks.
SYSTEM = "You are a helpful assistant. Answer briefly."
MAX_CHARS = 600  # of a question; longer ones take most of the time and are about reading, not about knowledge
Answers = dict[str, list[bool]]


def by_weights(assistant: Assistant, examples: Sequence[Example], adapter: Adapter | None) -> list[Score]:
    """Scores the examples with the weights alone, by the task's own evaluation. The fast memory is off."""
    task = assistant.tasks[TASK]
    assert isinstance(task, LearningTask)
    return task.evaluate(examples, adapter, assistant.models)


def ask(assistant: Assistant, n: int) -> Answers:
    """Returns, for at most `n` questions of each set, whether the champion answers them right."""
    sets = {"MMLU": mmlu_questions(), "countries": country_questions()}
    return {name: _right(assistant, _sample(questions, n)) for name, questions in sets.items()}


def drop(before: Answers, after: Answers) -> float:
    """Returns by how much the share of right answers to all questions fell, -1 to 1."""
    first, second = _joined(before), _joined(after)
    return (sum(first) - sum(second)) / len(first)


def figures(before: Answers, after: Answers) -> dict[str, Any]:
    """Returns, by set and for all, the shares before and after, and the change with its 95 % interval, in points."""
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
    """Prints one line for each set."""
    for name, row in found.items():
        print(
            f"    canary, {name:10} {row['before']:6.1%} -> {row['after']:6.1%}, change {row['change']:+.1f} points "
            f"({row['low']:+.1f} to {row['high']:+.1f}), n = {row['n']}",
            flush=True,
        )


def _right(assistant: Assistant, questions: Sequence[Question]) -> list[bool]:
    examples = [_example(number, question) for number, question in enumerate(questions)]
    scores = by_weights(assistant, examples, assistant.adapters.champion(TASK))
    return [score.answer == example.expected for score, example in zip(scores, examples, strict=True)]


def _example(number: int, question: Question) -> Example:
    # The payload `Choice` expects the right choice first.
    right, wrong = question.choices[question.answer], list(question.choices)
    del wrong[question.answer]
    return held_out_example(f"canary/{number}", right, Choice(question.question, (right, *wrong)))


def _sample(questions: Sequence[Question], n: int) -> list[Question]:
    """Returns at most `n` questions, evenly spaced over the list."""
    # Evenly and not the first ones: MMLU is sorted by subject.
    short = [question for question in questions if len(question.question) < MAX_CHARS]
    n = min(n, len(short))
    return [short[i * len(short) // n] for i in range(n)]


def _joined(answers: Answers) -> list[bool]:
    return [is_right for rows in answers.values() for is_right in rows]


def _scores(right: Sequence[bool]) -> list[Score]:
    return [Score(float(is_right)) for is_right in right]
