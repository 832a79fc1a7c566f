"""The task `text-generation`: streamed dialogue with a small language model that learns from corrections and ratings.

A prompt is built from the system prompt, as much history as fits, and the entries of the fast memory that resemble the
question. An adapter, if one serves, supplies trained weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

from smallai_assistant import (
    Adapter,
    AssistantError,
    Details,
    EmbeddingModel,
    Example,
    GenerationOptions,
    InvalidInput,
    ItemPart,
    JudgedTurn,
    LabelPart,
    LearningTask,
    ModelRuntime,
    ModelSpec,
    Notice,
    Request,
    Score,
    TaskContext,
    TextModel,
    TextPart,
    Training,
    Turn,
    errors,
)
from smallai_chat.calibration import Calibration
from smallai_chat.evaluation import BaseAnswers, evaluate
from smallai_chat.examples import CORRECTIONS, STOP_TEXT, examples_of, protected_of
from smallai_chat.follow_up import WHOLE_QUESTION, question_in
from smallai_chat.identity import Self, about_itself
from smallai_chat.memory import ChatMemory, Retrieved, entry_of
from smallai_chat.other_answer import OtherAnswer, Stream
from smallai_chat.question_words import language_of
from smallai_chat.scope import Route, Scopes

Messages = list[dict[str, str]]

# The smallest reserve for the answer: in a context below 256 tokens a quarter would be too short.
_MIN_ANSWER_TOKENS = 64
_MAX_QUOTED_CHARS = 60  # of a question or answer, in a message to the user
DEFAULT_PERSONA, _MAX_PERSONA_CHARS = "Smallai", 500


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Options of dialogue.

    Attributes:
        system_prompt: the first message of every prompt; history never displaces it. Empty for none.
        persona: the assistant's name, and what it is, such as "Ada, the assistant of the library". It says so if it is
            asked, and another name than the default begins the system prompt, too.
        max_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop: see GenerationOptions. A penalty
            slightly above 1 keeps the smallest models from repeating themselves.
        max_history_turns: maximum number of earlier turns in the prompt, 0 to 1000.
        use_memory: whether corrected and praised turns that resemble the question are put into the prompt.

    Raises:
        InvalidInput: a value is out of range.
    """

    system_prompt: str = "You are a helpful assistant. Answer briefly."
    persona: str = DEFAULT_PERSONA
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_history_turns: int = 50
    use_memory: bool = True

    def __post_init__(self) -> None:
        self.generation()
        if not 0 < len(self.persona.strip()) <= _MAX_PERSONA_CHARS:
            raise InvalidInput(f"a persona of {len(self.persona):,} characters", hint=f"give 1 to {_MAX_PERSONA_CHARS}")
        if not 0 <= self.max_history_turns <= 1000:
            raise InvalidInput(f"max_history_turns is {self.max_history_turns}", hint="give 0 to 1000")

    def generation(self) -> GenerationOptions:
        """Returns the options that the model takes."""
        return GenerationOptions(**{field.name: getattr(self, field.name) for field in fields(GenerationOptions)})

    @property
    def whole_system_prompt(self) -> str:
        """The system prompt with the persona, if it is not the default one."""
        if self.persona == DEFAULT_PERSONA:
            return self.system_prompt
        return f"You are {self.persona.strip().rstrip('.')}. {self.system_prompt}".strip()


