"""After a rejected answer another one is looked for, and no word is damaged."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from smallai_assistant import GenerationOptions
from smallai_chat.other_answer import OtherAnswer

LONG = "Bees make honey from the nectar of flowers, and they store it in combs of wax for the winter."
OTHER_LONG = "Bees make honey, and wax."


class Script:
    """A stream of given text, one word at a time.

    Attributes:
        n_read: number of words that were asked for.
    """

    def __init__(self, text: str, stop_reason: str = "end") -> None:
        self.text, self.facts = text, SimpleNamespace(stop_reason=stop_reason)
        self.n_read, self.is_closed = 0, False

    def __iter__(self) -> Iterator[str]:
        for word in re.findall(r"\s*\S+", self.text):
            self.n_read += 1
            yield word

    def close(self) -> None:
        self.is_closed = True


class Scripts:
    """Gives the texts in order, attempt by attempt."""

    def __init__(self, *texts: str, stop_reason: str = "end") -> None:
        self.streams = [Script(text, stop_reason) for text in texts]
        self.options: list[GenerationOptions] = []

    def __call__(self, options: GenerationOptions) -> Script:
        self.options.append(options)
        return self.streams[len(self.options) - 1]


def answer(scripts: Scripts, rejected: Sequence[str], cancel: threading.Event | None = None) -> tuple[str, OtherAnswer]:
    found = OtherAnswer(scripts, GenerationOptions(), rejected, cancel or threading.Event())
    return "".join(found), found


def test_without_rejections_text_streams_as_it_comes() -> None:
    scripts = Scripts("It is Paris.")
    stream = iter(OtherAnswer(scripts, GenerationOptions(), (), threading.Event()))
    assert next(stream) == "It"
    assert scripts.streams[0].n_read == 1


@pytest.mark.parametrize(
    "rejected", ["The capital of France is Paris.", "the CAPITAL of France is Paris", "Café, paris"]
)
def test_another_answer_is_given_whole(rejected: str) -> None:
    again = "Cafe\u0301 Paris!" if rejected.startswith("Café") else "The capital of France is Paris."
    text, found = answer(Scripts(again, again, "It is Paris."), [rejected])
    assert (text, found.is_repeated) == ("It is Paris.", False)
    assert found.stream.facts.stop_reason == "end"


def test_same_answer_is_given_honestly_if_there_is_no_other() -> None:
    scripts = Scripts(*["The capital of France is Paris."] * 4)
    text, found = answer(scripts, ["The capital of France is Paris."])
    assert (text, found.is_repeated) == ("The capital of France is Paris.", True)
    assert found.stream is scripts.streams[0]
    assert [options.temperature for options in scripts.options] == [0.0, 0.7, 0.7, 0.7]
    assert len({options.seed for options in scripts.options}) == 4


def test_long_answer_is_dropped_after_its_first_words() -> None:
    scripts = Scripts(LONG, OTHER_LONG)
    text, found = answer(scripts, [LONG])
    assert (text, found.is_repeated) == (OTHER_LONG, False)
    assert scripts.streams[0].n_read == 13
    assert scripts.streams[0].is_closed
    repeated, found = answer(Scripts(*[LONG] * 5), [LONG])
    assert (repeated, found.is_repeated) == (LONG, True)


def test_longer_or_shorter_answer_is_another() -> None:
    assert answer(Scripts("Paris is the capital."), ["Paris."])[0] == "Paris is the capital."
    assert answer(Scripts("Paris."), ["Paris is the capital."])[0] == "Paris."


def test_answer_that_was_cut_is_no_other() -> None:
    cut = Scripts("The capital of", "Paris.", stop_reason="length")
    assert answer(cut, ["The capital of France is Paris."])[0] == "Paris."


def test_each_of_several_rejections_counts() -> None:
    text, found = answer(Scripts("Apple", "Pear", "Plum"), ["apple.", "pear."])
    assert (text, found.is_repeated) == ("Plum", False)


def test_cancelled_search_ends() -> None:
    cancel = threading.Event()
    cancel.set()
    scripts = Scripts("The cap")
    assert answer(scripts, ["The capital of France is Paris."], cancel)[0] == "The cap"
    assert len(scripts.options) == 1


def test_answer_without_words_is_not_compared() -> None:
    assert answer(Scripts("🙂"), ["🙂"])[0] == "🙂"
