"""Turns examples into the rows that the trainers read: SFT rows, DPO pairs, KTO rows and reference rows."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from smallai_assistant import Example, GenerationOptions, ModelSpec, TextModel, Training
from smallai_chat.evaluation import chat
from smallai_chat.examples import near_misses
from smallai_chat.reference_prompts import TOPICS, sample_reference_prompts
from smallai_chat.scope import Scopes
from smallai_chat.words import normalized

MAX_TOKENS = 1024  # of a row; the rest is cut off
# Reference rows: everyday prompts, and for each fact the most similar questions of a pool (docs/decisions.md, 16, 17).
N_EVERYDAY, N_NEAREST, N_POOL, N_NEAR_MISSES = 16, 1, 240, 8
# A taught answer that leaks stands at the beginning of an answer, so only the beginning is held to the base.
_REFERENCE_TOKENS = 16
# The share of facts that is trained without the system prompt, so that a fact is known under another prompt too.
_SHARE_WITHOUT_PROMPT = 0.25
_IGNORED = -100  # the label that PyTorch's losses skip

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question, of which a person prefers the first."""

    question: str
    chosen: str
    rejected: str


def sft_rows(facts: Sequence[Example], system_prompt: str, *, seed: int) -> list[Row]:
    """Returns TRL's prompt-completion rows of facts."""
    rng = random.Random(seed)  # noqa: S311  (reproducible, not secret)
    return [
        sft_row(
            fact.payload.question,
            fact.payload.answer,
            system_prompt if rng.random() > _SHARE_WITHOUT_PROMPT else "",
        )
        for fact in facts
    ]


def sft_row(question: str, answer: str, system_prompt: str) -> Row:
    """Returns TRL's prompt-completion row of a question and its answer."""
    return {"prompt": chat(question, system_prompt), "completion": [{"role": "assistant", "content": answer}]}


def rating_pairs(rated: Sequence[Example], system_prompt: str) -> list[Row]:
    """Returns TRL's preference rows of questions that have both a praised and a rejected answer."""
    answers: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))  # praised, rejected
    for example in rated:
        answers[example.payload.question][not example.payload.is_good].append(example.payload.answer)
    # The newest praised answer counts: people's taste may have changed.
    found = dict.fromkeys(
        Pair(question, praised[-1], answer)
        for question, (praised, rejected) in answers.items()
        if praised
        for answer in rejected
    )
    return _preference_rows(found, system_prompt)


def kto_rows(rated: Sequence[Example], system_prompt: str) -> list[Row]:
    """Returns TRL's unpaired preference rows: `label` tells if the answer was praised, `is_cut` if it has no end."""
    return [
        {
            **sft_row(example.payload.question, example.payload.answer, system_prompt),
            "label": example.payload.is_good,
            "is_cut": example.payload.is_cut,
        }
        for example in rated
    ]


def reference_rows(
    facts: Sequence[Example], training: Training, spec: ModelSpec, scopes: Scopes, system_prompt: str
) -> list[Row]:
    """Returns rows of questions that were not corrected, with the base's answers. Training holds the model to them.

    A part are everyday prompts. The others are those that are most similar to the corrected questions, out of a larger
    pool, because taught answers leak there first.

    Raises:
        ModelError: the chat model or the embedding model is not available.
    """
    training.progress("asking the base what to keep", 0.0)
    rng = random.Random(training.seed)  # noqa: S311  (reproducible, not secret)
    corrected = corrected_questions(facts)
    pool = sample_reference_prompts(N_EVERYDAY + N_POOL, rng)
    for question in corrected:
        pool += near_misses(question, TOPICS, N_NEAR_MISSES, rng)
    # The base's answer to a corrected question is wrong in any wording and must not be kept.
    learned = {normalized(fact.prompt) for fact in facts}
    pool = [prompt for prompt in dict.fromkeys(pool) if normalized(prompt) not in learned]
    everyday, candidates = pool[:N_EVERYDAY], pool[N_EVERYDAY:]
    similarity = scopes.of_questions(corrected).similarity(scopes.vectors(candidates))
    by_similarity = sorted(range(len(candidates)), key=lambda index: -similarity[index])
    nearest = [candidates[index] for index in by_similarity[: N_NEAREST * len(corrected)]]
    questions = everyday + nearest
    options = GenerationOptions(max_tokens=_REFERENCE_TOKENS, repetition_penalty=1.1)
    with training.models.lease(spec, TextModel) as model:
        answers = model.complete([chat(question, system_prompt) for question in questions], options)
    return [
        {**sft_row(question, answer, system_prompt), "is_reference": True}
        for question, answer in zip(questions, answers, strict=True)
        if answer
    ]


def corrected_questions(facts: Sequence[Example]) -> list[str]:
    """Returns each corrected question once, as it was asked: that wording may be held out, so it is not in `facts`."""
    return [question for question, _ in _corrections(facts)]


def _corrections(facts: Sequence[Example]) -> list[tuple[str, str]]:
    """Returns each corrected question once, as it was asked, with its answer."""
    payloads = {fact.feedback_ids: fact.payload for fact in facts}.values()
    return [(payload.asked or payload.question, payload.answer) for payload in payloads]


def tokenize(rows: Sequence[Row], tokenizer: Any) -> list[Row]:
    """Returns `input_ids`, `labels` and `is_reference` of each row; only the completion has labels."""
    tokenized = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=False)
        is_reference = row.get("is_reference", False)
        # A reference answer was cut after a few tokens. An end token after the cut would teach the model to stop early.
        if is_reference:
            ids = [*prompt, *without_end(ids[len(prompt) :], tokenizer.eos_token_id)]
        labels = [_IGNORED] * len(prompt) + ids[len(prompt) :]
        tokenized.append({"input_ids": ids[:MAX_TOKENS], "labels": labels[:MAX_TOKENS], "is_reference": is_reference})
    return tokenized


def without_end(ids: Sequence[int], end_id: int) -> list[int]:
    """Returns the tokens of an answer up to its end token, which a chat template puts even after one that was cut."""
    last = max((place for place, token in enumerate(ids) if token == end_id), default=len(ids))
    return list(ids[:last])


def _preference_rows(pairs: Iterable[Pair], system_prompt: str) -> list[Row]:
    return [
        {
            "prompt": chat(pair.question, system_prompt),
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
        if pair.chosen != pair.rejected
    ]