class ChatTask(LearningTask):
    """Answers text with text. Learns from corrections and ratings."""

    name = "text-generation"
    title = "talks"
    accepts = (frozenset({"text"}),)
    options_type = ChatOptions
    primary_metric = "right answers"
    min_examples = 4
    honours_audiences = True
    has_personal_versions = True

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self._vectors: dict[str, Any] = {}  # sentence vectors of corrected questions, for the memories of all people
        self._base_answers = BaseAnswers()
        self._calibration = Calibration()
        self._told_languages: set[str] = set()  # in which a notice said that only the same words are found again
        self.memories = context.memory_per_audience(
            lambda: ChatMemory(self._lease_embedding, self._vectors, self._calibration)
        )
        self.scopes = Scopes(self._lease_embedding, lambda: context.models.base_of(self._embedding()))

    def run(self, request: Request, models: ModelRuntime) -> Iterator[TextPart | Notice | Details]:
        options: ChatOptions = request.options
        question = question_in(request)
        route, notices = self._route(question, request.audiences)
        adapter = route.adapter
        yield from notices
        memory = self.memories.of(request.audiences)
        retrieved = Retrieved()
        if options.use_memory:
            try:
                retrieved = memory.retrieve(question)
            except AssistantError as error:
                # An answer without the memory is better than no answer.
                yield Notice("memory_unavailable", f"What was learned a moment ago was not used: {error}")
        yield from self._words_only_notice(question, retrieved)
        if not retrieved.because and (told := self._about_itself(request, adapter)):
            yield TextPart(told)
            yield Details({"recalled": [], "stop_reason": "stop"})
            return
        with models.lease(self.spec, TextModel) as model:
            # What is shown from the memory may be newer than the weights: then the question stays as it is.
            asked = route.question if route.question != question and not retrieved.shown else None
            messages, notice = fit_messages(request, options, model, memory=memory, retrieved=retrieved, asked=asked)
            if notice is not None:
                yield notice

            def generate(generation: GenerationOptions) -> Stream:
                return model.generate(
                    messages, generation, cancel=request.cancel, adapter=adapter, steering=retrieved.steering
                )

            answer = OtherAnswer(generate, options.generation(), retrieved.rejected, request.cancel)
            try:
                for delta in answer:
                    yield TextPart(delta)
            finally:
                # A caller that stops reading closes this generator at a `yield`; the model must stop computing then.
                answer.close()
            if answer.is_repeated:
                yield Notice("no_other_answer", "You rejected this answer before; the model found no other one.")
            facts = answer.stream.facts
            yield Details(
                {
                    "model": str(model.spec),
                    "adapter": adapter.id if adapter is not None else None,
                    "part": adapter.part_name if adapter is not None else "",
                    "because": list(retrieved.because),
                    # Stored turns and callers know this key, so it keeps its name.
                    "recalled": [entry.feedback_id for entry in retrieved.shown],
                    **({WHOLE_QUESTION: question} if question != request.message.text else {}),
                    "n_prompt_tokens": facts.n_prompt_tokens,
                    "n_completion_tokens": facts.n_completion_tokens,
                    "stop_reason": facts.stop_reason,
                    **({STOP_TEXT: facts.stop_text} if facts.stop_text else {}),
                }
            )
            yield from facts.notices
            if facts.stop_reason == "length":
                yield Notice(
                    "answer_truncated",
                    f"The answer was cut after {facts.n_completion_tokens} tokens: raise max_tokens for more.",
                )

    def _about_itself(self, request: Request, adapter: Adapter | None) -> str:
        """Answers a question about the assistant, unless a version learned it; empty for every other message."""
        is_taught = adapter is not None and self.scopes.has_scope(adapter) and adapter.part_name in ("", CORRECTIONS)
        if request.is_bare or is_taught:
            return ""
        options: ChatOptions = request.options
        known = Self(options.persona, str(self.spec), self.context.titles())
        return about_itself(request.message.text, known)

    def _words_only_notice(self, question: str, retrieved: Retrieved) -> list[Notice]:
        """Returns a notice, once for each language, if the embedding model knows no meaning in it."""
        language = language_of(question)
        if not retrieved.unknown_language or language in self._told_languages:
            return []
        self._told_languages.add(language)
        text = (
            "The embedding model does not understand the language of this question. What was taught is used only for "
            "questions with the same words."
        )
        return [Notice("memory_by_words", text)]

    @property
    def spec(self) -> ModelSpec:
        """The configured chat model."""
        names = self.context.model_names
        engine = None if names.chat_engine == "auto" else names.chat_engine
        return ModelSpec(names.chat, task=self.name, quantization=names.chat_quantization, engine=engine)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        self.memories.add(judged_turn)
        entry = entry_of(judged_turn)
        if entry is None:
            return ""
        # The receipt says what holds from now on, and no more; the tests ask again.
        if entry.is_correction:
            question, answer = _short(entry.question), _short(entry.answer)
            return f"When something like “{question}” is asked, the model is shown “{answer}” as the answer."
        if entry.answer:
            return "When something like it is asked, the model is shown this answer as an example."
        return "When the same is asked again, the model looks for another answer, and says so if it finds none."

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self._vectors = {}  # some may be of questions that were erased
        self.memories.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        return self.context.models.base_of(self.spec)

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return examples_of(judged_turns)

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> Mapping[str, Sequence[Example]]:
        return protected_of(judged_turns)

    def train(self, training: Training) -> str:
        from smallai_chat.training import train

        options: ChatOptions = self.context.options
        return train(training, self.spec, self.scopes, system_prompt=options.whole_system_prompt)

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        prompt = self.context.options.whole_system_prompt
        questions = list(dict.fromkeys(example.payload.question for example in examples))
        # Each question is evaluated with the weights that would answer it in service: corrections, ratings or base.
        routes = dict(zip(questions, self.scopes.routes(adapter, questions), strict=True))
        with models.lease(self.spec, TextModel) as model:
            known = self._base_answers.of((json.dumps(self.base(), sort_keys=True), prompt))
            return evaluate(examples, model, adapter, system_prompt=prompt, routes=routes, known=known)

    def _route(self, question: str, audiences: frozenset[str]) -> tuple[Route, list[Notice]]:
        """Returns how the question is answered, and a notice if an adapter is unusable."""
        adapter, notices = self.serving(audiences)
        unusable = []
        for version in adapter.chain if adapter is not None else ():
            try:
                self.scopes.check(version)
            except AssistantError as error:
                unusable.append(version.id)
                notices.append(_not_used(error))
        adapter = adapter.without(unusable) if adapter is not None else None
        try:
            (route,) = self.scopes.routes(adapter, [question])
        except AssistantError as error:
            return Route(None, question), [*notices, _not_used(error)]
        return route, notices

    def _embedding(self) -> ModelSpec:
        return ModelSpec(self.context.model_names.embedding, task="feature-extraction")

    def _lease_embedding(self) -> AbstractContextManager[EmbeddingModel]:
        return self.context.models.lease(self._embedding(), EmbeddingModel)


