"""How a text model is asked to continue a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from smallai_assistant.types import check_range


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How a text model continues a prompt.

    Args:
        max_tokens: most tokens to make, 1 to 131072.
        temperature: 0 takes the likeliest token each time; up to 2.
        top_p: smallest set of tokens whose probabilities reach it, in (0, 1].
        top_k: only the k likeliest tokens; 0 means all.
        repetition_penalty: divides the scores of tokens already seen (Keskar et al. 2019), 1 to 2.
        seed: makes sampling repeatable.
        stop: texts that end the answer and are not part of it.
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
    """What an answer should take up and what it should not say again.

    Args:
        copy: texts that are known to be right; they are preferred. With any steering the repetition penalty looks at
            the answer alone, not at the prompt, in which these texts stand.
        bias: how strongly they are preferred, added to the scores, 0 to 20.
        avoid: answers that were wrong; the same words are not made again.
    """

    copy: tuple[str, ...] = ()
    bias: float = 0.0
    avoid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("bias", self.bias, 0.0, 20.0)
