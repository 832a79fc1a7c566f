"""Counts the words of a text.

A plugin imports only from the root of `smallai_assistant`. It imports heavy libraries inside the functions that use
them, because all plugins are imported at every start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smallai_assistant import Details, InvalidInput, ModelRuntime, Request, Task, TextPart, hookimpl


@dataclass(frozen=True, slots=True)
class WordCountOptions:
    """Options, from `[tasks.word-count]` in the configuration or from the caller.

    Args:
        top: how many of the most frequent words to name, 0 to 100.

    Raises:
        InvalidInput: `top` is out of range.
    """

    top: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.top <= 100:
            raise InvalidInput(f"top is {self.top}", hint="give 0 to 100")


class WordCountTask(Task):
    """Counts the words of the message."""

    name = "word-count"
    title = "count words"
    # What people type when they want this task. The router sends messages that resemble these here. About twenty
    # varied ones are enough.
    utterances = (
        "count the words in this text",
        "how many words are in this",
        "word count please",
        "what is the word count of this paragraph",
        "count words",
        "number of words in this sentence",
        "tell me how many words I wrote",
        "how long is this text in words",
        "is this under five hundred words",
        "which words occur most often here",
        "what are the most frequent words in this text",
        "give me the top words of this article",
        "word frequency of this passage",
        "list the words I use most",
        "how often does each word appear",
        "do I repeat any words in this",
        "count how many times words are used",
        "total words in my essay",
        "can you count the words below",
        "length of this letter in words, please",
    )
    options_type = WordCountOptions

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | Details]:
        """Streams the count and then the most frequent words."""
        words = request.message.text.split()
        yield TextPart(f"{len(words)} words")
        common = Counter(word.casefold().strip(".,;:!?\"'()") for word in words).most_common(request.options.top)
        for number, (word, count) in enumerate(common):
            if request.cancel.is_set():  # the caller closed the answer, so stop working
                return
            yield TextPart(f"{', most often ' if number == 0 else ', '}{word} ({count})")
        yield Details({"n_words": len(words)})


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    """Registers the task. The assistant calls this once at its start."""
    register(WordCountTask())
