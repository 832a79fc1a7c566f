"""What goes into the decoding of a window and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallai_assistant import Adapter

if TYPE_CHECKING:
    from smallai_speech.vocabulary import Vocabulary

WINDOW_S = 30.0  # length of the encoder's input; shorter sound is padded
TIME_STEP_S = 0.02  # between two of Whisper's time tokens


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How a window is decoded.

    Args:
        language: a code such as `en`; the model must know it.
        prompt: text that precedes the recording, which sets names and style.
        said: the tokens of the windows before, time stamps included; the last are used if there is no room for all.
        beam_size: hypotheses kept in the search at temperature 0; 1 is greedy.
        temperature: 0 searches; a higher one samples `beam_size` texts and keeps the best.
        word_timestamps: align every word.
        vocabulary: words of the user, which replace what was heard if the model finds that they were meant.
        adapter: LoRA weights to compute with; None for the bare base.
    """

    language: str
    prompt: str = ""
    said: tuple[int, ...] = ()
    beam_size: int = 5
    temperature: float = 0.0
    word_timestamps: bool = False
    vocabulary: Vocabulary | None = None
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens from one time stamp to the next, both included, and their times in seconds."""

    tokens: list[int]
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its times in seconds from the start of the window."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text between two time stamps of the model, in seconds from the start of the window.

    Attributes:
        tokens: of the text, with its time stamps.
    """

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoding of one window.

    Attributes:
        consumed_s: how far the text goes; less than the window if the model broke off at a time stamp.
        avg_logprob: mean natural logarithm of the tokens' probabilities.
        no_speech_prob: the model's probability that nobody speaks.
        compression_ratio: bytes of the text over bytes of it zipped; repetition makes it large.
        repairs: (what was heard, the word of the vocabulary that was put there), in order.
        text: all that the model wrote, with what follows its last time stamp and is decoded again in the next window.
        has_ended: whether the model ended the text; False if it wrote on until there was no room for more.
    """

    pieces: tuple[Piece, ...]
    consumed_s: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    repairs: tuple[tuple[str, str], ...] = ()
    text: str = ""
    has_ended: bool = True


class Stopped(Exception):
    """The caller's cancel event was set while a window was being decoded."""


def cut_at_times(tokens: list[int], first_time: int, window_s: float) -> tuple[list[Run], float]:
    """Cuts a window's tokens into runs, by the rules of whisper's own `transcribe`.

    Time tokens count in steps of 0.02 s from `first_time`. Two in a row end one run and begin the next. A single one at
    the end says that no speech follows in the window.

    Returns:
        The runs, and how far they reach, in seconds.
    """

    def at(token: int) -> float:
        return min((token - first_time) * TIME_STEP_S, window_s)

    is_time = [token >= first_time for token in tokens]
    pairs = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]
    ends_alone = is_time[-2:] == [False, True]
    if not pairs:
        times = [token for token in tokens if token > first_time]
        start_s = at(tokens[0]) if is_time[:1] == [True] else 0.0
        return [Run(tokens, start_s, at(times[-1]) if times else window_s)], window_s
    # What follows the last pair without a closing time stamp is incomplete: the next window decodes it again.
    cuts = [*pairs, len(tokens)] if ends_alone else pairs
    runs = [tokens[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]
    consumed_s = window_s if ends_alone else at(tokens[cuts[-1] - 1])
    return [Run(run, at(run[0]), at(run[-1])) for run in runs], consumed_s


def with_text(run: Run, text: str, tokenizer: Any) -> Run:
    """The run with another text between its time stamps."""
    times = [token for token in run.tokens if token >= tokenizer.timestamp_begin]
    head = times[:1] if run.tokens[0] >= tokenizer.timestamp_begin else []
    tail = times[-1:] if len(run.tokens) > 1 and run.tokens[-1] >= tokenizer.timestamp_begin else []
    # disallowed_special=(): words that look like a control token are encoded as plain text.
    return Run([*head, *tokenizer.encode(text, disallowed_special=()), *tail], run.start_s, run.end_s)


def piece_of(segment: dict[str, Any], text: str, tokens: Sequence[int]) -> Piece:
    """A piece from a segment in whisper's form, with its words if they were aligned."""
    words = tuple(
        Word(word["word"], float(word["start"]), float(word["end"]), float(word["probability"]))
        for word in segment.get("words", ())
    )
    return Piece(text, float(segment["start"]), float(segment["end"]), words, tuple(tokens))
