"""Cross-fitting: every example is judged by a candidate that did not learn it, and the last candidate learns them all.

The examples are divided into folds. For each fold a candidate learns all other examples and is scored on the fold
(Stone 1974). It is for tasks that train in seconds, and for evidence of which one in four decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence

from smallai_assistant.feedback import Example
from smallai_assistant.learning.evaluation import subject_of
from smallai_assistant.learning.text import normalized

# With five pictures of each kind, every fold has one of each, and its candidate learns four.
N_FOLDS = 5
# Cross-fitting, while one in four would be fewer new subjects than this. By `python -m bench.cross_fitting`, of 40
# subjects, 40 % better and 10 % worse, the gate sees the gain in 78 % of the cycles; of 6 subjects, in 11 %.
MAX_SUBJECTS = 40


def folds_of(examples: Sequence[Example]) -> list[list[int]]:
    """Divides examples into folds; the same examples give the same folds.

    Examples of one subject, with one split key or with one prompt are in one fold. Each right answer is spread over
    the folds, so that no candidate misses a class of which there are several examples.

    Returns:
        The indexes of each fold's examples; no fold is empty.
    """
    groups = groups_of(examples, lambda example: (*twin_keys(example), ("subject", subject_of(example))))

    def rank(group: list[int]) -> tuple[str, str]:
        first = examples[group[0]]
        # By a hash within one answer: the order in which things were taught may have a meaning.
        return first.expected, hashlib.sha256(first.split_key.encode()).hexdigest()

    folds: list[list[int]] = [[] for _ in range(min(N_FOLDS, len(groups)))]
    for number, group in enumerate(sorted(groups, key=rank)):
        folds[number % len(folds)] += group
    return [sorted(fold) for fold in folds]


def twin_keys(example: Example) -> tuple[Hashable, ...]:
    """Returns what two examples share if one gives away the answer to the other."""
    return ("split", example.split_key), ("prompt", normalized(example.prompt))


def groups_of(examples: Sequence[Example], keys_of: Callable[[Example], Iterable[Hashable]]) -> list[list[int]]:
    """Returns the indexes of examples that share a key, directly or through others, as groups in order."""
    root = list(range(len(examples)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[Hashable, int] = {}
    for i, example in enumerate(examples):
        for key in keys_of(example):
            first.setdefault(key, i)
            a, b = find(i), find(first[key])
            root[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for i in range(len(examples)):
        groups.setdefault(find(i), []).append(i)
    return list(groups.values())
