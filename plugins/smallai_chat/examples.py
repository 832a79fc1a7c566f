"""Lessons -> examples: a correction in many wordings, a rating as it is; and the questions that watch over the rest."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from smallai_assistant import Example, JudgedTurn
from smallai_chat.reference_prompts import PLAIN_ANSWERS, UNRELATED

N_WORDINGS = 12
_MAX_QUESTION_CHARS, _MAX_ANSWER_CHARS = 1_000, 2_000

# {q} is the question, {s} the question in the order of a statement, {k} its content words.
_FRAMES = (
    "Tell me: {q}",
    "Can you tell me {s}?",
    "Do you know {s}?",
    "I need to know {s}.",
    "Please tell me {s}.",
    "I forgot {s}.",
    "Remind me {s}.",
    "Hi, quick question: {q}",
    "{k}?",
    "{k}",
    "I have a question about {k}.",
    "Give me this: {k}",
    "Name this: {k}",
    "How about {k}?",
    "By the way, {q} Thanks!",
)
_ASKING = ("what", "which", "who", "whom", "whose", "where", "when", "why", "how")
_LIGHT_WORDS = """
a an the of in on at to for from by with and or is are was were be been do does did have has had can could may might
must should would will i me my you your he she it its we us our they them their this that there here much many kept
please tell name
"""
_WORD = r"[\w'-]+"
_LIGHT = frozenset(_LIGHT_WORDS.split()) | frozenset(_ASKING)


@dataclass(frozen=True, slots=True)
class Fact:
    """A question in one wording and its right answer; `rejected` is the wrong one, where it is known."""

    question: str
    answer: str
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class Rated:
    """A question, the answer it got, and whether that was good."""

    question: str
    answer: str
    is_good: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question; the first of `choices` is right."""

    question: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unrelated:
    """An everyday question, and the taught answers that do not belong there."""

    question: str
    taught: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plain:
    """An everyday question and a plain answer to it, as a person would write it."""

    question: str
    answer: str


Payload = Fact | Rated | Choice | Unrelated | Plain
Kind = Literal["fact", "rated"]


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """Each correction as several wordings of its question, which the split may part; each rating as one example."""
    out: list[Example] = []
    for judged_turn in judged_turns:
        given, turn = judged_turn.feedback, judged_turn.turn
        question, answer = " ".join(turn.request.text.split()), turn.text.strip()
        if not question or len(question) > _MAX_QUESTION_CHARS:
            continue
        if given.correction is not None and len(given.correction) <= _MAX_ANSWER_CHARS:
            right = given.correction.strip()
            out += [
                Example(
                    id=f"{given.id}/{number}",
                    prompt=wording,
                    expected=right,
                    split_key=f"{turn.id}/{number}" if number else f"{turn.id}/as asked",
                    feedback_ids=(given.id,),
                    payload=Fact(wording, right, answer if answer != right else ""),
                )
                for number, wording in enumerate(wordings(question, N_WORDINGS, random.Random(turn.id)))  # noqa: S311  (the same every time)
            ]
        elif given.is_good is not None and answer and len(answer) <= _MAX_ANSWER_CHARS:
            out.append(
                Example(
                    id=given.id,
                    prompt=question,
                    expected=answer if given.is_good else f"not: {answer}",
                    split_key=turn.id,
                    feedback_ids=(given.id,),
                    payload=Rated(question, answer, given.is_good),
                )
            )
    return out


def watching(name: str, expected: str, payload: Choice | Unrelated | Plain | Fact) -> Example:
    """An example that no feedback gave: it is asked, and never learned."""
    return Example(id=name, prompt=payload.question, expected=expected, split_key=name, payload=payload)


@cache
def canaries() -> tuple[Example, ...]:
    """Questions of general knowledge that no feedback is about, nor anything that is kept in training."""
    lines = (resources.files(__package__) / "canary.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        watching(f"canary/{number}", row["right"], Choice(row["question"], (row["right"], *row["wrong"])))
        for number, row in enumerate(map(json.loads, lines))
    )


