"""Dialogue with a small language model: history that fits, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from smallai_assistant import (
    Details,
    GenerationOptions,
    InputTooLarge,
    InvalidInput,
    ItemPart,
    LabelPart,
    ModelRuntime,
    ModelSpec,
    Notice,
    Request,
    Task,
    TextModel,
    TextPart,
    Turn,
)

Messages = list[dict[str, str]]

_LEAST_ANSWER_TOKENS = 64  # room that a prompt must leave


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How the assistant talks.

    Attributes:
        system_prompt: what it is told first, never dropped; empty for none.
        max_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop: see GenerationOptions. A penalty
            a little over 1 keeps the smallest models from repeating themselves.
        max_history_turns: earlier turns that are shown at most, 0 to 1000.
    """

    system_prompt: str = "You are a helpful assistant. Answer briefly."
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_history_turns: int = 50

    def __post_init__(self) -> None:
        self.generation()
        if not 0 <= self.max_history_turns <= 1000:
            raise InvalidInput(f"max_history_turns is {self.max_history_turns}", hint="give 0 to 1000")

    def generation(self) -> GenerationOptions:
        """The part that the model wants."""
        return GenerationOptions(**{each.name: getattr(self, each.name) for each in fields(GenerationOptions)})


class ChatTask(Task):
    """Answers text with text."""

    name = "text-generation"
    title = "talks"
    accepts = (frozenset({"text"}),)
    options_type = ChatOptions

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | Notice | Details]:
        options: ChatOptions = request.options
        names = self.context.model_names
        spec = ModelSpec(names.chat, task=self.name, quantization=names.chat_quantization)
        with models.lease(spec, TextModel) as model:
            messages, notice = fit_messages(request, options, model)
            if notice is not None:
                yield notice
            stream = model.generate(messages, options.generation(), cancel=request.cancel)
            try:
                for delta in stream:
                    yield TextPart(delta)
            finally:
                stream.close()
            facts = stream.facts
            yield Details(
                {
                    "model": str(model.spec),
                    "n_prompt_tokens": facts.n_prompt_tokens,
                    "n_completion_tokens": facts.n_completion_tokens,
                    "stop_reason": facts.stop_reason,
                }
            )
            yield from facts.notices
            if facts.stop_reason == "length":
                yield Notice(
                    "answer_truncated",
                    f"The answer was cut after {facts.n_completion_tokens} tokens: raise max_tokens for more.",
                )


def fit_messages(request: Request, options: ChatOptions, model: TextModel) -> tuple[Messages, Notice | None]:
    """The prompt's messages: the system prompt, as many of the last turns as fit, the question.

    Raises:
        InputTooLarge: system prompt and question alone leave no room for an answer.
    """
    system: Messages = [{"role": "system", "content": options.system_prompt}] if options.system_prompt else []
    question: Messages = [{"role": "user", "content": request.message.text}]
    room = model.context_tokens - min(options.max_tokens, max(_LEAST_ANSWER_TOKENS, model.context_tokens // 4))
    n_alone = model.count_tokens(system + question)
    if n_alone > room:
        raise InputTooLarge(
            f"the message and the system prompt have {n_alone} tokens, {room} fit",
            hint="send less, or use a model with a longer context",
        )
    recent = request.history[max(0, len(request.history) - options.max_history_turns) :]
    pairs = [pair for turn in recent if (pair := _as_chat(turn))]
    kept = _longest_that_fits(system, pairs, question, room, model)
    notice = None
    if n_dropped := len(pairs) - kept:
        notice = Notice(
            "history_truncated",
            f"The oldest {n_dropped} of {len(pairs)} earlier turns no longer fit and were left out.",
        )
    history = [message for pair in pairs[len(pairs) - kept :] for message in pair]
    return system + history + question, notice


def _longest_that_fits(
    system: Messages, pairs: Sequence[Messages], question: Messages, room: int, model: TextModel
) -> int:
    """How many of the last pairs fit, found by halving: counting is cheap, but not free."""
    low, high = 0, len(pairs)
    while low < high:
        middle = (low + high + 1) // 2
        history = [message for pair in pairs[len(pairs) - middle :] for message in pair]
        if model.count_tokens(system + history + question) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _as_chat(turn: Turn) -> Messages | None:
    """An earlier turn of any task as question and answer; None where there is nothing to show."""
    question = turn.request.text.strip() or _described_input(turn)
    answer = turn.text.strip() or _described_answer(turn)
    if not question or not answer:
        return None
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _described_input(turn: Turn) -> str:
    modalities = turn.request.modalities
    return "(a picture)" if "image" in modalities else "(a recording)" if "audio" in modalities else ""


def _described_answer(turn: Turn) -> str:
    names = [part.label for part in turn.response if isinstance(part, LabelPart)]
    names += [part.title for part in turn.response if isinstance(part, ItemPart)]
    return ", ".join(names)
