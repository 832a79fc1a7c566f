"""Looks for another answer to a question whose earlier answers were rejected.

Nothing is forbidden to the model while it decodes. If a token may not come next, the next best one may damage a word:
"The capital ofFrance". Instead the text is held back as long as it could become a rejected answer, and dropped if it
does. Then the model is sampled a few times. If every sample repeats a rejected answer, the model is sure of it: the
same answer is given, and the caller is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event
from typing import Any, Literal, Protocol

from smallai_assistant import GenerationOptions
from smallai_chat.words import normalized

# An answer repeats a rejected one if its first words are the same: the whole answer need not be waited for.
_MAX_COMPARED_WORDS = 12
# Samples after the first attempt. Each costs the time of some words, or of a whole answer if that is short.
_N_SAMPLES = 3
# Tried on twelve everyday questions: at 0.8 and 0.9 the 0.5B model said that the sky is yellow. The tail of unlikely
# tokens is cut off, so that a fact of which the model is sure is repeated instead.
_TEMPERATURE, _TOP_P = 0.7, 0.8


class Stream(Protocol):
    """The text deltas of an answer, and the facts about it; see `TextModel.generate`."""

    facts: Any

    def __iter__(self) -> Iterator[str]: ...

    def close(self) -> None: ...


class OtherAnswer:
    """Streams an answer that does not repeat a rejected one, if the model finds one.

    Args:
        generate: begins an answer.
        rejected: the answers that should not be given again; without any, the first attempt is streamed as it comes.
        cancel: ends the search when it is set.

    Attributes:
        stream: the stream whose text was given.
        is_repeated: whether a rejected answer was given again, because no other was found.
    """

    def __init__(
        self,
        generate: Callable[[GenerationOptions], Stream],
        options: GenerationOptions,
        rejected: Sequence[str],
        cancel: Event,
    ) -> None:
        self._generate, self._options, self._cancel = generate, options, cancel
        self._rejected = [words for answer in rejected if (words := normalized(answer).split())]
        self.stream = generate(options)
        self.is_repeated = False

    def __iter__(self) -> Iterator[str]:
        """Yields the text deltas.

        Raises:
            ModelError: see `TextModel.generate`.
        """
        first: Stream = self.stream
        whole = ""  # of the first attempt, if it was not cut short
        for attempt in range(1 + _N_SAMPLES):
            if attempt:
                self.stream = self._generate(self._sampled(attempt))
            held, verdict = "", self._compared("")
            for delta in self.stream:
                if verdict == "other":
                    yield delta
                    continue
                held += delta
                verdict = self._compared(held)
                if verdict == "other":
                    yield held
                elif verdict == "repeats":
                    break
            else:
                if verdict == "open":
                    verdict = self._compared(held, is_cut=self.stream.facts.stop_reason == "length", has_ended=True)
                    if verdict == "other" or self._cancel.is_set():
                        if held:
                            yield held
                        return
                    whole = whole or (held if attempt == 0 else "")
            self.stream.close()
            if verdict == "other":
                return
        self.is_repeated = True
        self.stream = first
        if whole:
            yield whole
            return
        # The first attempt was dropped after its first words, so it is generated once more.
        self.stream = self._generate(self._options)
        yield from self.stream

    def close(self) -> None:
        """Stops the computation."""
        self.stream.close()

    def _sampled(self, attempt: int) -> GenerationOptions:
        """Returns options for another attempt."""
        options = self._options
        return replace(
            options,
            temperature=max(_TEMPERATURE, options.temperature),
            top_p=min(_TOP_P, options.top_p),
            # A fixed seed, so that the same question has the same answer.
            seed=(options.seed or 0) + attempt,
        )

    def _compared(
        self, text: str, *, has_ended: bool = False, is_cut: bool = False
    ) -> Literal["other", "open", "repeats"]:
        """Compares the text so far with the rejected answers.

        Args:
            has_ended: whether nothing more comes.
            is_cut: whether the answer ended because it was too long.

        Returns:
            `open` while the text may still become a rejected answer.
        """
        so_far = normalized(text)
        words = so_far.split()
        is_open = False
        for rejected in self._rejected:
            compared = rejected[:_MAX_COMPARED_WORDS]
            is_long = len(rejected) > _MAX_COMPARED_WORDS
            # The last word of a text that goes on may be half a word, so it is not compared yet.
            if is_long and words[: len(compared)] == compared and (has_ended or len(words) > len(compared)):
                return "repeats"
            # A short answer is repeated by the same words and no more.
            if has_ended and (words == rejected or (is_cut and words == rejected[: len(words)])):
                return "repeats"
            is_open |= not has_ended and " ".join(rejected).startswith(so_far)
        return "open" if is_open else "other"
