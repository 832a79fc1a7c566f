"""Turns judged turns into examples, and defines the protected questions that training must not make worse.

A correction becomes one example for each of several wordings of its question; a rating becomes one example. All
wordings of a question are one subject, whether they were made here or by the person who corrected.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from smallai_assistant import Example, JudgedTurn, Turn
from smallai_chat.follow_up import question_of
from smallai_chat.reference_prompts import HELD_OUT_ANSWERS, HELD_OUT_QUESTIONS
from smallai_chat.words import content_words, normalized, overlap, question_key

# The components of a version, see `Example.component`: what corrections taught, and what ratings taught.
CORRECTIONS, RATINGS = "corrections", "ratings"
# In the details of a turn: the stop text of the caller that ended the answer, and is not part of it.
STOP_TEXT = "stop_text"
# Wordings of a corrected question, the original included: enough for both sides of the split.
N_WORDINGS = 8
_HELD_OUT_ONE_IN = 4
# A question and an answer of these lengths fit into one training row (`dataset.MAX_TOKENS`).
_MAX_QUESTION_CHARS, _MAX_ANSWER_CHARS = 1_000, 2_000
# Two corrected questions with the same answer are one subject if they share more than this part of their content words.
# "Who runs the bakery?" and "Who runs the mill?" share half of them.
_MAX_SHARED_BY_TWO_SUBJECTS = 0.5

# {q} stands for the question, {s} for the question in statement order, {k} for its content words.
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
_QUESTION_WORDS = ("what", "which", "who", "whom", "whose", "where", "when", "why", "how")
# Words that carry little meaning: they are left out of {k}, and kept when a question is turned into a near miss.
_STOP_WORDS_TEXT = """
a an the of in on at to for from by with and or is are was were be been do does did have has had can could may might
must should would will i me my you your he she it its we us our they them their this that there here much many kept
please tell name
"""
_WORD = r"[\w'-]+"
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split()) | frozenset(_QUESTION_WORDS)


@dataclass(frozen=True, slots=True)
class Fact:
    """A corrected question in one wording.

    Attributes:
        answer: the correction.
        asked: the question as it was asked; empty if this is that wording.
    """

    question: str
    answer: str
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Rated:
    """A question, the answer it got, and whether a person rated it good.

    Attributes:
        is_cut: whether the answer ended because its tokens were used up, so that nothing can be learned from its end.
    """

    question: str
    answer: str
    is_good: bool
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question. The first of `choices` is right."""

    question: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeakCheck:
    """An everyday question, and the taught answers that must not turn up in its answer."""

    question: str
    taught: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An everyday question and a plain answer to it. The answer's likelihood measures general language ability."""

    question: str
    answer: str


Payload = Fact | Rated | Choice | LeakCheck | PlainAnswer


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """Returns the examples of corrections and ratings, in the order of the judged turns.

    The result is a function of the judged turns: the split and a resumed training depend on that. Turns without text,
    and turns with texts over the limits, have no examples.
    """
    out: list[Example] = []
    subjects = _Subjects()
    for judged_turn in judged_turns:
        given, turn = judged_turn.feedback, judged_turn.turn
        question, answer = question_of(turn), turn.text.strip()
        if not question or len(question) > _MAX_QUESTION_CHARS:
            continue
        if given.correction is not None and len(given.correction) <= _MAX_ANSWER_CHARS:
            right = given.correction.strip()
            # Some wordings are held out: the evaluation measures whether the model knows the fact in wordings that it
            # was not trained on. What was asked itself is always learned.
            rng = random.Random(turn.id)  # noqa: S311  (reproducible, not secret)
            subject = subjects.of_correction(question, right)
            out += [
                Example(
                    id=f"{given.id}/{number}",
                    prompt=wording,
                    expected=right,
                    split_key=f"{turn.id}/{number}",
                    feedback_ids=(given.id,),
                    payload=Fact(wording, right, question),
                    subject=subject,
                    component=CORRECTIONS,
                ).on_side(held_out=number % _HELD_OUT_ONE_IN == 1)
                for number, wording in enumerate(wordings(question, N_WORDINGS, rng))
            ]
        elif given.is_good is not None and answer and len(answer) <= _MAX_ANSWER_CHARS:
            out.append(
                Example(
                    id=given.id,
                    prompt=question,
                    expected=answer if given.is_good else f"not: {answer}",
                    split_key=turn.id,
                    feedback_ids=(given.id,),
                    payload=_rated(question, turn, given.is_good),
                    subject=question_key(question),
                    component=RATINGS,
                )
            )
    return out


def _rated(question: str, turn: Turn, is_good: bool) -> Rated:
    """Returns a rated answer as the model made it.

    A stop text such as ". " takes the mark of the last sentence with it. Praised answers without that mark would teach
    the model to end its sentences without one (docs/decisions.md, 40).
    """
    mark = str(turn.details.get(STOP_TEXT, "")).strip()
    return Rated(question, turn.text.strip() + mark, is_good, turn.details.get("stop_reason") == "length")


class _Subjects:
    """Finds out which corrections are about the same thing."""

    def __init__(self) -> None:
        self._of_answer: defaultdict[str, dict[str, frozenset[str]]] = defaultdict(dict)

    def of_correction(self, question: str, answer: str) -> str:
        """Returns the subject of a corrected question: an earlier one if it has the same answer and similar words."""
        known, words = self._of_answer[normalized(answer) or answer], content_words(question)
        subject = question_key(question)
        if subject not in known:
            same = (other for other, its in known.items() if overlap(words, its) > _MAX_SHARED_BY_TWO_SUBJECTS)
            subject = next(same, subject)
        known.setdefault(subject, words)
        return subject