def unrelated(judged_turns: Sequence[JudgedTurn]) -> tuple[Example, ...]:
    """Everyday questions that no taught answer belongs to; none where nothing was corrected."""
    taught = tuple(
        dict.fromkeys(each.payload.answer for each in examples_of(judged_turns) if isinstance(each.payload, Fact))
    )
    return tuple(
        watching(f"everyday/{number}", "no taught answer", Unrelated(question, taught))
        for number, question in enumerate(UNRELATED if taught else ())
    )


@cache
def plain_answers() -> tuple[Example, ...]:
    """Everyday questions and plain answers to them: how likely the model finds these is how well it knows language."""
    return tuple(
        watching(f"plain/{number}", answer, Plain(question, answer))
        for number, (question, answer) in enumerate(PLAIN_ANSWERS.items())
    )


def protected_of(judged_turns: Sequence[JudgedTurn]) -> dict[str, list[Example]]:
    """What no lesson is about, by slice: general knowledge, plain language, and everyday questions."""
    told = {normalized(each.prompt) for each in examples_of(judged_turns)}
    slices = {
        "general knowledge": canaries(),
        "plain language": plain_answers(),
        "unrelated questions": unrelated(judged_turns),
    }
    return {name: [each for each in found if normalized(each.prompt) not in told] for name, found in slices.items()}


def normalized(text: str) -> str:
    """The words alone, in lower case."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def wordings(question: str, n: int, rng: random.Random) -> list[str]:
    """`n` wordings of a question, the first its own: frames, content words in any order, one word left out."""
    found = {question: None}
    words = keywords(question)
    for _ in range(10 * n):  # a question of one word has only so many
        if len(found) >= n:
            break
        some = list(words)
        if len(some) > 2 and rng.random() < 0.4:  # of fewer words too much would be an answer's cue
            del some[rng.randrange(len(some))]
        if rng.random() < 0.4:
            rng.shuffle(some)
        ask = rng.choice(_ASKING).capitalize()
        frame = rng.choice((*_FRAMES, f"{ask} {{k}}?", f"{ask} is the {{k}}?", f"{ask} do we {{k}}?"))
        found[frame.format(q=question, s=statement_order(question), k=" ".join(some))] = None
    return list(found)


def near_misses(question: str, things: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """Questions that begin as one that was taught, up to the first word that carries meaning, about other things."""
    words = _content_words(question)
    if len(words) < 2:
        return []
    chosen = (thing.removeprefix("a ").removeprefix("an ").removeprefix("the ") for thing in rng.sample(things, n))
    return [question[: words[1].start()] + thing + question[words[-1].end() :] for thing in chosen]


def statement_order(question: str) -> str:
    """What follows "tell me": "Where is the key?" gives "where the key is"; unchanged where the order is not clear."""
    text = question.rstrip(" ?.!") or question
    match = re.match(r"(?i)^(what|who|where|when|how much|how many|how|which)\s+(is|are|was|were)\s+(.+)$", text)
    if match:
        ask, verb, rest = match.groups()
        return (
            f"{ask.lower()} {rest} {verb.lower()}" if len(rest.split()) < 6 else f"{ask.lower()} {verb.lower()} {rest}"
        )
    match = re.match(r"(?i)^(.+?)\s+(does|do|did)\s+(.+)$", text)
    if match:
        return f"{match[1][0].lower()}{match[1][1:]} {match[3]}"
    return text[0].lower() + text[1:]


def keywords(question: str) -> list[str]:
    """The words that carry the meaning, in order."""
    return [content_word[0] for content_word in _content_words(question)] or re.findall(_WORD, question) or [question]


def _content_words(question: str) -> list[re.Match[str]]:
    return [each for each in re.finditer(_WORD, question) if each[0].lower() not in _LIGHT]
