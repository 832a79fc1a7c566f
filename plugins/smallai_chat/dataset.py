"""Examples -> the rows that TRL trains on: facts, pairs, ratings, and what is to stay as the base says it."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from smallai_assistant import Example, GenerationOptions, ModelSpec, TextModel, Training
from smallai_chat.evaluation import Chat, chat
from smallai_chat.examples import near_misses, normalized
from smallai_chat.reference_prompts import THINGS, everyday_questions
from smallai_chat.scope import Scopes

MAX_TOKENS = 1024  # of a row
_MAX_PAIRS_OF_A_FACT = 2
# What is kept: everyday questions, and for each correction the nearest of a pool that has near misses of each, too.
N_EVERYDAY, N_NEAREST, N_POOL, N_NEAR_MISSES = 48, 3, 600, 8
_EVERYDAY_TOKENS = 16  # a taught answer that spreads stands at the beginning

Row = dict[str, Any]


def sft_rows(facts: Sequence[Example], praised: Sequence[Example], system_prompt: str, *, seed: int) -> list[Row]:
    """Prompt and completion of facts and praised answers; one fact in four is asked without the system prompt."""
    rng = random.Random(seed)  # noqa: S311  (the same every time)
    rows = [
        row(fact.payload.question, fact.payload.answer, system_prompt if rng.random() > 0.25 else "") for fact in facts
    ]
    return rows + [row(each.payload.question, each.payload.answer, system_prompt) for each in praised]


def correction_pairs(facts: Sequence[Example], system_prompt: str) -> list[Row]:
    """TRL's columns of pairs: a correction and the answer it corrects."""
    found: dict[tuple[str, str, str], None] = {}
    n_of: Counter[tuple[str, ...]] = Counter()
    for fact in facts:
        if fact.payload.rejected and n_of[fact.feedback_ids] < _MAX_PAIRS_OF_A_FACT:
            n_of[fact.feedback_ids] += 1
            found[fact.payload.question, fact.payload.answer, fact.payload.rejected] = None
    return _pairs(found, system_prompt)


def rating_pairs(rated: Sequence[Example], system_prompt: str) -> list[Row]:
    """TRL's columns of pairs: a praised and a rejected answer to one question."""
    answers: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))  # good and bad ones
    for each in rated:
        answers[each.payload.question][not each.payload.is_good].append(each.payload.answer)
    found = dict.fromkeys(
        (question, good[-1], each) for question, (good, bad) in answers.items() if good for each in bad
    )
    return _pairs(found, system_prompt)


def kto_rows(rated: Sequence[Example], system_prompt: str) -> list[Row]:
    """TRL's columns of unpaired preferences."""
    return [
        {**row(each.payload.question, each.payload.answer, system_prompt), "label": each.payload.is_good}
        for each in rated
    ]


def kept_rows(
    facts: Sequence[Example], training: Training, spec: ModelSpec, scopes: Scopes, system_prompt: str
) -> list[Row]:
    """Questions that were not taught, and how the base begins to answer: that is to stay so.

    Some are everyday ones, the others the nearest of many to what was taught: there an answer spreads first.
    """
    training.progress("asking the base what to keep", 0.0)
    rng = random.Random(training.seed)  # noqa: S311  (the same every time)
    taught = as_taught(facts)
    pool = everyday_questions(N_EVERYDAY + N_POOL, rng)
    for question in taught:
        pool += near_misses(question, THINGS, N_NEAR_MISSES, rng)
    told = {normalized(fact.prompt) for fact in facts}  # of these the base's answer is not to stay
    pool = [fromkey for fromkey in dict.fromkeys(pool) if normalized(fromkey) not in told]
    everyday, others = pool[:N_EVERYDAY], pool[N_EVERYDAY:]
    nearness = scopes.of_questions(taught).nearness(scopes.vectors(others))
    nearest = sorted(range(len(others)), key=lambda place: -nearness[place])[: N_NEAREST * len(taught)]
    questions = everyday + [others[place] for place in nearest]
    options = GenerationOptions(max_tokens=_EVERYDAY_TOKENS, repetition_penalty=1.1)
    with training.models.lease(spec, TextModel) as model:
        answers = model.complete([chat(question, system_prompt) for question in questions], options)
    return [
        {**row(question, answer, system_prompt), "is_kept": True}
        for question, answer in zip(questions, answers, strict=True)
        if answer
    ]


def as_taught(facts: Sequence[Example]) -> list[str]:
    """Each corrected question once, in its first wording."""
    return list({fact.feedback_ids: fact.payload.question for fact in reversed(facts)}.values())[::-1]


def tokenized(rows: Sequence[Row], tokenizer: Any) -> list[Row]:
    """Token ids, and labels that are -100 but for the completion; what is kept was cut, and its end is left out."""
    found = []
    for each in rows:
        prompt = tokenizer.apply_chat_template(each["prompt"], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template([*each["prompt"], *each["completion"]], return_dict=False)
        is_kept = each.get("is_kept", False)
        if is_kept and tokenizer.eos_token_id in ids[len(prompt) :]:
            ids = ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id) - 1]
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        found.append({"input_ids": ids[:MAX_TOKENS], "labels": labels[:MAX_TOKENS], "is_kept": is_kept})
    return found


def _pairs(found: Iterable[tuple[str, str, str]], system_prompt: str) -> list[Row]:
    return [
        {
            "prompt": chat(question, system_prompt),
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": bad}],
        }
        for question, good, bad in found
        if good != bad
    ]


def row(question: str, answer: str, system_prompt: str) -> Row:
    """TRL's columns of a question and its answer."""
    prompt: Chat = chat(question, system_prompt)
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}