def held_out_example(name: str, expected: str, payload: Choice | LeakCheck | PlainAnswer | Fact) -> Example:
    """Returns an example that comes from no feedback: it is evaluated and never trained on."""
    return Example(id=name, prompt=payload.question, expected=expected, split_key=name, payload=payload)


@cache
def canaries() -> tuple[Example, ...]:
    """Returns multiple-choice questions of general knowledge. No training row contains one of them."""
    lines = (resources.files(__package__) / "canary.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        held_out_example(f"canary/{number}", row["right"], Choice(row["question"], (row["right"], *row["wrong"])))
        for number, row in enumerate(map(json.loads, lines))
    )


def leak_checks(judged_turns: Sequence[JudgedTurn]) -> tuple[Example, ...]:
    """Returns everyday questions to which no taught answer belongs; empty if nothing was corrected."""
    taught = tuple(
        dict.fromkeys(
            example.payload.answer for example in examples_of(judged_turns) if isinstance(example.payload, Fact)
        )
    )
    return tuple(
        held_out_example(f"everyday/{number}", "no taught answer", LeakCheck(question, taught))
        for number, question in enumerate(HELD_OUT_QUESTIONS if taught else ())
    )


@cache
def plain_answers() -> tuple[Example, ...]:
    """Returns everyday questions with plain answers, whose likelihood measures general language ability."""
    return tuple(
        held_out_example(f"plain/{number}", answer, PlainAnswer(question, answer))
        for number, (question, answer) in enumerate(HELD_OUT_ANSWERS.items())
    )


def own_questions() -> frozenset[str]:
    """Returns the questions of the protected slices, which no person asked."""
    return frozenset(example.payload.question for example in (*canaries(), *plain_answers())) | {*HELD_OUT_QUESTIONS}


def protected_of(judged_turns: Sequence[JudgedTurn]) -> dict[str, list[Example]]:
    """Returns the protected slices by name: general knowledge, plain language and unrelated questions.

    A question that somebody corrected or rated is left out: its answer is supposed to change.
    """
    judged = {normalized(example.prompt) for example in examples_of(judged_turns)}
    slices = {
        "general knowledge": canaries(),
        "plain language": plain_answers(),
        "unrelated questions": leak_checks(judged_turns),
    }
    return {
        name: [example for example in examples if normalized(example.prompt) not in judged]
        for name, examples in slices.items()
    }


def wordings(question: str, n: int, rng: random.Random) -> list[str]:
    """Returns up to `n` different wordings of a question, the question itself first.

    A wording puts the question, or its content words in another order, into a frame. It keeps all content words: with
    one of them left out it may be another question.
    """
    found = {question: None}
    words = keywords(question)
    for _ in range(10 * n):  # bounded: a question of one word has few wordings
        if len(found) >= n:
            break
        chosen = list(words)
        if rng.random() < 0.4:
            rng.shuffle(chosen)
        ask = rng.choice(_QUESTION_WORDS).capitalize()
        frame = rng.choice((*_FRAMES, f"{ask} {{k}}?", f"{ask} is the {{k}}?", f"{ask} do we {{k}}?"))
        found[frame.format(q=question, s=statement_order(question), k=" ".join(chosen))] = None
    return list(found)


def near_misses(question: str, topics: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """Returns `n` questions that begin like the given one and ask about other topics; empty if it is too short.

    The first content word is kept and everything from the second to the last content word is replaced. Taught answers
    leak into such questions first, so training holds them to the base.
    """
    words = _content_words(question)
    if len(words) < 2:
        return []
    chosen = (topic.removeprefix("a ").removeprefix("an ").removeprefix("the ") for topic in rng.sample(topics, n))
    return [question[: words[1].start()] + topic + question[words[-1].end() :] for topic in chosen]


def statement_order(question: str) -> str:
    """Returns the question as it follows "tell me": "Where is the key?" becomes "where the key is".

    A question whose word order is not recognized keeps it and begins in lower case.
    """
    text = question.rstrip(" ?.!") or question
    match = re.match(r"(?i)^(what|who|where|when|how much|how many|how|which)\s+(is|are|was|were)\s+(.+)$", text)
    if match:
        ask, verb, rest = match.groups()
        # After a long subject the verb would come too late to be understood.
        return (
            f"{ask.lower()} {rest} {verb.lower()}" if len(rest.split()) < 6 else f"{ask.lower()} {verb.lower()} {rest}"
        )
    match = re.match(r"(?i)^(.+?)\s+(does|do|did)\s+(.+)$", text)
    if match:
        return f"{match[1][0].lower()}{match[1][1:]} {match[3]}"
    return text[0].lower() + text[1:]


def keywords(question: str) -> list[str]:
    """Returns the content words in order; all words, or the whole text, if there are none."""
    return [content_word[0] for content_word in _content_words(question)] or re.findall(_WORD, question) or [question]


def _content_words(question: str) -> list[re.Match[str]]:
    return [match for match in re.finditer(_WORD, question) if match[0].lower() not in _STOP_WORDS]
