"""The options of text generation, and the steering by what was learned a moment ago."""

from __future__ import annotations

from dataclasses import dataclass

from smallai_assistant.validation import check_range


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How a text model continues a prompt.

    Args:
        max_tokens: the maximum number of tokens to generate, 1 to 131072.
        temperature: 0 to 2; 0 always takes the most likely token (greedy decoding).
        top_p: samples from the smallest set of tokens whose probabilities sum to it, in (0, 1] (Holtzman et al. 2020).
        top_k: samples from the k most likely tokens; 0 means all.
        repetition_penalty: lowers the scores of tokens that occurred before (Keskar et al. 2019), 1 to 2.
        seed: makes sampling repeatable; None takes another seed for every answer.
        stop: texts that end the answer. They are not part of it.

    Raises:
        InvalidInput: a value is out of range.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("max_tokens", self.max_tokens, 1, 131_072)
        check_range("temperature", self.temperature, 0.0, 2.0)
        check_range("top_p", self.top_p, 1e-6, 1.0)
        check_range("top_k", self.top_k, 0, 1_000_000)
        check_range("repetition_penalty", self.repetition_penalty, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Steering:
    """Texts that an answer should contain.

    With steering, the repetition penalty looks at the answer alone: the texts to copy are in the prompt, and their
    words must not be punished for that.

    Args:
        copy: texts that are known to be right. Their tokens get a higher score.
        bias: how much is added to those scores (logits), 0 to 20.

    Raises:
        InvalidInput: the bias is out of range.
    """

    copy: tuple[str, ...] = ()
    bias: float = 0.0

    def __post_init__(self) -> None:
        check_range("bias", self.bias, 0.0, 20.0)
