"""Answers what people ask the assistant about itself: its name, its maker, its model, where it runs, what it can do.

A small language model makes these up ("I was created by OpenAI"), and the program knows them. Only the questions of
`identity.toml` are answered here, word by word: nothing is computed for other questions, and none is taken for one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from smallai_chat.words import question_key

_KINDS = ("who", "maker", "model", "place", "able")
_MAX_CHARS = 200  # of a question with its greeting


@dataclass(frozen=True, slots=True)
class Self:
    """What the assistant knows about itself.

    Attributes:
        persona: its name, and what it is, such as "Ada, the assistant of the library".
        model: the language model's name.
        tasks: the tasks that are loaded: name -> title.
    """

    persona: str
    model: str
    tasks: Mapping[str, str]


def about_itself(question: str, known: Self) -> str:
    """Answers a question about the assistant itself; empty if it is about something else."""
    if len(question) > _MAX_CHARS:
        return ""
    language, kind = _questions().get(_plain(question), ("", ""))
    if not kind:
        return ""
    texts = _texts()[language]
    tasks = [texts["tasks"].get(name, title or name) for name, title in known.tasks.items()]
    comma = "、" if language == "zh" else "، " if language == "ar" else ", "
    values = {"persona": known.persona, "model": known.model, "tasks": comma.join(tasks)}
    return re.sub(r"\{(\w+)\}", lambda name: values[name[1]], texts[f"say_{kind}"])


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "identity.toml").read_text(encoding="utf-8"))


@cache
def _questions() -> dict[str, tuple[str, str]]:
    """Each question in its plain form -> its language and kind."""
    return {
        _plain(question): (language, kind)
        for language, texts in _texts().items()
        for kind in _KINDS
        for question in texts[kind]
    }


@cache
def _greeting() -> re.Pattern[str]:
    words = sorted((word for texts in _texts().values() for word in texts["greetings"]), key=len, reverse=True)
    return re.compile(rf"^(?:{'|'.join(map(re.escape, words))})(?:[\s,.!:;，。！、،]+|(?=[一-鿿]))")


def _plain(question: str) -> str:
    """The question without case, greetings, and the punctuation around it."""
    text = question_key(question).replace("’", "'").strip(" ?.!¿¡？。！؟।,:")
    while (shorter := _greeting().sub("", text, count=1)) != text and shorter:
        text = shorter.strip(" ?.!¿¡？。！؟।,:")
    return text