def _not_used(error: AssistantError) -> Notice:
    return Notice("adapter_not_used", f"What was learned was not used: {error}")


def fit_messages(
    request: Request,
    options: ChatOptions,
    model: TextModel,
    *,
    memory: ChatMemory | None = None,
    retrieved: Retrieved | None = None,
    asked: str | None = None,
) -> tuple[Messages, Notice | None]:
    """Builds the prompt: system prompt, as many of the last turns as fit, retrieved entries, question.

    Args:
        memory: supplies the corrected answers of earlier turns; None to show the turns as they were.
        retrieved: entries of the fast memory to show as question and answer.
        asked: the question in other words, to ask in the place of the message; None for the message itself.

    Returns:
        The messages, and a notice if turns of the history were left out.

    Raises:
        InputTooLarge: the system prompt and the question alone leave no room for an answer.
    """
    system: Messages = (
        [{"role": "system", "content": options.whole_system_prompt}] if options.whole_system_prompt else []
    )
    shown = [
        message
        for entry in reversed(retrieved.shown if retrieved else ())
        for message in _as_messages(entry.question, entry.answer)
    ]
    # Retrieved entries go right before the question, the best match last: small models copy best from what is nearest.
    question: Messages = [*shown, {"role": "user", "content": asked or request.message.text}]
    # At most a quarter of the context is reserved for the answer, so that a large `max_tokens` leaves room for history.
    room = model.context_tokens - min(options.max_tokens, max(_MIN_ANSWER_TOKENS, model.context_tokens // 4))
    n_required = model.count_tokens(system + question)
    if n_required > room:
        raise errors.InputTooLarge(
            f"the message and the system prompt have {n_required} tokens, {room} fit",
            hint="send less, or use a model with a longer context",
        )
    recent = request.history[max(0, len(request.history) - options.max_history_turns) :]
    pairs = [pair for turn in recent if (pair := _as_dialogue(turn, memory))]
    n_kept = _n_turns_that_fit(system, pairs, question, room, model)
    notice = None
    if n_dropped := len(pairs) - n_kept:
        notice = Notice(
            "history_truncated",
            f"The oldest {n_dropped} of {len(pairs)} earlier turns no longer fit and were left out.",
        )
    history = [message for pair in pairs[len(pairs) - n_kept :] for message in pair]
    return system + history + question, notice


def _n_turns_that_fit(
    system: Messages, pairs: Sequence[Messages], question: Messages, room: int, model: TextModel
) -> int:
    """Returns how many of the last turns fit into `room` tokens."""
    # Bisection, because counting tokenizes the whole prompt and there may be 1000 turns.
    low, high = 0, len(pairs)
    while low < high:
        middle = (low + high + 1) // 2
        history = [message for pair in pairs[len(pairs) - middle :] for message in pair]
        if model.count_tokens(system + history + question) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _as_dialogue(turn: Turn, memory: ChatMemory | None) -> Messages | None:
    """Returns an earlier turn of any task as question and answer; None if one of the two is empty.

    A corrected turn is shown with its correction. A turn whose answer was rejected has no answer to show.
    """
    question = turn.request.text.strip() or _described_input(turn)
    answer = turn.text.strip() or _described_answer(turn)
    entry = memory.of_turn(turn.id) if memory is not None else None
    if entry is not None:
        answer = entry.answer
    return _as_messages(question, answer) if question and answer else None


def _as_messages(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _short(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED_CHARS else text[: _MAX_QUOTED_CHARS - 3] + "..."


def _described_input(turn: Turn) -> str:
    # The chat model reads no pictures or recordings; a placeholder keeps the order of question and answer intact.
    modalities = turn.request.modalities
    return "(a picture)" if "image" in modalities else "(a recording)" if "audio" in modalities else ""


def _described_answer(turn: Turn) -> str:
    """Returns the labels and item titles of an answer without text."""
    names = [part.label for part in turn.response if isinstance(part, LabelPart)]
    names += [part.title for part in turn.response if isinstance(part, ItemPart)]
    return ", ".join(names)
