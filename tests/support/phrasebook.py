"""A learning task without a model that has versions for one person: a table of answers, each over the one below."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from smallai_assistant import (
    Adapter,
    Assistant,
    AssistantConfig,
    Details,
    Example,
    JudgedTurn,
    LearningTask,
    Request,
    Score,
    TaskContext,
    TextPart,
    Training,
)
from smallai_assistant.learning_config import LearningConfig
from support.corrections import examples_of
from support.echo_learner import OWN_PLUGINS, Phrases
from support.scripted import ScriptedPlugin

NAME = "phrasebook"
UNKNOWN = "I do not know"
FILE = "table.json"


class Phrasebook(LearningTask):
    """Answers what was taught about the last word of a question, from the fast memory or from a version.

    Args:
        at_training: called at the beginning of each training.
    """

    name: ClassVar[str] = NAME
    title: ClassVar[str] = "looks phrases up"
    primary_metric: ClassVar[str] = "exact answers"
    honours_audiences: ClassVar[bool] = True
    has_personal_versions: ClassVar[bool] = True

    def __init__(self, *, at_training: Callable[[], object] = lambda: None) -> None:
        self.at_training = at_training

    def setup(self, context: TaskContext) -> None:
        super().setup(context)
        self.memories = context.memory_per_audience(Phrases)

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        adapter, notices = self.serving(request.audiences)
        yield from notices
        heard = request.message.text
        remembered = self.memories.of(request.audiences).answers.get(heard)
        said, version = (remembered, None) if remembered else looked_up(heard, adapter)
        yield Details({"adapter": version.id if version is not None else None})
        yield TextPart(said)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        if judged_turn.feedback.correction is None:
            return ""
        self.memories.add(judged_turn)
        return f"{judged_turn.turn.request.text!r} is answered with {judged_turn.feedback.correction!r} from now on"

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.memories.replace(judged_turns)

    def base(self) -> Mapping[str, Any]:
        return {"model": "paper"}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return examples_of(judged_turns)

    def train(self, training: Training) -> str:
        self.at_training()
        examples = [*training.replay, *training.examples]
        (training.folder / FILE).write_text(json.dumps({word_of(found.prompt): found.expected for found in examples}))
        return "table"

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: Any) -> list[Score]:
        answers = [looked_up(example.prompt, adapter)[0] for example in examples]
        return [Score(float(said == example.expected), said) for example, said in zip(examples, answers, strict=True)]


def word_of(text: str) -> str:
    return text.split()[-1]


def looked_up(text: str, adapter: Adapter | None) -> tuple[str, Adapter | None]:
    """The answer of the first version of the chain that was taught one, and that version."""
    for version in adapter.chain if adapter is not None else ():
        if (said := json.loads((version.folder / FILE).read_text()).get(word_of(text))) is not None:
            return said, version
    return UNKNOWN, None


def open_phrasebook(folder: Path, task: Phrasebook | None = None, **learning: Any) -> Assistant:
    """Opens an assistant with a phrasebook and nothing else."""
    options = LearningConfig(**learning)
    config = AssistantConfig(data_dir=folder, device="cpu", disabled_plugins=OWN_PLUGINS, learning=options)
    return Assistant(config, plugins=[ScriptedPlugin(task or Phrasebook())])


def teach(assistant: Assistant, user: str | None, words: Mapping[str, str], **given: Any) -> list[str]:
    """Teaches words, each by four questions: some of the words are then on both sides of the split.

    Returns:
        The ids of the feedback.
    """
    return [
        assistant.ask(f"{way} {word}", task=NAME, user_id=user).rate(correction=answer, **given).feedback.id
        for word, answer in words.items()
        for way in ("say", "tell me", "what is", "explain", "define", "name")
    ]


def ask(assistant: Assistant, user: str | None, text: str, groups: tuple[str, ...] = ()) -> str:
    return assistant.session(user, groups=groups).send(text, task=NAME).text


def version_for(assistant: Assistant, user: str | None, text: str, groups: tuple[str, ...] = ()) -> str | None:
    """The id of the version that answers."""
    return assistant.session(user, groups=groups).send(text, task=NAME).turn.adapter
