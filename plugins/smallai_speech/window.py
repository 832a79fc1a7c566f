"""What goes into the decoding of a window and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallai_assistant import Adapter

if TYPE_CHECKING:
    from smallai_speech.vocabulary import Vocabulary

WINDOW_S = 30.0  # what the encoder takes, no more and no less

Run = tuple[list[int], float, float]  # tokens between two time stamps, both included; start and end in seconds


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How a window becomes words.

    Args:
        language: a code such as `en`; the model must know it.
        prompt: text that precedes the recording, which sets names and style.
        beam_size: hypotheses kept in the search at temperature 0; 1 is greedy.
        temperature: 0 searches, above samples and keeps the best of `beam_size`.
        word_timestamps: align every word.
        vocabulary: words of the user, put right where the model finds that they were meant.
        adapter: LoRA weights to compute with; None for the bare base.
    """

    language: str
    prompt: str = ""
    beam_size: int = 5
    temperature: float = 0.0
    word_timestamps: bool = False
    vocabulary: Vocabulary | None = None
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its times in seconds from the start of the window."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text between two time stamps of the model, in seconds from the start of the window."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the model made of a window.

    Attributes:
        consumed_s: how far the text goes; less than the window where the model broke off at a time stamp.
        avg_logprob: mean natural logarithm of the tokens' probabilities.
        no_speech_prob: the model's probability that nobody speaks.
        compression_ratio: bytes of the text over bytes of it zipped; repetition makes it large.
        repairs: (what was heard, the word of the vocabulary that was put there), in order.
    """

    pieces: tuple[Piece, ...]
    consumed_s: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    repairs: tuple[tuple[str, str], ...] = ()


class Stopped(Exception):
    """The caller's cancel event was set while a window was being decoded."""


def cut_at_times(tokens: list[int], first_time: int, window_s: float) -> tuple[list[Run], float]:
    """Token runs with start and end in seconds, and how far they reach; the rules of whisper's `transcribe`.

    Time tokens count in steps of 0.02 s from `first_time`. Two in a row end one run and begin the next; a lone one at
    the end says that nothing follows in the window.
    """

    def at(token: int) -> float:
        return min((token - first_time) * 0.02, window_s)

    is_time = [token >= first_time for token in tokens]
    pairs = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]
    ends_alone = is_time[-2:] == [False, True]
    if not pairs:
        times = [token for token in tokens if token > first_time]
        return [
            (tokens, at(tokens[0]) if is_time[:1] == [True] else 0.0, at(times[-1]) if times else window_s)
        ], window_s
    cuts = [*pairs, len(tokens)] if ends_alone else pairs
    runs = [tokens[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]
    consumed_s = window_s if ends_alone else at(tokens[cuts[-1] - 1])
    return [(run, at(run[0]), at(run[-1])) for run in runs], consumed_s


def retold(tokens: list[int], text: str, tokenizer: Any) -> list[int]:
    """A run's tokens with another text between its time stamps."""
    times = [t for t in tokens if t >= tokenizer.timestamp_begin]
    head = times[:1] if tokens[0] >= tokenizer.timestamp_begin else []
    tail = times[-1:] if len(tokens) > 1 and tokens[-1] >= tokenizer.timestamp_begin else []
    return [*head, *tokenizer.encode(text, disallowed_special=()), *tail]


def piece_of(segment: dict[str, Any], text: str) -> Piece:
    words = tuple(
        Word(each["word"], float(each["start"]), float(each["end"]), float(each["probability"]))
        for each in segment.get("words", ())
    )
    return Piece(text, float(segment["start"]), float(segment["end"]), words)
