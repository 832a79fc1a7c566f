"""Makes a follow-up question whole: after "How many legs has a spider?", "And an ant?" is "How many legs has an ant?".

A rule does it. A follow-up begins with "and" or "what about", or has a pronoun or a possessive and hardly a word of its
own. In the first case its words replace the last ones with an article, or the last word, in the question before; in the
second those replace the pronoun: after "Who is our plumber?", "What is his number?" is "What is our plumber's number?".
A question that is whole stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from smallai_assistant import Request, Turn
from smallai_chat.question_words import Question, language_of, read

# How a follow-up begins, by language.
_BEGINNINGS = {
    "en": r"and what about|and how about|what about|how about|and for|and",
    "de": r"und was ist mit|was ist mit|und wie steht es mit|und bei|und für|und",
    "fr": r"et qu'en est-il de|et pour|et",
    "es": r"y qué hay de|y qué tal|qué hay de|y para|y",
    "zh": r"那么|那|还有",
    "ja": r"それでは|では|じゃあ|そして",
    "ko": r"그러면|그럼|그리고",
    "hi": r"और",
    "ar": r"وماذا عن|ماذا عن|و(?= )|و",
    "ru": r"а что насчёт|а|и",
}
_PRONOUNS = {
    "en": r"\b(it|he|she|they|him|them|there)\b",
    "de": r"\b(er|sie|es|ihn|ihm|dort|dahin)\b",
    "fr": r"\b(il|elle|ils|elles|y|là-bas)\b",
    "es": r"\b(él|ella|ellos|ellas|allí|ahí)\b",
    "ru": r"\b(он|она|оно|они|там|туда)\b",
    "ar": r"\b(هناك)\b",
    "hi": r"(?<!\S)(वहाँ|वहां|वह|वे)(?!\S)",
    "ko": r"(거기|그곳)",
    "zh": r"(那里|那儿|它|他|她)",
    "ja": r"(そこ|それ|あそこ)",
}
# Possessives and what takes their place; {subject} is what they stand for, \1 the noun behind them.
_POSSESSIVES = {
    "en": (r"\b(?:his|her|its|their)\s+(?=\w)", r"{subject}'s "),
    "de": (r"\b(?:sein|seine[mnrs]?|ihre?[mnrs]?)\s+([A-ZÄÖÜ]\w+)", r"\1 von {subject}"),
    "fr": (r"\b(?:son|sa|ses|leurs)\s+(\w+)", r"\1 de {subject}"),
    "es": (r"\b(?:su|sus)\s+(\w+)", r"\1 de {subject}"),
    "ru": (r"\b(?:его|её|ее|их)\s+(\w+)", r"\1 {subject}"),
}
_ARTICLES = {
    "en": r"\b(?:an?|the|my|your|our|his|her|their)\b",
    "de": r"\b(?:eine?[mnrs]?|der|die|das|den|dem|des|mein\w*|unser\w*)\b",
    "fr": r"(?:\b(?:une?|le|la|les|mon|ma|mes|notre|nos)\b|\bl')",
    "es": r"\b(?:una?|el|la|los|las|mi|mis|nuestr\w+)\b",
}
# A follow-up with more content words than this says by itself what it is about.
_MAX_OWN_WORDS = 3
_END = " ?？.!。؟"


# Details of a turn: the question as it was made whole, if that is not how it was asked.
WHOLE_QUESTION = "whole_question"
_MAX_TURNS_BEFORE = 4


def question_of(turn: Turn) -> str:
    """Returns what a stored turn asked, made whole when it was asked."""
    whole = turn.details.get(WHOLE_QUESTION)
    return " ".join((whole if isinstance(whole, str) else turn.request.text).split())


def question_in(request: Request) -> str:
    """Returns what a request asks, made whole from the turns before it."""
    before = [question_of(turn) for turn in request.history[-_MAX_TURNS_BEFORE:]]
    return whole_question(request.message.text, [question for question in before if question])


def whole_question(question: str, before: Sequence[str]) -> str:
    """Returns the question as somebody would ask it who had asked nothing before.

    Args:
        question: the question.
        before: the questions before it in the conversation, oldest first.
    """
    if not before:
        return question
    earlier = whole_question(before[-1], before[:-1])
    language = language_of(question, earlier)
    text = question.strip().lstrip("¿")
    begin = re.match(rf"(?:{_BEGINNINGS.get(language, '(?!)')})(?!\w)[,、，]?\s*|(?:那|و)(?=\w)", text, re.IGNORECASE)
    rest = text[begin.end() :].strip(_END) if begin else ""
    own = read(rest or text, language)
    n_own = len(own.words) + len(own.values)
    pronoun = re.search(_PRONOUNS.get(language, "(?!)"), rest or text, re.IGNORECASE)
    subject = _subject(earlier, language)
    if pronoun and subject and n_own <= _MAX_OWN_WORDS:
        asked = rest or text
        at = pronoun.span(1)
        return asked[: at[0]] + subject + asked[at[1] :]
    possessive, replacement = _POSSESSIVES.get(language, ("(?!)", ""))
    if subject and n_own <= _MAX_OWN_WORDS and (found := re.search(possessive, rest or text)):
        asked, by_name = rest or text, found.expand(replacement).format(subject=subject)
        return asked[: found.start()] + by_name + asked[found.end() :]
    if begin and rest and (of_same_kind := _same_kind(own, read(earlier, language), earlier)):
        return earlier.replace(of_same_kind, next(word for word in reversed(re.findall(r"\S+", rest))))
    if begin and rest and subject and n_own <= _MAX_OWN_WORDS and not own.aspects:
        at_subject = earlier.rindex(subject)
        return earlier[:at_subject] + rest + earlier[at_subject + len(subject) :]
    return question


def _same_kind(own: Question, earlier: Question, text: str) -> str:
    """Returns the word of the question before that names another day, month or the like than the follow-up does."""
    kinds = own.values.keys() & earlier.values.keys()
    if own.words or len(kinds) != 1:
        return ""
    (kind,) = kinds
    return next(
        (word for word in re.findall(r"[^\s?？]+", text) if kind in read(word, earlier.language).values),
        "",
    )


def _subject(question: str, language: str) -> str:
    """Returns the words of a whole question that a follow-up replaces; empty if there are none."""
    bare = question.strip(_END + "¿")
    found = read(bare, language)
    with_article = list(re.finditer(_ARTICLES.get(language, "(?!)"), bare, re.IGNORECASE))
    if with_article:
        begin = with_article[-1].start()
        last = with_article[-1].end()
        # Behind "is", the rest is one name: "Where is the Lisbon office?". Elsewhere a verb may follow.
        behind_is = re.search(r"\b(is|are|was|were|ist|sind|war|est|sont|es|está)\s*$", bare[:begin], re.IGNORECASE)
        phrase = re.match(r"\s*[\w'-]+(?:\s+[\w'-]+)?$|\s*[\w'-]+" if behind_is else r"\s*[\w'-]+", bare[last:])
        return str(bare[begin : last + phrase.end()]) if phrase else ""
    words = [word for word in re.findall(r"\S+", bare) if read(word, language).words]
    if words and bare.split()[0] != bare:
        # The subject comes first in Korean and Hindi, whose sentences end in the verb.
        return str(words[0] if language in {"ko", "hi", "ar"} else words[-1])
    return found.words[0] if found.words and found.words[0] in bare else ""
